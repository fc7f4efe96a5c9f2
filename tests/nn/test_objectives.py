"""The loss is that of the paper, computed again from the network's outputs; each option changes what it should."""

from functools import cache

import numpy as np
import pytest
from nn_inputs import micro_batch, random_tokens, random_weights, with_options
from numpy_operations import NumpyOperations
from on_engine import differences, differentiate, run

from cellfm.config import TrainConfig
from cellfm.nn.decoders import expressed_logits
from cellfm.nn.embedding import gene_rows
from cellfm.nn.layout import to_chunks
from cellfm.nn.network import network
from cellfm.nn.objectives import (
    FAR,
    binary_cross_entropy,
    cross_entropy,
    partner_loss,
    pretraining,
    same_type_loss,
    similarities,
)
from cellfm.nn.weights import nest

CONFIG = with_options(d_model=16, n_heads=2, n_genes=100, zero_modelling=True)
N_CELLS, N_SLOTS = 4, 7
TEMPERATURE = 0.1
WEIGHTS = random_weights(CONFIG)
MICRO = micro_batch(
    random_tokens([70, 30, 63, 40], 100, zeros=0.3), CONFIG, n_slots=N_SLOTS, n_chunks=8
)  # two cells in two views each
EXACT = nest({name: array.astype(float) for name, array in WEIGHTS.items()})


@cache
def objective(**train):
    loss = pretraining(CONFIG, TrainConfig(**train))

    def of_arrays(xp, p, *arrays):
        return loss(xp, p, arrays, None)

    return of_arrays


def loss_of(engine, micro=MICRO, **train) -> tuple[float, np.ndarray]:
    loss, terms = run(engine, objective(**train), WEIGHTS, *micro)
    return float(loss), terms


def outputs_of(micro=MICRO) -> tuple[np.ndarray, ...]:
    layout = (micro.gene_ids, micro.mask, micro.chunk_cell, micro.cls_row)
    return network(NumpyOperations(), CONFIG, EXACT, micro.values, micro.visible, layout)


def masked_errors(micro=MICRO) -> tuple[float, float]:
    """Mean squared errors of both decoders over the targets, cell after cell and gene after gene."""
    _, _, *decoded = outputs_of(micro)
    sums, n = [0.0, 0.0], 0
    for chunk, token in zip(*np.nonzero(micro.target), strict=True):
        for i, predicted in enumerate(decoded):
            sums[i] += (predicted[chunk, token] - micro.values[chunk, token]) ** 2
        n += 1
    return sums[0] / n, sums[1] / n


