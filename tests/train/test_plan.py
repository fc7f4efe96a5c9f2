"""`cf.train.plan`: the parameters are the network's own, the operations those of its shapes, and too much is said."""

import math

import pytest

from cellfm.config import MODEL_PRESETS, PUBLISHED, ModelConfig, TrainConfig
from cellfm.errors import DataWarning, InputError
from cellfm.model import CellFM
from cellfm.nn.parameters import parameter_shapes
from cellfm.train import plan
from cellfm.train._plan import CPU_ACTIVATIONS, memory_by_term, multiply_adds
from cellfm.train._recipes import PRESETS

FORMS = (
    {},
    {"feed_forward": "ffn"},
    {"lora_rank": 4},
    {"lora_rank": 4, "feed_forward": "ffn"},
    {"depth_tokens": True},
    {"zero_modelling": True},
    {"norm": "prenorm"},
)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_are_those_of_the_network(preset):
    made = plan(preset, device=100)
    fields = MODEL_PRESETS[preset] | {"n_genes": made.model.n_genes}
    shapes = parameter_shapes(ModelConfig(**fields))
    assert made.n_parameters == sum(math.prod(shape) for shape in shapes.values())
    if preset in PUBLISHED:
        assert made.model == PUBLISHED[preset]


def test_parameters_are_those_of_a_model(tiny_model: CellFM):
    config = tiny_model.config
    fields = {"n_layers": 2, "d_model": 16, "n_heads": 2, "n_genes": config.n_genes, "d_value": 16}
    assert plan({"model": fields}, device=100).n_parameters == tiny_model.n_parameters


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_operations_are_those_of_the_shapes(form):
    """Every matrix takes one multiply-add an entry and token; the two products with K^T V come on top."""
    model = ModelConfig(n_layers=3, d_model=32, n_heads=4, n_genes=50, d_value=12, **form)
    n_genes = 320 - model.n_special  # fills five chunks
    shapes = parameter_shapes(model)
    matrices = sum(math.prod(shape) for name, shape in shapes.items() if name.endswith(".weight"))
    attention = model.n_layers * 2 * model.d_model * model.d_head
    assert sum(multiply_adds(model, TrainConfig(), n_genes).values()) == 320 * (matrices + attention)


def test_decay_retention_grows_with_the_square_of_the_genes():
    def layers(**fields: object) -> float:
        model = ModelConfig(n_layers=1, d_model=32, n_heads=4, n_genes=50, retention="decay", **fields)
        return multiply_adds(model, TrainConfig(), 100)["layers"]

    few, many, most = (layers(max_genes=n - 1) for n in (1000, 2000, 4000))
    assert (many - 2 * few) / 1000**2 == pytest.approx((most - 2 * many) / 2000**2)


def test_operations_of_training_follow_views_and_recomputation():
    def training(**fields: object) -> float:
        return plan({"train": fields}, device=100).flops_training

    plain = plan("mini", device=100)
    assert training() == pytest.approx(3 * plain.flops_forward)
    assert training(contrast_weight=1.0) == 2 * training()
    assert 3 * plain.flops_forward < training(recompute=True) < 4 * plain.flops_forward


def test_days_follow_cells_devices_rate_and_utilisation():
    made = plan("80M", devices=1, cells=1e6, device=100, utilisation=0.5)
    seconds = 1e6 * made.flops_training / (100e12 * 0.5)
    assert made.steps_per_epoch == 1_000_000 // 128
    assert made.days_per_epoch == pytest.approx(seconds / 86400, rel=1e-3)
    assert made.days == pytest.approx(1_600_000 * 128 * made.flops_training / 50e12 / 86400)
    several = plan("80M", devices=4, cells=2e6, device=200, utilisation=0.25)
    assert several.days_per_epoch == pytest.approx(made.days_per_epoch / 2, rel=1e-3)


def test_memory_by_term():
    model = ModelConfig(n_layers=40, d_model=64, n_heads=4, n_genes=500)
    n = sum(math.prod(shape) for shape in parameter_shapes(model).values())
    plain = memory_by_term(model, TrainConfig(), devices=8)
    assert (plain["weights"], plain["gradients"], plain["Adam moments"]) == (4 * n, 4 * n, 8 * n)
    assert memory_by_term(model, TrainConfig(shard_optimizer=True), devices=8)["Adam moments"] == n
    divided = memory_by_term(model, TrainConfig(shard_weights=True), devices=8)
    assert (divided["weights"], divided["gradients"], divided["Adam moments"]) == (n / 2, n / 2, n)
    twice = memory_by_term(model, TrainConfig(n_chunks=192), devices=8)
    assert twice["activations"] == 2 * plain["activations"]
    assert memory_by_term(model, TrainConfig(recompute=True))["activations"] < plain["activations"] / 5
    assert "half copies" in memory_by_term(model, TrainConfig(precision="float16"))


def test_too_little_memory_is_foreseen():
    too_much = {"preset": "800M", "train": {"recompute": False}}
    with pytest.warns(DataWarning, match=r"Too little memory: a device has 32.0 GB.*recompute = true"):
        made = plan(too_much, devices=32)
    assert made.fits is False
    assert "TOO MUCH" in repr(made)
    assert plan("800M", devices=32).fits
    assert plan("800M", device=100).fits is None


def test_the_table_tells_every_number():
    made = plan("800M", devices=32, cells=102e6)
    said = repr(made)
    assert f"{made.n_parameters:,}" in said
    assert f"{made.steps_per_epoch:,} steps" in said
    assert f"{made.days:,.1f} days" in said
    assert all(term in said for term in made.memory)


def test_this_machine_is_measured():
    made = plan("mini", device="CPU")
    assert 1e-3 < made.tflops < 100
    assert made.memory["activations"] == CPU_ACTIVATIONS * plan("mini", device=1).memory["activations"]
    assert made.capacity > 1e8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"devices": 0}, "devices must be a whole number above 0"),
        ({"genes_per_cell": 2.5}, "genes_per_cell must be a whole number"),
        ({"utilisation": 0}, "utilisation must be above 0"),
        ({"utilisation": 1.5}, "utilisation must be above 0 and at most 1"),
        ({"cells": 0}, "cells must be 1 or more"),
        ({"device": "Ascend"}, "No device 'Ascend': expected Ascend 910, CPU"),
        ({"device": -1}, "peak of a device must be above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        plan("mini", **options)
