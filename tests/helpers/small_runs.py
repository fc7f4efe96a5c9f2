"""A small corpus, how it is trained on, and what two runs must have in common, for several devices and processes."""

import csv
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from safetensors.numpy import load_file

from cellfm.genes.vocabulary import Vocabulary

CONFIG = {
    "model": {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_value": 8},
    "train": {
        "steps": 4, "batch_size": 6, "n_chunks": 8, "train_genes": 120, "learning_rate": 1e-2, "dropout": 0.0,
        "log_every": 1, "validate_every": 2, "checkpoint_every": 2,
    },
}  # fmt: skip
AS_TOML = "".join(
    f"[{table}]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items())
    for table, fields in CONFIG.items()
)


def small_cells(vocab: Vocabulary) -> AnnData:
    generator = np.random.default_rng(0)
    cells = AnnData(generator.poisson(generator.gamma(2.0, 2.0, 300) + 0.5, (40, 300)).astype(np.float32))
    cells.var_names = vocab.symbols
    return cells


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def require_same(run: Path, expected: Path) -> None:
    """Files, weights, moments and losses of a run are those of another."""
    files = [{path.relative_to(one) for path in one.rglob("*")} for one in (run, expected)]
    assert files[0] == files[1]
    last = sorted((expected / "checkpoints").iterdir())[-1].name
    theirs, ours = (load_file(one / "checkpoints" / last / "tensors.safetensors") for one in (expected, run))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, atol=1e-5, rtol=0, err_msg=name)
    for our, their in zip(rows(run), rows(expected), strict=True):
        assert our["step"] == their["step"]
        for column in ("loss", "gene", "cell", "validation_loss"):
            assert bool(our[column]) == bool(their[column])
            if their[column]:
                assert float(our[column]) == pytest.approx(float(their[column]), rel=1e-5)
    assert rows(run)[-1]["validation_loss"]
