"""The border to AnnData: every kind of storage gives the same rows, and messages say what was found."""

import re
from pathlib import Path

import anndata as ad
import dask.array as da
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import cellfm as cf
from cellfm.cells.counts import require_counts
from cellfm.cells.matrix import read_matrix
from cellfm.cells.mudata import without_pulling
from cellfm.cells.outputs import record_run
from cellfm.cells.read import read_cells
from cellfm.cells.select import require_in_memory, select
from cellfm.cells.write import write_cells
from cellfm.errors import DataWarning, InputError, MissingKeyError

COUNTS = np.random.default_rng(0).poisson(1.0, (7, 5)).astype(np.float32)
STORED = {
    "dense": np.asarray,
    "Fortran": np.asfortranarray,
    "CSR": sp.csr_matrix,
    "CSC": sp.csc_matrix,
    "CSR array": sp.csr_array,
}


def with_layers() -> AnnData:
    adata = AnnData(np.log1p(COUNTS / 3), layers={"counts": COUNTS, "scaled": COUNTS - 1})
    adata.raw = AnnData(COUNTS)
    return adata


@pytest.fixture
def mdata() -> mudata.MuData:
    with without_pulling():
        proteins = AnnData(COUNTS[:, :2], var=pd.DataFrame(index=["P1", "P2"]))
        return mudata.MuData({"rna": AnnData(COUNTS), "protein": proteins})


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_rows_are_the_same_however_they_are_stored(stored: str, dtype: type):
    values = STORED[stored](COUNTS)
    if sp.issparse(values):
        values.data = values.data.astype(dtype)  # SciPy itself refuses to convert to float16
    else:
        values = values.astype(dtype)
    matrix = read_matrix(AnnData(values))
    assert matrix.describe().kind == "counts"
    spans, blocks = zip(*matrix.blocks(3), strict=True)
    assert [(span.start, span.stop) for span in spans] == [(0, 3), (3, 6), (6, 7)]
    np.testing.assert_array_equal(sp.vstack(blocks).toarray(), COUNTS)


@pytest.mark.parametrize("stored", ["dense", "CSR", "CSC"])
def test_rows_on_disk_are_those_in_memory(stored: str, tmp_path: Path):
    AnnData(STORED[stored](COUNTS)).write_h5ad(tmp_path / "cells.h5ad")
    adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    matrix = read_matrix(adata)
    assert not matrix.in_memory
    assert matrix.describe().kind == "counts"
    np.testing.assert_array_equal(sp.vstack([block for _, block in matrix.blocks(3)]).toarray(), COUNTS)
    adata.file.close()


def test_the_matrix_is_the_one_that_was_named():
    adata = with_layers()
    for layer, name in (
        (None, "adata.X"),
        ("X", "adata.X"),
        ("counts", "adata.layers['counts']"),
        ("raw", "adata.raw.X"),
    ):
        assert read_matrix(adata, layer).name == name


def test_a_missing_layer_lists_those_there_are():
    with pytest.raises(MissingKeyError, match=r"No layer 'count'; available: 'X', 'counts', 'scaled', 'raw'\."):
        read_matrix(with_layers(), "count")
    with pytest.raises(MissingKeyError, match=r"No layer 'raw'; available: 'X'\."):
        read_matrix(AnnData(COUNTS), "raw")
    with pytest.raises(MissingKeyError, match=r"adata.X is empty. Pass layer= with another.*available: 'counts'"):
        read_matrix(AnnData(None, layers={"counts": COUNTS}, shape=COUNTS.shape))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.log1p(COUNTS / 3), r"adata.X has values like .* as after log-normalisation.*recover_counts\(adata\)"),
        (COUNTS - 1, r"negative values like -1, as after scaling"),
        (np.where(COUNTS > 2, np.nan, COUNTS), r"not finite \(nan\)"),
        (np.where(COUNTS > 2, np.inf, COUNTS), r"not finite \(inf\)"),
        (COUNTS * 0, "nothing but zeros"),
        (COUNTS * 1000 / 7, "as after normalisation"),
    ],
)
def test_what_is_no_count_is_refused_by_what_it_is(values: np.ndarray, message: str):
    for stored in (values, sp.csr_matrix(values)):
        adata = AnnData(stored)
        with pytest.raises(InputError, match=message):
            require_counts(read_matrix(adata), adata)


