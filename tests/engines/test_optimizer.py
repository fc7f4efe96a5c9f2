"""Adam, AdamW, decay, clipping and rates by group are their formulas in every engine; rates rise and fall as asked."""

import numpy as np
import pytest

from cellfm.config import ModelConfig, TrainConfig
from cellfm.engines import Objective, learning_rate
from cellfm.engines.training import decays, not_frozen, relative_rate
from cellfm.errors import InputError
from cellfm.nn.parameters import parameter_shapes

SHAPES = {
    "backbone.layer.weight": (3, 4),
    "embed.gene": (5, 2),
    "backbone.norm.gamma": (4,),
    "embed.skip": (1, 1),
    "gene_decoder.weight": (2, 3),
    "head.output.weight": (3, 2),
    "backbone.frozen.weight": (2, 2),
}
DECAYING = {"backbone.layer.weight", "gene_decoder.weight", "head.output.weight"}
TRAINED = [name for name in SHAPES if "frozen" not in name]
N_STEPS = 4
BASE = {
    "steps": N_STEPS,
    "learning_rate": 0.05,
    "clip_norm": 2.0,
    "weight_decay": 0.3,
    "epsilon": 1e-3,
    "gene_rate": 2.0,
    "decoder_rate": 0.0,
    "head_rate": 5.0,
    "other_rate": 0.5,
}
VARIANTS = [
    {"optimizer": "adam", "clip": "tensor"},
    {"optimizer": "adam", "clip": "global"},
    {"optimizer": "adamw", "clip": "global"},
    {"optimizer": "adamw", "clip": "none", "warmup_steps": 2},
]


def start() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def gradients() -> list[dict[str, np.ndarray]]:
    """One for each step, of different sizes."""
    generator = np.random.default_rng(1)
    return [
        {name: (generator.standard_normal(SHAPES[name]) * 3**i).astype(np.float32) for i, name in enumerate(TRAINED)}
        for _ in range(N_STEPS)
    ]


def linear(xp, p, arrays, keys):
    """A loss whose gradients are its inputs."""
    total = (arrays[0] * p[TRAINED[0]]).sum()
    for i in range(1, len(TRAINED)):
        total = total + (arrays[i] * p[TRAINED[i]]).sum()
    return total, total.reshape((1,))


def trainer_of(engine, config: TrainConfig, weights=None):
    return engine.trainer(Objective(linear), start() if weights is None else weights, TRAINED, config, dict)


