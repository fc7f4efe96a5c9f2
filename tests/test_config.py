"""Configurations refuse what they cannot mean, name the field, and survive JSON and TOML."""

import dataclasses
import math

import pytest

from cellfm.config import MODEL_PRESETS, PUBLISHED, ClusterConfig, ModelConfig, TrainConfig
from cellfm.errors import InputError
from cellfm.nn.parameters import parameter_shapes
from cellfm.train._recipes import PRESETS, read_config

MODEL = {"n_layers": 2, "d_model": 16, "n_heads": 2, "n_genes": 50}
COUNT, LEAST_0 = (0, -1, 1.5, True, "2", None), (-1, 1.5, True, "2", None)
SHARE = (-0.1, 1.1, float("nan"), "half", None, True)
BELOW_1 = (*SHARE, 1)
NOT_NEGATIVE = (-0.1, float("nan"), float("inf"), "1", None, True)
ABOVE_0 = (*NOT_NEGATIVE, 0)
CHOICE = ("other", None, 2, 1.5)
NAME = ("", 3, True)

WRONG_MODEL = {
    **dict.fromkeys(("n_layers", "d_model", "n_heads", "n_genes", "d_value", "max_genes"), COUNT),
    "lora_rank": LEAST_0,
    **dict.fromkeys(("feed_forward", "norm", "retention", "depth_tokens", "zero_modelling"), CHOICE),
}
WRONG_TRAIN = {
    **dict.fromkeys(("steps", "batch_size", "n_chunks", "loss_scale_window", "n_validation"), COUNT),
    **dict.fromkeys(("keep_checkpoints", "log_every", "validate_every", "checkpoint_every"), COUNT),
    "warmup_steps": LEAST_0,
    "random_state": (*LEAST_0, 2**32),
    "train_genes": (0, -1, 1.5, True, "2"),
    **dict.fromkeys(("final_rate", "target_fraction", "hide_fraction"), SHARE),
    **dict.fromkeys(("thin_probability", "panel_probability", "panel_least"), SHARE),
    **dict.fromkeys(("dropout", "beta1", "beta2"), BELOW_1),
    **dict.fromkeys(("gene_weight", "cell_weight", "contrast_weight", "type_weight"), NOT_NEGATIVE),
    **dict.fromkeys(("zero_fraction", "weight_decay", "gene_rate", "decoder_rate"), NOT_NEGATIVE),
    **dict.fromkeys(("head_rate", "other_rate"), NOT_NEGATIVE),
    "refine_steps": (*LEAST_0, 5),  # five steps of refining what no start makes
    "profile_dims": (*LEAST_0, 5),  # five steps of refining what no start makes
    **dict.fromkeys(("learning_rate", "epsilon", "clip_norm", "loss_scale", "contrast_temperature"), ABOVE_0),
    **dict.fromkeys(
        ("schedule", "optimizer", "clip", "precision", "recompute", "start", "shard_optimizer", "shard_weights"), CHOICE
    ),
    "type_column": (*NAME, None),
    "batch_by": NAME,
}
WRONG_CLUSTER = {
    "nodes": ([], "one", [1], [""], ["one", "one"]),
    "workers_per_node": COUNT,
    "port": (*COUNT, 65536),
}


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda **fields: ModelConfig(**(MODEL | fields)), WRONG_MODEL),
        (TrainConfig, WRONG_TRAIN),
        (lambda **fields: ClusterConfig(**({"nodes": ["one", "two"]} | fields)), WRONG_CLUSTER),
    ],
    ids=["model", "train", "cluster"],
)
def test_wrong_value_is_refused_with_the_name_of_its_field(make, wrong):
    fields = {field.name for field in dataclasses.fields(make())}
    assert wrong.keys() == fields, "every field has values that it refuses"
    for field, values in wrong.items():
        for value in values:
            with pytest.raises(InputError, match=rf"\b{field} must be .*, not"):
                make(**{field: value})


def test_heads_divide_the_width():
    with pytest.raises(InputError, match="n_heads must be a divisor of d_model = 16, not 3"):
        ModelConfig(**(MODEL | {"n_heads": 3}))