@pytest.mark.parametrize("where", ["X", "layer", "raw"])
@pytest.mark.parametrize("stored", ["dense", "CSR", "CSC", "CSR array", "dask", "disk"])
def test_round_off_is_removed_and_said(where: str, stored: str, tmp_path: Path):
    off = (COUNTS + np.random.default_rng(1).uniform(-5e-4, 5e-4, COUNTS.shape)).astype(np.float32)
    values = da.from_array(off, chunks=(3, 5)) if stored == "dask" else STORED.get(stored, np.asarray)(off)
    adata = AnnData(COUNTS, layers={"off": values})
    if where == "X":
        adata.X = values
    if where == "raw":
        adata.raw = AnnData(values)
    if stored == "disk":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = read_cells(tmp_path / "cells.h5ad", backed=True)
    matrix = read_matrix(adata, {"X": None, "layer": "off", "raw": "raw"}[where])
    with pytest.warns(DataWarning, match=rf"{re.escape(matrix.name)} are whole numbers to within 0\.000"):
        counts = require_counts(matrix, adata)
    np.testing.assert_array_equal(sp.vstack([block for _, block in counts.blocks(3)]).toarray(), COUNTS)
    if stored == "disk":
        adata.file.close()


@pytest.mark.parametrize(("bad", "shown"), [(np.nan, r"\(nan\)"), (-3, "negative values like -3"), (0.5, "0.5")])
def test_what_no_sample_shows_is_refused_when_it_is_read(bad: float, shown: str, tmp_path: Path):
    counts = np.random.default_rng(0).poisson(1.0, (4000, 3)).astype(np.float32)
    counts[1000, 1] = bad
    AnnData(sp.csr_matrix(counts)).write_h5ad(tmp_path / "cells.h5ad")
    adata = read_cells(tmp_path / "cells.h5ad", backed=True)
    matrix = require_counts(read_matrix(adata), adata)
    with pytest.raises(InputError, match=rf"{shown}.* in cells 0 to 2,047.*nothing was written"):
        list(matrix.blocks())
    adata.file.close()


def test_whole_numbers_in_memory_are_looked_at_once():
    adata = AnnData(COUNTS)
    matrix = read_matrix(adata)
    assert require_counts(matrix, adata) == matrix


@pytest.mark.parametrize("layer", [None, "words", "raw"])
def test_text_is_named_and_objects_that_are_numbers_are_taken(layer: str | None):
    words = np.full(COUNTS.shape, "many", object)
    adata = AnnData(words, layers={"words": words, "objects": COUNTS.astype(int).astype(object)})
    adata.raw = AnnData(words)
    with pytest.raises(InputError, match=r"dtype is object and it has entries such as 'many' of type str"):
        read_matrix(adata, layer)
    np.testing.assert_array_equal(read_matrix(adata, "objects").rows(0, 7).toarray(), COUNTS)
    with pytest.raises(InputError, match="'many'"):
        cf.tl.embed(adata, layer=layer)
    report = cf.pp.check(adata, layer=layer)
    assert report.values == "no numbers"
    assert "'many' of type str" in report.problems[0]


def test_a_file_without_x_names_its_layers(tmp_path: Path):
    AnnData(layers={"umis": COUNTS}).write_h5ad(tmp_path / "cells.h5ad")
    write_cells(AnnData(layers={"umis": COUNTS}), tmp_path / "cells.zarr")
    for name in ("cells.h5ad", "cells.zarr"):
        for backed in (False, True):
            adata = read_cells(tmp_path / name, backed=backed)
            for tool in (cf.tl.embed, cf.pp.check, cf.pp.recover_counts):
                with pytest.raises(MissingKeyError, match="adata.X is empty. .* available: 'umis'"):
                    tool(adata)
            if adata.isbacked:
                adata.file.close()


