"""The network is the published one: outputs, loss and gradients of the golden data, from the checkpoint files."""

import json
import os
from pathlib import Path

import mindspore as ms
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellfm import load_model
from cellfm.data import TokenBatch, chunk_cells, tokenize
from cellfm.model import CellFM
from cellfm.model._published import published_name
from cellfm.nn import build_network, name_parameters
from cellfm.vocab import Vocabulary

GOLDEN = Path(os.environ.get("CELLFM_GOLDEN") or Path(__file__).parent / "data" / "golden")
CASES = sorted(path.stem for path in GOLDEN.glob("*.json"))


def test_there_is_golden_data():
    assert CASES, f"no *.json in {GOLDEN}"


@pytest.fixture(scope="module", params=CASES)
def case(request):
    facts = json.loads((GOLDEN / f"{request.param}.json").read_text())
    with np.load(GOLDEN / f"{request.param}.npz") as arrays:
        arrays = dict(arrays)
    vocab = Vocabulary(pd.DataFrame({"symbol": [f"GENE{i:03d}" for i in range(facts["n_genes"])]}))
    model = load_model(GOLDEN / f"{request.param}.ckpt", vocab, n_heads=facts["heads"])
    return facts, arrays, model


def tokens_of(arrays: dict[str, np.ndarray]) -> TokenBatch:
    return TokenBatch(arrays["indptr"], (arrays["genes"] + 1).astype(np.int32), arrays["expression"])


def test_configuration_is_read_from_the_file(case):
    facts, _, model = case
    config = model.config
    assert (config.d_model, config.n_layers, config.lora_rank) == (facts["dim"], facts["layers"], facts["lora_rank"])


def test_counts_become_the_golden_tokens(case):
    facts, arrays, _ = case
    counts = sp.csr_matrix(
        (arrays["counts"], arrays["genes"], arrays["indptr"]), (len(arrays["indptr"]) - 1, facts["n_genes"])
    )
    ids = np.arange(1, facts["n_genes"] + 1, dtype=np.int32)
    tokens = tokenize(counts, ids, max_genes=facts["max_genes"])
    np.testing.assert_array_equal(tokens.gene_ids, arrays["genes"] + 1)
    np.testing.assert_allclose(tokens.values, arrays["expression"], atol=1e-6)


@pytest.fixture(params=["mindspore", "jax"])
def on_backend(request, case):
    _, _, model = case
    return CellFM(model.config, model.vocab, model.weights, backend=request.param)


def test_outputs_with_all_values_visible(case, on_backend):
    _, arrays, _ = case
    names = {"cell": "cls", "tokens": "tokens", "gene_wise": "gene_wise", "cell_wise": "cell_wise"}
    encoded = on_backend.encode(tokens_of(arrays), outputs=tuple(names))
    for ours, theirs in names.items():
        np.testing.assert_allclose(getattr(encoded, ours), arrays[theirs], atol=1e-4, rtol=0, err_msg=theirs)


def test_cell_output_of_the_short_path(case, on_backend):
    _, arrays, _ = case
    np.testing.assert_allclose(on_backend.encode(tokens_of(arrays)).cell, arrays["cls"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["pynative", "jit"])
def test_masked_outputs_loss_and_gradients(case, mode):
    facts, arrays, model = case
    network = build_network(model.config, model.weights)
    parameters = name_parameters(network)
    chunks = chunk_cells(tokens_of(arrays), np.arange(len(arrays["indptr"]) - 1))

    def spread(values, elsewhere):
        array = np.full(chunks.mask.size, elsewhere, np.float32)
        array[chunks.token_row] = values
        return ms.Tensor(array.reshape(chunks.mask.shape))

    visible, target = spread(arrays["unmasked"], 1), spread(arrays["target"], 0)
    gene_ids, values, mask = map(ms.Tensor, (chunks.gene_ids, chunks.values, chunks.mask))
    chunk_cell, cls_row = ms.Tensor(chunks.chunk_cell), ms.Tensor(chunks.cls_row)

    def objective(gene_ids, values, visible, mask, chunk_cell, cls_row, target):
        _, _, gene_wise, cell_wise = network(gene_ids, values, visible, mask, chunk_cell, cls_row)
        squared = (gene_wise - values) ** 2 + (cell_wise - values) ** 2
        return (squared * target).sum() / target.sum(), gene_wise, cell_wise

    step = ms.value_and_grad(objective, None, ms.ParameterTuple(list(parameters.values())), has_aux=True)
    step = ms.jit(step) if mode == "jit" else step
    (loss, gene_wise, cell_wise), gradients = step(gene_ids, values, visible, mask, chunk_cell, cls_row, target)

    for name, output in (("masked_gene_wise", gene_wise), ("masked_cell_wise", cell_wise)):
        ragged = output.asnumpy().reshape(-1)[chunks.token_row]
        np.testing.assert_allclose(ragged, arrays[name], atol=1e-4, rtol=0, err_msg=name)
    assert float(loss) == pytest.approx(facts["loss"], rel=1e-4)
    norms = {
        published_name(name): float(np.linalg.norm(g.asnumpy())) for name, g in zip(parameters, gradients, strict=True)
    }
    assert norms.keys() == facts["gradient_norms"].keys()
    for name, expected in facts["gradient_norms"].items():
        assert norms[name] == pytest.approx(expected, rel=1e-3, abs=1e-9), name


def test_training_file_gives_the_same_model():
    path = GOLDEN / "two_layers_training.ckpt"
    if not path.exists():
        pytest.skip("this golden folder has no training checkpoint")
    facts = json.loads((GOLDEN / "two_layers.json").read_text())
    vocab = Vocabulary(pd.DataFrame({"symbol": [f"GENE{i:03d}" for i in range(facts["n_genes"])]}))
    plain, training = (
        load_model(GOLDEN / name, vocab, n_heads=facts["heads"]) for name in ("two_layers.ckpt", path.name)
    )
    assert isinstance(training, CellFM)
    for name, array in plain.weights.items():
        np.testing.assert_array_equal(array, training.weights[name], err_msg=name)
