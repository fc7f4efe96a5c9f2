"""The network is the published one, by either engine: outputs, loss and gradients of the golden data, and its files."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from on_engine import differentiate

import cellfm as cf
from cellfm.cells.chunk import chunk_cells
from cellfm.cells.tokenize import TokenBatch, tokenize
from cellfm.config import TrainConfig
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import CellFM
from cellfm.model._ckpt import read_ckpt
from cellfm.model._convert import convert
from cellfm.model._published import published_name
from cellfm.nn.network import network
from cellfm.nn.objectives import pretraining
from cellfm.train._feed import MicroBatch

GOLDEN = Path(os.environ.get("CELLFM_GOLDEN") or Path(__file__).parent / "data" / "golden").absolute()
CASES = sorted(path.stem for path in GOLDEN.glob("*.json"))
OUTPUTS = {"cell": "cls", "tokens": "tokens", "gene_wise": "gene_wise", "cell_wise": "cell_wise"}


def test_there_is_golden_data():
    assert CASES, f"no *.json in {GOLDEN}"


class Golden:
    """A case: the facts and arrays of its network, and the model that its file becomes."""

    def __init__(self, name: str) -> None:
        self.path = GOLDEN / f"{name}.ckpt"
        self.facts = json.loads((GOLDEN / f"{name}.json").read_text())
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            self.arrays = dict(arrays)
        symbols = [f"GENE{i:03d}" for i in range(self.facts["n_genes"])]
        self.vocab = Vocabulary(pd.DataFrame({"symbol": symbols}))
        self.model = self.load(self.path)

    def load(self, path: Path) -> CellFM:
        return cf.load_model(path, self.vocab, n_heads=self.facts["heads"])

    @property
    def tokens(self) -> TokenBatch:
        arrays = self.arrays
        return TokenBatch(arrays["indptr"], (arrays["genes"] + 1).astype(np.int32), arrays["expression"])


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Golden:
    return Golden(request.param)


def test_configuration_is_read_from_the_file(case):
    config, facts = case.model.config, case.facts
    assert (config.d_model, config.n_layers, config.lora_rank) == (facts["dim"], facts["layers"], facts["lora_rank"])


def test_counts_become_the_golden_tokens(case):
    arrays, n_genes = case.arrays, case.facts["n_genes"]
    counts = sp.csr_matrix((arrays["counts"], arrays["genes"], arrays["indptr"]), (len(arrays["indptr"]) - 1, n_genes))
    ids = np.arange(1, n_genes + 1, dtype=np.int32)
    tokens = tokenize(counts, ids, max_genes=case.facts["max_genes"])
    np.testing.assert_array_equal(tokens.gene_ids, arrays["genes"] + 1)
    np.testing.assert_allclose(tokens.values, arrays["expression"], atol=1e-6)


def test_outputs_with_all_values_visible(case, engine):
    """Within 1e-5, and CLS alone by the shorter way; tokens within 2e-5.

    The golden tokens are float32 themselves: those of ``two_layers`` lie up to 1.1e-5 from the network in float64.
    """
    model = CellFM(case.model.config, case.vocab, case.model.weights, backend=engine.name)
    encoded = model.encode(case.tokens, outputs=tuple(OUTPUTS))
    for ours, theirs in OUTPUTS.items():
        atol = 2e-5 if ours == "tokens" else 1e-5
        np.testing.assert_allclose(getattr(encoded, ours), case.arrays[theirs], atol=atol, rtol=0, err_msg=theirs)
    np.testing.assert_allclose(model.encode(case.tokens).cell, case.arrays["cls"], atol=1e-5, rtol=0)


def test_masked_outputs_loss_and_gradients(case, engine):
    arrays, n_cells = case.arrays, len(case.arrays["indptr"]) - 1
    chunks = chunk_cells(case.tokens, np.arange(n_cells))
    nobody = np.full(n_cells, -1, np.int32)
    micro = MicroBatch(
        chunks.gene_ids,
        chunks.values,
        chunks.spread(arrays["unmasked"], 1),
        chunks.mask,
        chunks.chunk_cell,
        chunks.cls_row,
        chunks.spread(arrays["target"], 0),
        nobody,
        nobody,
        np.float32(1 / arrays["target"].sum()),
        np.float32(1),
    )
    config, weights = case.model.config, case.model.weights
    objective = pretraining(config, TrainConfig(dropout=0.0))

    def loss(xp, p, batch, keys):
        """The objective, whose terms are here what both decoders read."""
        total, terms = objective(xp, p, batch, None)
        _, _, gene_wise, cell_wise = network(
            xp, config, p, batch[1], batch[2], (batch[0], batch[3], batch[4], batch[5])
        )
        return total, xp.concat((terms, gene_wise.reshape((-1,)), cell_wise.reshape((-1,))), 0)

    result, gradients = differentiate(engine, loss, weights, micro)
    n = chunks.mask.size
    terms, gene_wise, cell_wise = result.terms[:4], result.terms[4 : 4 + n], result.terms[4 + n :]
    assert result.loss == pytest.approx(case.facts["loss"], rel=1e-5)
    assert terms.sum() == pytest.approx(case.facts["loss"], rel=1e-5)
    for name, found in (("masked_gene_wise", gene_wise), ("masked_cell_wise", cell_wise)):
        np.testing.assert_allclose(found[chunks.token_row], arrays[name], atol=1e-5, rtol=1e-5, err_msg=name)
    norms = {published_name(name): float(np.linalg.norm(array)) for name, array in gradients.items()}
    assert norms.keys() == case.facts["gradient_norms"].keys()
    for name, expected in case.facts["gradient_norms"].items():
        assert norms[name] == pytest.approx(expected, rel=1e-4, abs=1e-9), name
    assert result.norm == pytest.approx(np.linalg.norm(list(case.facts["gradient_norms"].values())), rel=1e-4)


def test_files_go_in_and_out(case, tmp_path):
    """To a folder and back to a file, under the published names and with the same bits."""
    folder = convert(case.path, tmp_path / "model", vocabulary=case.vocab, n_heads=case.facts["heads"])
    again = case.load(convert(folder, tmp_path / "again.ckpt"))
    opened = cf.load_model(folder)
    original, _ = read_ckpt(case.path, lambda name: True)
    written, _ = read_ckpt(tmp_path / "again.ckpt", lambda name: True)
    assert written.keys() == original.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(written[name], array, err_msg=name)
    assert again.config == opened.config == case.model.config
    assert again.weights_hash == opened.weights_hash == case.model.weights_hash


def test_optimizer_state_of_a_training_file_is_passed_over(engine):
    path = GOLDEN / "two_layers_training.ckpt"
    if not path.exists():
        pytest.skip("this golden folder has no training checkpoint")
    plain = Golden("two_layers")
    training = plain.load(path)
    assert len(read_ckpt(path, lambda name: True)[0]) > len(training.weights), "there is state to pass over"
    for name, array in plain.model.weights.items():
        np.testing.assert_array_equal(array, training.weights[name], err_msg=name)
    cell = CellFM(training.config, plain.vocab, training.weights, backend=engine.name).encode(plain.tokens).cell
    np.testing.assert_allclose(cell, plain.arrays["cls"], atol=1e-5, rtol=0)