def test_counts_elsewhere_are_pointed_to_and_not_taken():
    adata = with_layers()
    with pytest.raises(InputError, match="pass layer='counts' or layer='raw'"):
        require_counts(read_matrix(adata), adata)


def test_a_modality_is_picked(mdata: mudata.MuData):
    assert select(mdata) is mdata.mod["rna"]
    assert select(mdata, "protein").n_vars == 2
    with pytest.raises(MissingKeyError, match="No modality 'atac'; available: rna, protein"):
        select(mdata, "atac")


@pytest.mark.parametrize(("data", "found"), [(COUNTS, "ndarray"), (pd.DataFrame(COUNTS), "DataFrame"), (None, "None")])
def test_other_objects_are_refused(data: object, found: str):
    with pytest.raises(InputError, match=f"AnnData or MuData object, found {found}"):
        select(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "what"), [((0, 5), "cells"), ((5, 0), "genes")])
def test_empty_tables_are_refused(shape: tuple[int, int], what: str):
    with pytest.raises(InputError, match=f"contain no {what}"):
        select(AnnData(np.zeros(shape, np.float32)))


def test_a_table_without_x_is_told_what_its_layer_holds():
    adata = AnnData(layers={"scaled": COUNTS - 1, "counts": COUNTS})
    with pytest.raises(InputError, match="has negative values like -1, .*pass layer='counts'"):
        require_counts(read_matrix(adata, "scaled"), adata)
    with pytest.raises(MissingKeyError, match="available: none"):
        read_matrix(AnnData(obs=adata.obs, var=adata.var))


def test_data_on_disk_cannot_be_changed(tmp_path: Path):
    AnnData(COUNTS).write_h5ad(tmp_path / "cells.h5ad")
    adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(InputError, match=r"this changes the data.*to_memory\(\)"):
        require_in_memory(adata, "this")
    adata.file.close()


def test_records_add_up_and_can_be_saved(tmp_path: Path):
    adata = AnnData(COUNTS)
    record_run(adata, "one", seed=1, missing=None)
    record_run(adata, "two", name="x")
    assert adata.uns["cellfm"]["one"].keys() == {"cellfm_version", "run", "slot", "seed"}
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert ad.read_h5ad(tmp_path / "cells.h5ad").uns["cellfm"]["two"]["name"] == "x"


def test_warnings_point_at_the_line_that_called(tiny_adata, tiny_model):
    more = tiny_adata.copy()
    more.var_names = [*more.var_names[:210], *(f"OTHER{i}" for i in range(110))]
    more = more[:, [*range(200), *range(210, 320)]].copy()
    several = AnnData(sp.hstack([more.X, more.X]).tocsr())
    several.var_names = [*more.var_names, *(f"X{i}" for i in range(more.n_vars))]
    with pytest.warns(DataWarning, match="The model knows") as caught:
        cf.tl.embed(several, tiny_model)
    assert caught[0].filename == __file__


def test_blocks_of_dask_compute_each_chunk_once():
    computed = []

    def chunk(block: np.ndarray, block_info: dict) -> np.ndarray:
        computed.append(block_info[None]["chunk-location"][0])
        return block

    values = np.arange(40 * 3, dtype=np.float32).reshape(40, 3)
    lazy = da.from_array(values, chunks=(15, -1)).map_blocks(chunk, dtype=np.float32, meta=values[:0])
    matrix = read_matrix(AnnData(lazy))
    for n_cells in (4, 20, 40):
        computed.clear()
        blocks = [block.toarray() for _, block in matrix.blocks(n_cells)]
        np.testing.assert_array_equal(np.concatenate(blocks), values)
        assert computed == [0, 1, 2]
    assert matrix.rows(7, 7).shape == (0, 3)
