"""The loss is that of the paper, computed again from the network's outputs; each option changes what it says."""

import json

import mindspore as ms
import numpy as np
import pandas as pd
import pytest

from cellfm import load_model
from cellfm.config import ModelConfig, TrainConfig
from cellfm.data import TokenBatch, chunk_cells
from cellfm.model._parameters import initial_weights
from cellfm.nn import Outputs, build_network
from cellfm.train._feed import MicroBatch
from cellfm.train._objective import (
    FAR,
    PretrainObjective,
    binary_cross_entropy,
    partner_loss,
    same_type_loss,
    similarities,
)
from cellfm.vocab import Vocabulary

MODEL = ModelConfig(n_layers=2, d_model=16, n_heads=2, n_genes=100, d_value=8, zero_modelling=True)
N_CELLS, N_SLOTS = 4, 7
TEMPERATURE = 0.1


@pytest.fixture(scope="module")
def network():
    weights = initial_weights(MODEL, random_state=5)
    weights["embed.zero"] = np.random.default_rng(6).standard_normal((1, 1, 16)).astype(np.float32)
    return build_network(MODEL, weights)


@pytest.fixture(scope="module")
def micro() -> MicroBatch:
    """Two cells in two views each, of 30 to 70 genes, some of which are unexpressed."""
    generator = np.random.default_rng(1)
    lengths = np.array([70, 30, 63, 40])
    ids = np.concatenate([generator.permutation(100)[:n] + 1 for n in lengths]).astype(np.int32)
    values = generator.random(lengths.sum(), np.float32) * 4
    values[generator.random(len(values)) < 0.3] = 0
    tokens = TokenBatch(np.concatenate(([0], np.cumsum(lengths))), ids, values)
    chunks = chunk_cells(tokens, np.arange(N_CELLS), n_chunks=8, n_slots=N_SLOTS)
    target = generator.random(len(values)) < 0.4
    hidden = target & (generator.random(len(values)) < 0.7)
    empty = N_SLOTS - N_CELLS
    return MicroBatch(
        chunks.gene_ids,
        chunks.values,
        chunks.spread(~hidden, 1),
        chunks.mask,
        chunks.chunk_cell,
        chunks.cls_row,
        chunks.spread(target, 0),
        np.array([2, 3, 0, 1] + [-1] * empty, np.int32),
        np.array([0, 1, 0, 1] + [-2] * empty, np.int32),
        np.float32(1 / target.sum()),
        np.float32(1),
    )


def loss_of(network, micro, **train) -> tuple[float, np.ndarray]:
    objective = PretrainObjective(network, TrainConfig(**train))
    loss, terms = objective(*map(ms.Tensor, micro))
    return float(loss), terms.asnumpy()


def outputs_of(network, micro) -> Outputs:
    return Outputs(*(output.asnumpy().astype(float) for output in network(*map(ms.Tensor, micro[:6]))))


def masked_errors(network, micro) -> tuple[float, float]:
    """Mean squared errors of both decoders over the targets, cell after cell and gene after gene."""
    outputs, sums, n = outputs_of(network, micro), [0.0, 0.0], 0
    for chunk in range(micro.target.shape[0]):
        for token in range(micro.target.shape[1]):
            if micro.target[chunk, token]:
                for i, predicted in enumerate((outputs.gene_wise, outputs.cell_wise)):
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


def test_loss_is_both_masked_errors(network, micro):
    gene, cell = masked_errors(network, micro)
    loss, terms = loss_of(network, micro)
    assert loss == pytest.approx(gene + cell, rel=1e-5)
    np.testing.assert_allclose(terms, [gene, cell, 0, 0], rtol=1e-5)