def naive(config: TrainConfig):
    """Weights and moments after the steps, straight from the definitions, in float64."""
    weights = {name: array.astype(float) for name, array in start().items()}
    m, v = ({name: np.zeros(SHAPES[name]) for name in TRAINED} for _ in range(2))
    for t, grads in enumerate(gradients(), start=1):
        total = np.sqrt(sum((array.astype(float) ** 2).sum() for array in grads.values()))
        for name, array in grads.items():
            rate = learning_rate(config, t - 1) * relative_rate(name, config)
            g, w = array.astype(float), weights[name]
            norm = {"tensor": np.linalg.norm(g), "global": total, "none": 0.0}[config.clip]
            if norm > config.clip_norm:
                g = g * config.clip_norm / norm
            decay = config.weight_decay if name in DECAYING else 0.0
            if config.optimizer == "adam":
                g = g + decay * w
            else:
                w = w - rate * decay * w
            m[name] = config.beta1 * m[name] + (1 - config.beta1) * g
            v[name] = config.beta2 * v[name] + (1 - config.beta2) * g**2
            m_hat, v_hat = m[name] / (1 - config.beta1**t), v[name] / (1 - config.beta2**t)
            weights[name] = w - rate * m_hat / (np.sqrt(v_hat) + config.epsilon)
    return weights, m, v


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_updates_are_those_of_the_formulas(engine, variant):
    config = TrainConfig(**BASE | variant)
    trainer = trainer_of(engine, config)
    losses = [trainer([list(grads.values())], step).loss for step, grads in enumerate(gradients())]
    weights, m, v = naive(config)
    found, moments = trainer.weights(), trainer.moments()
    assert found.keys() == SHAPES.keys()
    for name, expected in weights.items():
        np.testing.assert_allclose(found[name], expected, atol=2e-6, rtol=2e-5, err_msg=name)
    for name in ("backbone.frozen.weight", "gene_decoder.weight"):
        np.testing.assert_array_equal(found[name], start()[name], err_msg=name)  # not trained, and of rate 0
    assert moments.keys() == {f"moment{i}.{name}" for i in (1, 2) for name in TRAINED}
    for name in TRAINED:
        np.testing.assert_allclose(moments[f"moment1.{name}"], m[name], rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(moments[f"moment2.{name}"], v[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert losses[0] == pytest.approx(
        sum((grads * start()[name]).sum() for name, grads in gradients()[0].items()), rel=1e-4
    )


def test_small_gradients_are_not_clipped_and_variants_differ(engine):
    ends = []
    for clip, norm in (("none", 1.0), ("tensor", 1e6), ("global", 1e6), ("tensor", 1.0)):
        trainer = trainer_of(engine, TrainConfig(**BASE | {"clip": clip, "clip_norm": norm}))
        trainer([list(gradients()[0].values())], 0)
        trainer([list(gradients()[1].values())], 1)
        ends.append(np.concatenate([array.ravel() for array in trainer.weights().values()]))
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-6)
    np.testing.assert_allclose(ends[2], ends[0], atol=1e-6)
    assert np.abs(ends[3] - ends[0]).max() > 1e-3


def test_a_state_that_is_loaded_goes_on_as_if_nothing_had_happened(engine):
    """Also that of the other engine: weights and moments are arrays by name."""
    config = TrainConfig(**BASE)
    whole, first, second = (trainer_of(engine, config) for _ in range(3))
    batches = [[list(grads.values())] for grads in gradients()]
    for step, batch in enumerate(batches):
        whole(batch, step)
        if step < 2:
            first(batch, step)
    second.load(first.weights() | first.moments())
    for step in (2, 3):
        second(batches[step], step)
    expected = whole.weights() | whole.moments()
    for name, array in (second.weights() | second.moments()).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_embeddings_norms_and_scalars_do_not_decay():
    config = ModelConfig(2, 16, 2, 50, d_value=8, depth_tokens=True, zero_modelling=True, lora_rank=2)
    kept = {name for name in parameter_shapes(config) if not decays(name)}
    norms = {
        f"backbone.layers.{i}.{norm}.{part}"
        for i in (0, 1)
        for norm in ("norm1", "norm2")
        for part in ("gamma", "beta")
    }
    embeddings = {"embed.gene", "embed.cls", "embed.hidden", "embed.zero", "embed.depth"}
    assert kept == norms | embeddings | {"embed.value.skip", "embed.depth_value.skip"}


def test_tables_decoders_and_heads_have_rates_of_their_own():
    config = TrainConfig(gene_rate=2.0, decoder_rate=3.0, head_rate=5.0, other_rate=0.5)
    names = ("embed.gene", "gene_decoder.inner.weight", "head.output.weight", "backbone.layers.0.norm1.gamma")
    assert [relative_rate(name, config) for name in names] == [2.0, 3.0, 5.0, 0.5]


def test_weights_with_a_rate_of_zero_are_not_trained():
    names = ("embed.gene", "gene_decoder.inner.weight", "backbone.layers.0.norm1.gamma")
    assert not_frozen(names, TrainConfig(gene_rate=0.0, other_rate=0.0)) == ["gene_decoder.inner.weight"]
    with pytest.raises(InputError, match="rates of all weights are 0"):
        not_frozen(names, TrainConfig(gene_rate=0.0, other_rate=0.0, decoder_rate=0.0))


def test_rate_rises_and_falls():
    config = TrainConfig(steps=111, warmup_steps=10, learning_rate=0.4, final_rate=0.25)
    rates = [learning_rate(config, step) for step in range(111)]
    np.testing.assert_allclose(rates[:10], 0.4 * np.arange(1, 11) / 10)
    for done in (0, 0.25, 0.5, 1):
        expected = 0.1 + 0.3 * (1 + np.cos(np.pi * done)) / 2
        assert rates[10 + round(100 * done)] == pytest.approx(expected)
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[-1] == pytest.approx(0.25 * 0.4), "the last step has the final rate"


def test_constant_rate_stays():
    config = TrainConfig(steps=20, warmup_steps=4, schedule="constant", learning_rate=0.4)
    np.testing.assert_allclose([learning_rate(config, step) for step in range(20)], [0.1, 0.2, 0.3] + [0.4] * 17)


def test_shortest_runs_have_a_rate():
    for steps, warmup in ((1, 0), (1, 1), (2, 1), (3, 9)):
        config = TrainConfig(steps=steps, warmup_steps=warmup)
        assert all(0 < learning_rate(config, step) <= config.learning_rate for step in range(steps))
