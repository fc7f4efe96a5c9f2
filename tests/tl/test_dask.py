"""Cells in a Dask array: embedded block by block, in this process or on a cluster, to the bits of those in memory."""

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from anndata import AnnData

import cellfm as cf
import cellfm.model._embed_dask as dask_module
import cellfm.model._embedding_checkpoint as pieces_module
from cellfm.errors import InputError
from cellfm.model import CellFM

# distributed looks for the address of this machine in the network.
pytestmark = pytest.mark.filterwarnings("ignore:Couldn't detect a suitable IP address:RuntimeWarning")
BLOCK = 9


@pytest.fixture(autouse=True)
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    if request.node.get_closest_marker("slow"):  # other processes have blocks as ever
        return
    for place in ("cellfm.cells.input", "cellfm.cells.matrix", "cellfm.model._embed_dask"):
        monkeypatch.setattr(f"{place}.BLOCK_CELLS", BLOCK)
    monkeypatch.setattr(pieces_module, "PIECE_CELLS", 2 * BLOCK)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of two workers that are threads of this process."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, processes=False, threads_per_worker=2, dashboard_address="127.0.0.1:0"
        ) as made,
        distributed.Client(made) as client,
    ):
        yield client


def chunked(values: sp.csr_matrix, rows: int = 15, columns: int = -1) -> da.Array:
    """As scanpy and rapids-singlecell take it: chunks of rows in CSR."""
    lazy = da.from_array(values.toarray(), chunks=(rows, columns))
    return lazy.map_blocks(sp.csr_matrix, dtype=values.dtype, meta=sp.csr_matrix((0, 0), dtype=values.dtype))


def lazily(adata: AnnData, **chunks: int) -> AnnData:
    return AnnData(chunked(adata.X, **chunks), obs=adata.obs.copy(), var=adata.var.copy())


def assert_same(found: AnnData, expected: AnnData) -> None:
    assert isinstance(found.obsm["X_cellfm"], np.ndarray)
    assert found.obsm["X_cellfm"].tobytes() == expected.obsm["X_cellfm"].tobytes()
    one, other = found.uns["cellfm"]["X_cellfm"], expected.uns["cellfm"]["X_cellfm"]
    np.testing.assert_array_equal(one["fingerprints"], other["fingerprints"])
    assert {k: v for k, v in one.items() if k != "fingerprints"} == {
        k: v for k, v in other.items() if k != "fingerprints"
    }


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_without_a_cluster_this_process_embeds(tiny_adata: AnnData, tiny_model: CellFM, scheduler: str):
    lazy = lazily(tiny_adata)
    cf.tl.embed(tiny_adata, tiny_model)
    with dask.config.set(scheduler=scheduler):
        assert dask_module.client_of(_cells(lazy, tiny_model)) is None
        cf.tl.embed(lazy, tiny_model)
    assert_same(lazy, tiny_adata)


def _cells(adata: AnnData, model: CellFM) -> Any:
    from cellfm.cells.input import read_input

    return read_input(adata, model.vocab)