@pytest.mark.parametrize("name", ["two_layers", "four_layers"])
def test_golden_loss(golden_dir, name):
    facts = json.loads((golden_dir / f"{name}.json").read_text())
    with np.load(golden_dir / f"{name}.npz") as arrays:
        arrays = dict(arrays)
    vocab = Vocabulary(pd.DataFrame({"symbol": [f"GENE{i:03d}" for i in range(facts["n_genes"])]}))
    model = load_model(golden_dir / f"{name}.ckpt", vocab, n_heads=facts["heads"])
    n_cells = len(arrays["indptr"]) - 1
    tokens = TokenBatch(arrays["indptr"], (arrays["genes"] + 1).astype(np.int32), arrays["expression"])
    chunks = chunk_cells(tokens, np.arange(n_cells))
    micro = MicroBatch(
        chunks.gene_ids,
        chunks.values,
        chunks.spread(arrays["unmasked"], 1),
        chunks.mask,
        chunks.chunk_cell,
        chunks.cls_row,
        chunks.spread(arrays["target"], 0),
        np.full(n_cells, -1, np.int32),
        np.full(n_cells, -1, np.int32),
        np.float32(1 / arrays["target"].sum()),
        np.float32(1),
    )
    loss, terms = loss_of(build_network(model.config, model.weights), micro)
    assert loss == pytest.approx(facts["loss"], rel=1e-4)
    assert loss == pytest.approx(terms.sum(), rel=1e-6)


def test_weights_weigh_the_terms(network, micro):
    gene, cell = masked_errors(network, micro)
    for weights in ({"gene_weight": 0.0}, {"cell_weight": 0.0}, {"gene_weight": 0.5, "cell_weight": 3.0}):
        loss, terms = loss_of(network, micro, **weights)
        expected = weights.get("gene_weight", 1) * gene + weights.get("cell_weight", 1) * cell
        assert loss == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(terms[:2], [gene, cell], rtol=1e-5, err_msg="terms are told unweighted")


def test_zero_modelling_adds_a_cross_entropy_to_each_decoder(network, micro):
    gene, cell = masked_errors(network, micro)
    tensors = list(map(ms.Tensor, micro))
    embedding, tokens, *_ = network(*tensors[:6])
    logits = network.expressed_logits(tensors[0], tokens, embedding, tensors[4])
    added = []
    for logit in logits:
        chance = 1 / (1 + np.exp(-logit.asnumpy().astype(float)))
        entropy = -np.where(micro.values > 0, np.log(chance), np.log(1 - chance))
        added.append(float(entropy[micro.target > 0].mean()))
    _, terms = loss_of(network, micro, zero_fraction=0.5)
    np.testing.assert_allclose(terms, [gene + added[0], cell + added[1], 0, 0], rtol=1e-5)
    assert min(added) > 0.05


def test_cross_entropy_does_not_overflow():
    logit, truth = np.array([-1e4, -3.0, 0.0, 3.0, 1e4], np.float32), np.array([1, 0, 1, 1, 1], np.float32)
    found = binary_cross_entropy(ms.Tensor(logit), ms.Tensor(truth)).asnumpy()
    np.testing.assert_allclose(found, [1e4, np.log1p(np.exp(-3)), np.log(2), np.log1p(np.exp(-3)), 0], rtol=1e-5)


@pytest.mark.parametrize(
    "weights", [{"contrast_weight": 0.5}, {"type_weight": 2.0}, {"contrast_weight": 0.5, "type_weight": 2.0}], ids=str
)
def test_contrast_and_types_add_their_terms(network, micro, weights):
    gene, cell = masked_errors(network, micro)
    logits = cosine_logits(outputs_of(network, micro).cell[:N_CELLS])
    contrast = naive_partner_loss(logits, micro.partner[:N_CELLS])
    of_type = naive_type_loss(logits, micro.kind[:N_CELLS])
    loss, terms = loss_of(network, micro, **weights)
    np.testing.assert_allclose(terms, [gene, cell, contrast, of_type], rtol=1e-4)
    expected = gene + cell + weights.get("contrast_weight", 0) * contrast + weights.get("type_weight", 0) * of_type
    assert loss == pytest.approx(expected, rel=1e-4)