def test_some_loss_is_asked_for():
    with pytest.raises(InputError, match="gene_weight must be above 0 unless another loss is"):
        TrainConfig(gene_weight=0, cell_weight=0)
    for other in ("cell_weight", "contrast_weight", "type_weight"):
        TrainConfig(**({"gene_weight": 0.0, "cell_weight": 0.0} | {other: 0.5}))


@pytest.mark.parametrize(
    ("kind", "fields", "hint"),
    [
        (TrainConfig, {"learning_rat": 1e-3}, "learning_rate"),
        (TrainConfig, {"batchsize": 3}, "batch_size"),
        (ModelConfig, MODEL | {"n_layer": 2}, "n_layers"),
    ],
)
def test_unknown_field_suggests_the_nearest(kind, fields, hint):
    with pytest.raises(InputError, match=f"has no field .* Did you mean '{hint}'"):
        kind.from_dict(fields)


def test_missing_field_is_named():
    with pytest.raises(InputError, match="n_heads"):
        ModelConfig.from_dict({"n_layers": 2, "d_model": 16, "n_genes": 50})


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(**MODEL, norm="prenorm", lora_rank=3),
        TrainConfig(),
        TrainConfig(train_genes=100, batch_by="source", learning_rate=1e-5),
    ],
)
def test_json_round_trip(config):
    assert type(config).from_json(config.to_json()) == config


@pytest.mark.parametrize(("text", "found"), [("{", "not valid JSON"), ("[1]", "expected a JSON object, found list")])
def test_other_json_is_refused(text, found):
    with pytest.raises(InputError, match=found):
        TrainConfig.from_json(text)


def test_configurations_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().steps = 3


@pytest.mark.parametrize(("published", "n_parameters"), [("80M", 80e6), ("800M", 800e6)])
def test_published_sizes(published, n_parameters):
    total = sum(math.prod(shape) for shape in parameter_shapes(PUBLISHED[published]).values())
    assert total == pytest.approx(n_parameters, rel=0.1)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_whole_configurations(preset):
    model, train = read_config(preset)
    assert model == MODEL_PRESETS[preset]
    assert ModelConfig.from_dict({"n_genes": 100} | model).n_genes == 100
    if preset != "mini":  # the paper's recipe
        paper = (train.learning_rate, train.beta1, train.beta2, train.epsilon, train.weight_decay, train.clip)
        assert paper == (1e-7, 0.9, 0.95, 1e-8, 1e-5, "tensor")
        assert (train.precision, train.loss_scale, train.loss_scale_window) == ("float16", 1.0, 1000)
        assert (train.batch_size, train.optimizer, train.clip_norm) == (128, "adam", 1.0)
        assert ModelConfig.from_dict({"n_genes": 100} | model).max_genes == 2048


def test_nothing_is_the_mini():
    assert read_config(None) == read_config("mini") == read_config({})


def test_toml_is_read(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('preset = "80M"\n[model]\nn_layers = 3\n[train]\nsteps = 7\nlearning_rate = 1e-3\n')
    model, train = read_config(file)
    assert model == MODEL_PRESETS["80M"] | {"n_layers": 3}
    assert (train.steps, train.learning_rate, train.precision) == (7, 1e-3, "float16")
    assert read_config(str(file)) == (model, train)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nstep = 7\n", "Did you mean 'steps'"),
        ("[train]\nsteps = 0\n", "steps must be a whole number above 0, not 0"),
        ("[trian]\nsteps = 7\n", "unknown entry 'trian'"),
        ('preset = "90M"\n', "No preset '90M'; available: mini, 80M, 800M"),
        ("steps = = 7\n", "not valid TOML"),
        ("train = 7\n", "train must be a table"),
        ('model = "mini"\n', "model must be a table"),
    ],
)
def test_wrong_toml_says_what_is_wrong(tmp_path, text, message):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(file)


def test_no_such_configuration():
    with pytest.raises(InputError, match="No configuration 'nano': expected a TOML file or one of mini, 80M, 800M"):
        read_config("nano")
