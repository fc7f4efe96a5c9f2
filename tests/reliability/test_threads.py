"""Threads that share a model or a table: each gets its right answer, and nothing is lost."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from anndata import AnnData

import cellfm as cf
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import CellFM

N_THREADS = 4


def at_once(*jobs: Callable[[], object]) -> None:
    """Run jobs in threads that begin together; what one raises is raised."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], object]) -> None:
        barrier.wait(60)
        job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        for running in [pool.submit(run, job) for job in jobs]:
            running.result(300)


@pytest.mark.parametrize("backend", ["jax", "mindspore"])
def test_one_model_in_several_threads(tiny_vocab: Vocabulary, tiny_model: CellFM, tiny_adata: AnnData, backend: str):
    # Not yet used: the threads meet while the network is built and compiled, too.
    model = CellFM(tiny_model.config, tiny_vocab, tiny_model.weights, backend=backend)
    parts = [tiny_adata[i::N_THREADS].copy() for i in range(N_THREADS)]
    at_once(*(lambda part=part: cf.tl.embed(part, model) for part in parts))
    expected = cf.tl.embed(tiny_adata, tiny_model, copy=True).obsm["X_cellfm"]
    for i, part in enumerate(parts):
        np.testing.assert_allclose(part.obsm["X_cellfm"], expected[i::N_THREADS], atol=1e-5)


def test_two_models_in_two_threads(tiny_vocab: Vocabulary, tiny_model: CellFM, tiny_adata: AnnData):
    models = [CellFM(tiny_model.config, tiny_vocab, random_state=seed) for seed in (1, 2)]
    copies = [tiny_adata.copy() for _ in models]
    at_once(*(lambda c=c, m=m: cf.tl.embed(c, m) for c, m in zip(copies, models, strict=True)))
    for found, model in zip(copies, models, strict=True):
        again = cf.tl.embed(tiny_adata, model, copy=True)
        np.testing.assert_allclose(found.obsm["X_cellfm"], again.obsm["X_cellfm"], atol=1e-5)


def test_several_threads_in_one_table(tiny_model: CellFM, tiny_adata: AnnData):
    expected = cf.tl.embed(tiny_adata, tiny_model, copy=True).obsm["X_cellfm"]
    keys = [f"X_{i}" for i in range(N_THREADS)]
    for _ in range(5):
        adata = tiny_adata.copy()
        at_once(*(lambda key=key, a=adata: cf.tl.embed(a, tiny_model, key_added=key) for key in keys))
        assert set(adata.uns["cellfm"]) == set(keys)
        for key in keys:
            np.testing.assert_allclose(adata.obsm[key], expected, atol=1e-5)


def test_the_record_of_one_thread_is_not_overwritten_by_another(tiny_adata: AnnData, monkeypatch: pytest.MonkeyPatch):
    # Each reads the records, adds its own and puts them back: nobody may come between.
    from cellfm.cells import outputs as _outputs

    inside, most = [], []

    def slow(_: str) -> str:
        inside.append(None)
        most.append(len(inside))
        threading.Event().wait(0.02)
        inside.pop()
        return "1"

    monkeypatch.setattr(_outputs, "version", slow)
    at_once(*(lambda i=i: _outputs.record_run(tiny_adata, f"run {i}", fact=i) for i in range(N_THREADS)))
    assert len(tiny_adata.uns["cellfm"]) == N_THREADS
    assert set(most) == {1}