def test_terms_count_by_their_share_of_the_batch(network, micro):
    whole = loss_of(network, micro, contrast_weight=1.0)[1]
    half = micro._replace(share=np.float32(0.5), one_by_targets=micro.one_by_targets / 2)
    np.testing.assert_allclose(loss_of(network, half, contrast_weight=1.0)[1], whole / 2, rtol=1e-6)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((9, 5)).astype(np.float32)


def logits_of(vectors: np.ndarray, kind: np.ndarray) -> ms.Tensor:
    return similarities(ms.Tensor(vectors), ms.Tensor(kind)) / TEMPERATURE


def test_similarities_are_cosines_that_ignore_empty_slots(vectors):
    kind = np.array([0, -1, -2, 3, -1, -2, 0, 3, 3], np.int32)
    found = similarities(ms.Tensor(vectors), ms.Tensor(kind)).asnumpy()
    expected = cosine_logits(vectors) * TEMPERATURE
    for i in range(9):
        for j in range(9):
            if i == j or kind[j] == -2:
                assert found[i, j] <= FAR / 2
            else:
                assert found[i, j] == pytest.approx(expected[i, j], abs=1e-6)


@pytest.mark.parametrize(
    "partner", [[1, 0, 3, 2, 5, 4, 7, 6, -1], [-1, -1, 4, -1, 2, -1, -1, -1, -1]], ids=["almost all", "two"]
)
def test_partner_loss_is_that_of_a_loop(vectors, partner):
    partner = np.array(partner, np.int32)
    found = partner_loss(logits_of(vectors, np.zeros(9, np.int32)), ms.Tensor(partner))
    assert float(found) == pytest.approx(naive_partner_loss(cosine_logits(vectors), partner), rel=1e-4)


@pytest.mark.parametrize(
    "kind",
    [[0, 1, 0, 1, 2, 2, 2, 0, 1], [0, -1, -1, 0, 5, -1, 7, -1, -1], [-1, -1, 0, 1, 2, 3, 4, 5, 6]],
    ids=["all", "some unknown", "none alike"],
)
def test_type_loss_is_that_of_a_loop(vectors, kind):
    kind = np.array(kind, np.int32)
    found = same_type_loss(logits_of(vectors, kind), ms.Tensor(kind))
    assert float(found) == pytest.approx(naive_type_loss(cosine_logits(vectors), kind), rel=1e-4, abs=1e-6)


def test_empty_slots_change_no_term(vectors):
    kind, partner = np.array([0, 1, 0, 1, -1, 2], np.int32), np.array([2, 3, 0, 1, -1, -1], np.int32)
    padded = np.concatenate((kind, [-2, -2, -2])).astype(np.int32)
    padded_partner = np.concatenate((partner, [-1, -1, -1])).astype(np.int32)
    few, many = logits_of(vectors[:6], kind), logits_of(vectors, padded)
    for loss, one, other in ((partner_loss, partner, padded_partner), (same_type_loss, kind, padded)):
        assert float(loss(many, ms.Tensor(other))) == pytest.approx(float(loss(few, ms.Tensor(one))), rel=1e-5)


def test_no_pairs_are_no_loss(vectors):
    nobody = ms.Tensor(np.full(9, -1, np.int32))
    logits = logits_of(vectors, np.zeros(9, np.int32))
    assert float(partner_loss(logits, nobody)) == float(same_type_loss(logits, nobody)) == 0


def test_targets_only_are_asked_for(network, micro):
    """Values of tokens that are hidden from the input and not asked for have no influence."""
    elsewhere = (micro.visible == 0) & (micro.target > 0)
    row = tuple(np.argwhere(elsewhere)[0])
    target = micro.target.copy()
    target[row] = 0
    values = micro.values.copy()
    values[row] += 5
    some = loss_of(network, micro._replace(target=target))[0]
    assert loss_of(network, micro._replace(target=target, values=values))[0] == pytest.approx(some, rel=1e-6)
    assert loss_of(network, micro._replace(values=values))[0] != some
