"""What loads when: the model and training load no reader of cells, and what runs without MindSpore does so."""

import subprocess
import sys
from pathlib import Path

import pytest

from cellfm.errors import InputError, MissingPackageError
from cellfm.io.installed import NEWEST_PYTHON, how_to_install, require_mindspore
from cellfm.model import load_model

# Packages that are None in sys.modules cannot be imported.
BLOCK = "import sys; sys.modules.update(dict.fromkeys({packages!r}))\n"
READERS = ("scanpy", "anndata", "mudata", "gseapy", "igraph", "matplotlib")
ENCODE = """
import numpy as np
import cellfm as cf
from cellfm.cells.tokenize import TokenBatch, tokenize
import scipy.sparse as sp

model = cf.load_model("mini")
counts = sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (3, 50)).astype(np.float32))
tokens = tokenize(counts, np.arange(1, 51), random_state=0, max_genes=model.config.max_genes)
assert model.encode(tokens).cell.shape == (3, 256)
"""
TRAIN = """
from cellfm import cli
from cellfm.train import plan
assert "cells" in repr(plan("mini"))
assert cli.main(["plan", "--preset", "mini"]) == 0
"""
# Everything but training.
TOOLS = """
import numpy as np, pandas as pd, scipy.sparse as sp
from anndata import AnnData
import cellfm as cf

model = cf.load_model("mini")
generator = np.random.default_rng(0)
label = np.arange(40) % 2
mean = generator.gamma(2.0, 2.0, 300) * np.where(label, 3.0, 1.0)[:, None] ** (np.arange(300) < 100)
cells = AnnData(sp.csr_matrix(generator.poisson(mean + 0.5).astype(np.float32)))
cells.var_names, cells.obs["label"] = model.vocab.symbols[:300], pd.Categorical.from_codes(label, ["A", "B"])
cf.pp.prepare(cells, min_genes=10)
cf.tl.embed(cells)
cf.tl.annotate(cells, reference=cells.copy(), labels_key="label")
cf.tl.transfer_labels(cells, reference=cells.copy(), labels_key="label")
cf.tl.embed_genes(cells, min_known_genes=10)
cf.tl.attention(cells)
assert np.isfinite(cells.obsm["X_cellfm"]).all()
try:
    cf.tl.fit_annotator(cells, labels_key="label", method="lora")
except ImportError as error:
    assert "cellfm[mindspore]" in str(error), error
"""


def run(code: str, packages: tuple[str, ...], folder: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", BLOCK.format(packages=packages) + code]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert ran.returncode == 0, ran.stderr


def test_models_and_plans_need_no_reader_of_cells(tmp_path: Path):
    run(ENCODE + TRAIN, (*READERS, "mindspore"), tmp_path)


def test_all_but_training_runs_without_mindspore(tmp_path: Path):
    run(TOOLS, ("mindspore",), tmp_path)


def test_a_missing_engine_is_named_with_its_extra_and_what_hinders_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mindspore", None)
    monkeypatch.setattr(sys, "version_info", (*NEWEST_PYTHON, 1))
    with pytest.raises(MissingPackageError, match=r"^backend='mindspore' needs .* pip install 'cellfm\[mindspore\]'"):
        load_model("mini", backend="mindspore")
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert "no wheel for Python 3.13" in how_to_install()
    for kind in (ImportError, InputError):
        with pytest.raises(kind, match=r"not installed\. MindSpore 2\.10 has no wheel for Python 3\.13.* Python 3\.12"):
            require_mindspore()


def test_numpy_2_beside_mindspore_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cellfm.io.installed.has_mindspore", lambda: True)
    monkeypatch.setattr("cellfm.io.installed.version", lambda _: "2.1.0")
    with pytest.raises(MissingPackageError, match=r"needs NumPy 1, but NumPy 2\.1\.0"):
        require_mindspore()
    monkeypatch.setattr("cellfm.io.installed.version", lambda _: "1.26.4")
    require_mindspore()


@pytest.mark.mindspore
def test_training_needs_no_reader_of_cells(tmp_path: Path):
    run("from cellfm.train import finetune, pretrain", READERS, tmp_path)
