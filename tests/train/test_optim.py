"""Adam is MindSpore's own, AdamW and clipping are their formulas, and the rate rises and falls as told."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from cellfm.config import ModelConfig, TrainConfig
from cellfm.model._parameters import parameter_shapes
from cellfm.train._optim import Adam, decays, learning_rate, relative_rate, sum_of_squares

SHAPES = {"layer.weight": (3, 4), "embed.gene": (5, 2), "norm.gamma": (4,), "skip": (1, 1)}
N_STEPS = 5


def start() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def gradients() -> list[dict[str, np.ndarray]]:
    """One for each step, of different sizes."""
    generator = np.random.default_rng(1)
    return [
        {
            name: (generator.standard_normal(shape) * 3**i).astype(np.float32)
            for i, (name, shape) in enumerate(SHAPES.items())
        }
        for _ in range(N_STEPS)
    ]


def scalar(number: float) -> ms.Tensor:
    return ms.Tensor(np.float32(number))


def run(config: TrainConfig) -> tuple[dict[str, np.ndarray], Adam]:
    """Weights after some steps of ours."""
    parameters = {name: ms.Parameter(ms.Tensor(array), name=name) for name, array in start().items()}
    optimizer = Adam(parameters, config)
    for step, grads in enumerate(gradients()):
        grads = tuple(ms.Tensor(array) for array in grads.values())
        norms = tuple((grad * grad).sum() ** 0.5 for grad in grads)
        powers = (config.beta1 ** (step + 1), config.beta2 ** (step + 1))
        optimizer.construct(grads, norms, scalar(learning_rate(config, step)), *map(scalar, powers))
    return {name: parameter.asnumpy() for name, parameter in parameters.items()}, optimizer


def naive(config: TrainConfig) -> dict[str, np.ndarray]:
    """Weights after some steps, straight from the definitions, in float64."""
    weights = {name: array.astype(float) for name, array in start().items()}
    m, v = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    for t, grads in enumerate(gradients(), start=1):
        rate = learning_rate(config, t - 1)
        total = np.sqrt(sum((array.astype(float) ** 2).sum() for array in grads.values()))
        for name, array in grads.items():
            g, w = array.astype(float), weights[name]
            norm = {"tensor": np.linalg.norm(g), "global": total, "none": 0.0}[config.clip]
            if norm > config.clip_norm:
                g = g * config.clip_norm / norm
            decay = config.weight_decay if name == "layer.weight" else 0.0
            if config.optimizer == "adam":
                g = g + decay * w
            else:
                w = w - rate * decay * w
            m[name] = config.beta1 * m[name] + (1 - config.beta1) * g
            v[name] = config.beta2 * v[name] + (1 - config.beta2) * g**2
            m_hat, v_hat = m[name] / (1 - config.beta1**t), v[name] / (1 - config.beta2**t)
            weights[name] = w - rate * m_hat / (np.sqrt(v_hat) + config.epsilon)
    return weights


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_that_of_mindspore(weight_decay):
    config = TrainConfig(clip="none", weight_decay=weight_decay, learning_rate=0.03, schedule="constant")
    theirs = {name: ms.Parameter(ms.Tensor(array), name=name) for name, array in start().items()}
    groups = [
        {"params": [theirs["layer.weight"]], "weight_decay": weight_decay},
        {"params": [theirs[name] for name in SHAPES if name != "layer.weight"], "weight_decay": 0.0},
        {"order_params": list(theirs.values())},
    ]
    optimizer = nn.Adam(groups, learning_rate=0.03, beta1=0.9, beta2=0.95, eps=1e-8)
    for grads in gradients():
        optimizer(tuple(ms.Tensor(array) for array in grads.values()))
    for name, found in run(config)[0].items():
        np.testing.assert_allclose(found, theirs[name].asnumpy(), atol=1e-6, rtol=0, err_msg=name)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("clip", ["tensor", "global", "none"])
def test_update_is_that_of_the_formulas(optimizer, clip):
    config = TrainConfig(
        steps=N_STEPS, optimizer=optimizer, clip=clip, clip_norm=2.0, weight_decay=0.3, learning_rate=0.05
    )
    expected = naive(config)
    for name, found in run(config)[0].items():
        # A first step of Adam does not depend on the size of a gradient, but the moments of several do.
        np.testing.assert_allclose(found, expected[name], atol=2e-5, rtol=0, err_msg=name)


def test_options_change_the_update():
    base = {"learning_rate": 0.05, "clip_norm": 2.0, "weight_decay": 0.3}
    variants = [
        run(TrainConfig(**base | other))[0]
        for other in ({}, {"clip": "global"}, {"clip": "none"}, {"optimizer": "adamw"})
    ]
    for i, one in enumerate(variants):
        for other in variants[:i]:
            assert np.abs(one["layer.weight"] - other["layer.weight"]).max() > 1e-4


def test_small_gradients_are_not_clipped():
    base = {"clip_norm": 1e6, "learning_rate": 0.05}
    plain = run(TrainConfig(**base, clip="none"))[0]
    for clip in ("tensor", "global"):
        for name, found in run(TrainConfig(**base, clip=clip))[0].items():
            np.testing.assert_allclose(found, plain[name], atol=1e-7)


def test_state_is_named_after_the_parameters():
    state = run(TrainConfig())[1].state()
    assert state.keys() == {f"{moment}.{name}" for moment in ("moment1", "moment2") for name in SHAPES}
    assert all(np.abs(parameter.asnumpy()).max() > 0 for parameter in state.values())
    assert not any(parameter.requires_grad for parameter in state.values())


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


def test_sum_of_squares():
    norms = tuple(scalar(number) for number in (3, 4, 12))
    assert float(sum_of_squares(norms)) == 169


def test_tables_decoders_and_heads_have_rates_of_their_own():
    config = TrainConfig(gene_rate=2.0, decoder_rate=3.0, head_rate=5.0, other_rate=0.5)
    names = ("embed.gene", "gene_decoder.inner.weight", "head.output.weight", "backbone.layers.0.norm1.gamma")
    assert [relative_rate(name, config) for name in names] == [2.0, 3.0, 5.0, 0.5]
