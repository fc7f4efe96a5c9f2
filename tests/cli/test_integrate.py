"""`cellfm integrate`: the file that it writes, and one line for what is wrong before anything is computed."""

import anndata as ad
import pytest

from cellfm import load_model
from cellfm.cli import _main as cli
from cellfm.config import ModelConfig
from cellfm.model import CellFM

pytestmark = pytest.mark.usefixtures("own_logger")


@pytest.fixture
def paths(tmp_path, tiny_adata, tiny_vocab):
    config = ModelConfig(n_layers=2, d_model=16, n_heads=2, n_genes=len(tiny_vocab), d_value=8)
    CellFM(config, tiny_vocab, name="tiny").save(tmp_path / "model")
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path


def integrate(paths, *options: str) -> int:
    files = (str(paths / "cells.h5ad"), "-o", str(paths / "out.h5ad"), "--model", str(paths / "model"))
    return cli.main(["integrate", *files, *options])


def test_writes_embedding_model_and_picture(paths, tiny_adata, capsys):
    extra = ("--plot", str(paths / "out.png"), "--label-key", "label", "--save-model", str(paths / "tuned"))
    assert integrate(paths, "--batch-key", "batch", "--steps", "2", *extra) == 0
    found = ad.read_h5ad(paths / "out.h5ad")
    assert found.obsm["X_cellfm_integrated"].shape == (40, 16)
    assert found.uns["cellfm"]["X_cellfm_integrated"]["weights_sha256"] == load_model(paths / "tuned").weights_hash
    assert list(found.obs["label"]) == list(tiny_adata.obs["label"])
    assert (paths / "out.png").stat().st_size > 10_000
    assert "40 cells, integrated embedding in obsm['X_cellfm_integrated']" in capsys.readouterr().out


def test_harmony_is_a_method(paths, capsys):
    pytest.importorskip("harmonypy", reason="needs harmonypy: pip install 'cellfm[harmony]'")
    assert integrate(paths, "--batch-key", "batch", "--method", "harmony", "--theta", "1") == 0
    record = ad.read_h5ad(paths / "out.h5ad").uns["cellfm"]["X_cellfm_integrated"]
    assert record["method"] == "harmony"
    assert record["theta"] == 1
    assert "40 cells, integrated embedding in obsm['X_cellfm_integrated']" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-key", "donor"), "--batch-key donor is not a column of obs. Columns: label, batch."),
        (("--batch-key", "batch", "--label-key", "type"), "--label-key type is not a column of obs. Columns: label"),
        (("--batch-key", "batch", "--plot", "out.txt"), ".png"),
        (
            ("--batch-key", "batch", "--method", "harmony", "--steps", "9"),
            "--method harmony trains nothing and does not use --steps",
        ),
        (("--batch-key", "batch", "--steps", "0"), "steps must be a whole number of 1 or more"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(paths, capsys, options, message):
    assert integrate(paths, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (paths / "out.h5ad").exists()