def cosine_logits(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T / TEMPERATURE


def log_softmax(logits: np.ndarray, i: int, j: int) -> float:
    """Of `j` among all that are not `i`."""
    others = [logits[i, k] for k in range(len(logits)) if k != i]
    return logits[i, j] - np.log(np.sum(np.exp(others)))


def naive_partner_loss(logits: np.ndarray, partner: np.ndarray) -> float:
    return -float(np.mean([log_softmax(logits, i, j) for i, j in enumerate(partner) if j >= 0]))


def naive_type_loss(logits: np.ndarray, kind: np.ndarray) -> float:
    means = []
    for i, own in enumerate(kind):
        alike = [j for j, other in enumerate(kind) if j != i and other == own and own >= 0]
        if alike:
            means.append(np.mean([log_softmax(logits, i, j) for j in alike]))
    return -float(np.mean(means)) if means else 0.0


@pytest.mark.parametrize(
    "train", [{}, {"gene_weight": 0.0}, {"cell_weight": 0.0}, {"gene_weight": 0.5, "cell_weight": 3.0}], ids=str
)
def test_loss_is_both_masked_errors_by_their_weights(engine, train):
    gene, cell = masked_errors()
    loss, terms = loss_of(engine, **train)
    expected = train.get("gene_weight", 1) * gene + train.get("cell_weight", 1) * cell
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(terms, [gene, cell, 0, 0], rtol=1e-5, err_msg="terms are told unweighted")


def test_zero_modelling_adds_a_cross_entropy_to_each_decoder(engine):
    gene, cell = masked_errors()
    xp, layout = NumpyOperations(), (MICRO.gene_ids, MICRO.mask, MICRO.chunk_cell, MICRO.cls_row)
    embedding, tokens, *_ = outputs_of()
    genes = gene_rows(xp, EXACT["embed"], MICRO.gene_ids)
    logits = expressed_logits(
        xp, EXACT["gene_decoder"], EXACT["cell_decoder"], tokens, genes, to_chunks(xp, embedding, layout)
    )
    added = []
    for logit in logits:
        chance = 1 / (1 + np.exp(-logit))
        entropy = -np.where(MICRO.values > 0, np.log(chance), np.log(1 - chance))
        added.append(float(entropy[MICRO.target > 0].mean()))
    _, terms = loss_of(engine, zero_fraction=0.5)
    np.testing.assert_allclose(terms, [gene + added[0], cell + added[1], 0, 0], rtol=1e-5)
    assert min(added) > 0.05


@pytest.mark.parametrize("train", [{"contrast_weight": 0.5}, {"contrast_weight": 0.5, "type_weight": 2.0}], ids=str)
def test_contrast_and_types_add_their_terms(engine, train):
    gene, cell = masked_errors()
    logits = cosine_logits(outputs_of()[0][:N_CELLS])
    contrast = naive_partner_loss(logits, MICRO.partner[:N_CELLS])
    of_type = naive_type_loss(logits, MICRO.label[:N_CELLS])
    loss, terms = loss_of(engine, **train)
    np.testing.assert_allclose(terms, [gene, cell, contrast, of_type], rtol=1e-4)
    expected = gene + cell + train.get("contrast_weight", 0) * contrast + train.get("type_weight", 0) * of_type
    assert loss == pytest.approx(expected, rel=1e-4)
    half = MICRO._replace(share=np.float32(0.5), inv_targets=MICRO.inv_targets / 2)
    np.testing.assert_allclose(loss_of(engine, half, **train)[1], terms / 2, rtol=1e-5)


def test_gradients_are_those_of_finite_differences(engine):
    """Of everything that there is, with dropout, in some weights of each part."""
    train = TrainConfig(dropout=0.4, contrast_weight=0.5, type_weight=2.0, zero_fraction=0.5)
    loss, n_keys = pretraining(CONFIG, train), 2 * CONFIG.n_layers
    keys = np.array([3, -9, 12345, 77], np.int32)

    def with_keys(xp, p, arrays, _):
        return loss(xp, p, arrays[1:], arrays[0])

    names = [
        "embed.cls",
        "embed.value.skip",
        "embed.zero",
        "backbone.layers.0.norm1.beta",
        "backbone.layers.1.norm2.gamma",
        "gene_decoder.expressed.weight",
    ]
    assert len(keys) == n_keys
    result, gradients = differentiate(engine, with_keys, WEIGHTS, (keys, *MICRO), names)

    def in_float64(moved):
        flat = {name: array.astype(float) for name, array in (WEIGHTS | moved).items()}
        return float(loss(NumpyOperations(), nest(flat), tuple(MICRO), keys)[0])

    assert result.loss == pytest.approx(in_float64({}), rel=1e-5)
    for name, expected in differences(in_float64, {name: WEIGHTS[name] for name in names}).items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(gradients[name] / scale, expected / scale, atol=1e-4, rtol=0, err_msg=name)


def test_targets_only_are_asked_for(engine):
    """Values of tokens that are hidden from the input and not asked for have no influence."""
    row = tuple(np.argwhere((MICRO.visible == 0) & (MICRO.target > 0))[0])
    target, values = MICRO.target.copy(), MICRO.values.copy()
    target[row] = 0
    values[row] += 5
    some = loss_of(engine, MICRO._replace(target=target))[0]
    assert loss_of(engine, MICRO._replace(target=target, values=values))[0] == pytest.approx(some, rel=1e-6)
    assert abs(loss_of(engine, MICRO._replace(values=values))[0] - some) > 1e-3


def test_cross_entropies(engine):
    """The binary one does not overflow, and that of classes counts cells by their weight."""
    logit, truth = np.array([-1e4, -3.0, 0.0, 3.0, 1e4], np.float32), np.array([1, 0, 1, 1, 1], np.float32)
    logits = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    label, weight = np.array([2, 0, -1, 1], np.int32), np.array([1, 0.5, 0, 2], np.float32)

    def both(xp, p, logit, truth, logits, label, weight):
        return binary_cross_entropy(xp, logit, truth), cross_entropy(xp, logits, label, weight)

    binary, of_classes = run(engine, both, {}, logit, truth, logits, label, weight)
    np.testing.assert_allclose(binary, [1e4, np.log1p(np.exp(-3)), np.log(2), np.log1p(np.exp(-3)), 0], rtol=1e-5)
    p = np.exp(logits.astype(float))
    p /= p.sum(1, keepdims=True)
    expected = -(np.log(p[0, 2]) + 0.5 * np.log(p[1, 0]) + 2 * np.log(p[3, 1]))
    assert float(of_classes) == pytest.approx(expected, rel=1e-5)


VECTORS = np.random.default_rng(3).standard_normal((9, 5)).astype(np.float32)
NOBODY = np.full(9, -1, np.int32)


def pair_losses(xp, p, vectors, kind, partner):
    cosines = similarities(xp, vectors, kind)
    return cosines, partner_loss(xp, cosines / TEMPERATURE, partner), same_type_loss(xp, cosines / TEMPERATURE, kind)


@pytest.mark.parametrize(
    ("kind", "partner"),
    [
        ([0, 1, 0, 1, 2, 2, 2, 0, 1], [1, 0, 3, 2, 5, 4, 7, 6, -1]),
        ([0, -1, -1, 0, 5, -1, 7, -1, -1], [-1, -1, 4, -1, 2, -1, -1, -1, -1]),
        ([-1, -1, 0, 1, 2, 3, 4, 5, 6], [1, 0, 3, 2, 5, 4, 7, 6, -1]),
    ],
    ids=["all", "some unknown", "none alike"],
)
def test_losses_of_pairs_are_those_of_loops(engine, kind, partner):
    kind, partner = np.array(kind, np.int32), np.array(partner, np.int32)
    _, of_partner, of_type = run(engine, pair_losses, {}, VECTORS, kind, partner)
    logits = cosine_logits(VECTORS)
    assert float(of_partner) == pytest.approx(naive_partner_loss(logits, partner), rel=1e-4)
    assert float(of_type) == pytest.approx(naive_type_loss(logits, kind), rel=1e-4, abs=1e-6)


def test_similarities_are_cosines_that_ignore_empty_slots(engine):
    kind = np.array([0, -1, -2, 3, -1, -2, 0, 3, 3], np.int32)
    found, *no_pairs = run(engine, pair_losses, {}, VECTORS, kind, NOBODY)
    far = np.eye(9, dtype=bool) | (kind == -2)[None]
    assert found[far].max() <= FAR / 2
    np.testing.assert_allclose(found[~far], (cosine_logits(VECTORS) * TEMPERATURE)[~far], atol=1e-6)
    assert float(no_pairs[0]) == 0, "nobody has a partner"
    assert float(run(engine, pair_losses, {}, VECTORS, NOBODY, NOBODY)[2]) == 0


def test_empty_slots_change_no_term(engine):
    kind, partner = np.array([0, 1, 0, 1, -1, 2], np.int32), np.array([2, 3, 0, 1, -1, -1], np.int32)
    few = run(engine, pair_losses, {}, VECTORS[:6], kind, partner)[1:]
    empty = np.array([-2, -2, -2], np.int32)
    padded = (np.concatenate((kind, empty)), np.concatenate((partner, empty + 1)))
    many = run(engine, pair_losses, {}, VECTORS, *padded)[1:]
    np.testing.assert_allclose(many, few, rtol=1e-5)