@pytest.mark.parametrize("chunks", [{}, {"rows": 4}, {"rows": 40}, {"rows": 13, "columns": 100}], ids=str)
def test_a_cluster_embeds_to_the_same_bits(
    cluster: Any, tiny_adata: AnnData, tiny_model: CellFM, chunks: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    lazy = lazily(tiny_adata, **chunks)
    cf.tl.embed(tiny_adata, tiny_model)
    embed, seen = dask_module.Work.embed, []

    def seeing(self: dask_module.Work, span: slice, *args: Any) -> Any:
        seen.append((span.start, span.stop))
        return embed(self, span, *args)

    monkeypatch.setattr(dask_module.Work, "embed", seeing)
    cf.tl.embed(lazy, tiny_model)
    assert sorted(seen) == [(0, 9), (9, 18), (18, 27), (27, 36), (36, 40)]
    assert_same(lazy, tiny_adata)
    assert isinstance(lazy.X, da.Array), "the counts stay where they are"


def test_layers_and_values_may_be_lazy(cluster: Any, tiny_adata: AnnData, tiny_model: CellFM):
    tiny_adata.layers["counts"] = tiny_adata.X.copy()
    tiny_adata.layers["mine"] = tiny_adata.X.log1p()
    lazy = tiny_adata.copy()
    lazy.layers["counts"] = chunked(tiny_adata.X)
    for values in (tiny_adata.layers["mine"], chunked(tiny_adata.layers["mine"], rows=7)):
        lazy.layers["mine"] = values
        for data in (lazy, tiny_adata):
            cf.tl.embed(data, tiny_model, layer="counts", values_layer="mine")
        assert_same(lazy, tiny_adata)


def test_annotate_gives_the_labels_of_cells_in_memory(cluster: Any, tiny_adata: AnnData, tiny_model: CellFM):
    lazy = lazily(tiny_adata)
    annotator = cf.tl.fit_annotator(tiny_adata, tiny_model, labels_key="label")
    for data in (lazy, tiny_adata):
        cf.tl.annotate(data, annotator)
    np.testing.assert_array_equal(lazy.obsm["cellfm_proba"], tiny_adata.obsm["cellfm_proba"])
    columns = [column for column in tiny_adata.obs if column.startswith("cellfm")]
    pd.testing.assert_frame_equal(lazy.obs[columns], tiny_adata.obs[columns])


def test_a_cluster_continues_from_pieces(
    cluster: Any, tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch
):
    lazy = lazily(tiny_adata)
    embed, seen = dask_module.Work.embed, []

    def fails_at_last(self: dask_module.Work, span: slice, *args: Any) -> Any:
        seen.append(span.start)
        if span.start == 36 and seen.count(36) == 1:
            raise OSError("the network is down")
        return embed(self, span, *args)

    monkeypatch.setattr(dask_module.Work, "embed", fails_at_last)
    with pytest.raises(OSError, match="network is down"):
        cf.tl.embed(lazy, tiny_model, checkpoint=tmp_path / "pieces")
    assert "X_cellfm" not in lazy.obsm
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pieces").glob("*.npy")}
    assert "000002.npy" not in kept
    cf.tl.embed(lazy, tiny_model, checkpoint=tmp_path / "pieces")
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pieces").iterdir()}.items()
    cf.tl.embed(tiny_adata, tiny_model, checkpoint=tmp_path / "whole")
    assert_same(lazy, tiny_adata)


def test_cells_without_counts_are_named_and_nothing_is_written(
    cluster: Any, tiny_adata: AnnData, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cellfm.cells.matrix._SAMPLE_CELLS", 4)
    monkeypatch.setattr("cellfm.cells.matrix.SAMPLE_CELLS", 12)
    tiny_adata.X.data[tiny_adata.X.indptr[30] : tiny_adata.X.indptr[31]] *= 1.3
    lazy = lazily(tiny_adata)
    with pytest.raises(
        InputError, match=r"adata.X has fractions like .* in cells 27 to 35, where counts were expected"
    ):
        cf.tl.embed(lazy, tiny_model)
    assert "X_cellfm" not in lazy.obsm
    assert "cellfm" not in lazy.uns


def test_workers_that_die_are_told_with_a_way_on(
    cluster: Any, tiny_adata: AnnData, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch
):
    distributed = pytest.importorskip("distributed")

    def died(*_: Any, **__: Any) -> Any:
        raise distributed.CancelledError("lost dependencies")

    monkeypatch.setattr(distributed, "as_completed", died)
    lazy = lazily(tiny_adata)
    with pytest.raises(InputError, match=r"workers of the cluster died .*lost dependencies.* checkpoint="):
        cf.tl.embed(lazy, tiny_model)
    assert "X_cellfm" not in lazy.obsm


@pytest.mark.parametrize("suffix", ["zarr", "h5ad"])
def test_lazily_read_files(tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM, suffix: str):
    pytest.importorskip("xarray")
    read_lazy = pytest.importorskip("anndata.experimental").read_lazy
    tiny_adata.var["feature_types"] = np.where(np.arange(tiny_adata.n_vars) % 5, "Gene Expression", "Antibody Capture")
    getattr(tiny_adata, f"write_{suffix}")(tmp_path / f"in.{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = read_lazy(tmp_path / f"in.{suffix}")
        for data in (lazy, tiny_adata):
            cf.tl.embed(data, tiny_model, min_known_genes=10)
        assert repr(cf.pp.check(lazy, model=tiny_model)) == repr(cf.pp.check(tiny_adata, model=tiny_model))
    assert_same(lazy, tiny_adata)


def _count_models() -> None:
    """On a worker: note each model that arrives."""
    from cellfm.model._cellfm import CellFM

    arrive = CellFM.__setstate__
    CellFM.n_arrived = 0

    def counting(self: CellFM, state: dict) -> None:
        type(self).n_arrived += 1
        arrive(self, state)

    CellFM.__setstate__ = counting


def _n_models() -> int:
    from cellfm.model._cellfm import CellFM

    return CellFM.n_arrived


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("one_dies", [False, True])
def test_two_processes(tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM, one_dies: bool):
    distributed = pytest.importorskip("distributed")
    many = ad.concat([tiny_adata] * 500, index_unique="-")  # 20,000 cells, in ten blocks
    many.var = tiny_adata.var
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        many.write_zarr(tmp_path / "many.zarr")
        read = pytest.importorskip("anndata.experimental").read_elem_lazy
        on_disk = read(zarr.open_group(tmp_path / "many.zarr", mode="r")["X"], chunks=(1500, many.n_vars))
    lazy = AnnData(on_disk, obs=many.obs.copy(), var=many.var.copy())
    cf.tl.embed(many, tiny_model)

    def die_once(block: sp.csr_matrix, mark: str) -> sp.csr_matrix:
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return block
        os.kill(os.getpid(), signal.SIGKILL)
        return block

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as made,
        distributed.Client(made) as client,
    ):
        client.run(by_value(_count_models))
        if one_dies:
            lazy.X = lazy.X.map_blocks(
                by_value(die_once), mark=str(tmp_path / "died"), dtype=lazy.X.dtype, meta=lazy.X._meta
            )
        cf.tl.embed(lazy, tiny_model)
        if not one_dies:  # distributed may drop a copy near the end, and send another
            assert max(client.run(by_value(_n_models)).values()) <= 2
    assert (tmp_path / "died").exists() == one_dies
    np.testing.assert_allclose(lazy.obsm["X_cellfm"], many.obsm["X_cellfm"], atol=1e-5)


def by_value(function: Callable) -> Callable:
    """Workers cannot import the tests: send the code itself."""
    import sys

    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return function
