"""Copies of a model, and processes that share the work: the same numbers, or a clear error at once."""

import copy
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

import cellfm as cf
from cellfm.model import CellFM


@pytest.mark.parametrize("backend", ["jax", "mindspore"])
def test_a_copy_of_a_model_gives_the_same(tiny_model: CellFM, tiny_adata: AnnData, backend: str):
    model = CellFM(tiny_model.config, tiny_model.vocab, tiny_model.weights, name="tiny", backend=backend)
    before = copy.deepcopy(model)
    cf.tl.embed(tiny_adata, model)
    after = pickle.loads(pickle.dumps(model))
    for other in (before, after):
        found = cf.tl.embed(tiny_adata, other, copy=True)
        np.testing.assert_array_equal(found.obsm["X_cellfm"], tiny_adata.obsm["X_cellfm"])
        assert (repr(other), other.weights_hash, other.backend) == (repr(model), model.weights_hash, backend)


def test_a_pickle_holds_the_weights_once(tiny_model: CellFM, tiny_adata: AnnData):
    size = len(pickle.dumps(tiny_model))
    cf.tl.embed(tiny_adata, tiny_model)
    assert len(pickle.dumps(tiny_model)) < 1.1 * size


@pytest.mark.parametrize("method", ["spawn", "loky"])
def test_processes_of_their_own_take_models(tiny_model: CellFM, tiny_adata: AnnData, method: str):
    cf.tl.embed(tiny_adata, tiny_model)
    if method == "spawn":
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(cf.tl.embed, tiny_adata, tiny_model, copy=True).result(300)
    else:
        joblib = pytest.importorskip("joblib")
        with joblib.parallel_config("loky"):
            tasks = [joblib.delayed(cf.tl.embed)(tiny_adata, tiny_model, copy=True) for _ in range(2)]
            found = joblib.Parallel(n_jobs=2)(tasks)[1]
    np.testing.assert_allclose(found.obsm["X_cellfm"], tiny_adata.obsm["X_cellfm"], atol=1e-6)


# In a process of its own, which has computed nothing yet.
FORKS = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np, scipy.sparse as sp
from anndata import AnnData
import cellfm as cf
from cellfm.errors import InputError

model = cf.load_model(sys.argv[1], backend=sys.argv[2])
counts = np.random.default_rng(0).poisson(2, (40, len(model.vocab))).astype(np.float32)
cells = AnnData(sp.csr_matrix(counts))
cells.var_names = model.vocab.symbols

def embedded(span):
    part = cells[span].copy()
    cf.tl.embed(part, model)
    return part.obsm["X_cellfm"]

fork = multiprocessing.get_context("fork")
with ProcessPoolExecutor(1, fork) as pool:
    before = pool.submit(embedded, slice(0, 40)).result(200)
cf.tl.embed(cells, model)
np.testing.assert_allclose(before, cells.obsm["X_cellfm"], atol=1e-6)

with fork.Pool(2) as pool:
    try:
        pool.map_async(embedded, [slice(0, 20), slice(20, 40)]).get(60)
    except InputError as error:
        sys.stdout.write(str(error))
"""


@pytest.mark.parametrize("backend", ["jax", "mindspore"])
def test_forks_work_before_the_first_use_and_are_refused_after_it(model_dir: Path, backend: str):
    command = [sys.executable, "-W", "ignore", "-c", FORKS, str(model_dir), backend]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert "get_context('spawn')" in ran.stdout
    assert "loky" in ran.stdout
