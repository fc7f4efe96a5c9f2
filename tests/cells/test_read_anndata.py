""".h5ad and .zarr with what anndata does not know, with names in nullable text, and without X."""

import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from anndata import AnnData

from cellfm.cells.matrix import matrices, read_matrix
from cellfm.cells.read import read_cells
from cellfm.corpus._sources import name_sources, open_table
from cellfm.errors import InputError, MissingKeyError


@pytest.fixture
def cells() -> AnnData:
    counts = sp.random(9, 5, 0.6, format="csr", random_state=0, dtype=np.float32)
    counts.data = np.ceil(counts.data * 9).astype(np.float32)
    obs = pd.DataFrame({"kind": list("abcabcabc")}, index=[f"cell{i}" for i in range(9)])
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=list("ABCDE")), obsm={"X_pca": np.ones((9, 2))})
    adata.layers["counts"] = counts.copy()
    adata.uns["facts"] = {"n": 1}
    return adata


def write(kind: str, folder: Path, cells: AnnData) -> tuple[Path, object]:
    """The file, and it opened to be changed."""
    path = folder / f"cells.{kind}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data", UserWarning)
        getattr(cells, f"write_{kind}")(path)
    return path, h5py.File(path, "r+") if kind == "h5ad" else zarr.open_group(path, mode="r+", use_consolidated=False)


@pytest.mark.parametrize("backed", [False, True])
def test_scalars_and_unknown_entries_do_no_harm(tmp_path: Path, cells: AnnData, backed: bool):
    path, file = write("h5ad", tmp_path, cells)
    with file:
        file["scalar"], file["text"], file["numbers"] = 3.5, "by hand", np.arange(4)
        file.create_dataset("nothing", data=h5py.Empty("f"))
        file.create_group("analysis")["table"] = np.ones((2, 2))
        file["obsm/scalar"], file["obsm/short"] = 2.5, np.ones((3, 2))
        file["uns/strange"] = np.arange(3)
        file["uns/strange"].attrs["encoding-type"] = "of-another-program"
        file["uns/strange"].attrs["encoding-version"] = "9.9"
        file["layers/scalar"] = 1.0
        file["obs/strange"] = np.arange(9)
        file["obs/strange"].attrs["encoding-type"] = "of-another-program"
        file["obs/strange"].attrs["encoding-version"] = "9.9"
        file["obs"].attrs["column-order"] = np.array(["kind", "strange"], dtype=object)
    with open_table(name_sources(path)[0], layer="counts", modality="rna") as table:
        np.testing.assert_array_equal(table.matrix.rows(0, 9).toarray(), cells.X.toarray())
        assert list(table.obs) == ["kind"]
    read = read_cells(path, backed=backed)
    np.testing.assert_array_equal(read_matrix(read).rows(0, 9).toarray(), cells.X.toarray())
    np.testing.assert_array_equal(read_matrix(read, "counts").rows(0, 9).toarray(), cells.X.toarray())
    assert list(read.obsm) == ["X_pca"]
    assert read.uns["facts"] == {"n": 1}
    assert list(read.obs["kind"]) == list(cells.obs["kind"])


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("backed", [False, True])
def test_layers_with_slashes_keep_their_names(tmp_path: Path, cells: AnnData, kind: str, backed: bool):
    path, file = write(kind, tmp_path, cells)
    for name in ("spliced/raw", "a/b/c"):
        parent, _, last = f"layers/{name}".rpartition("/")  # anndata 0.13 writes no name with a slash
        ad.io.write_elem(file.require_group(parent), last, cells.X * 2)
    if kind == "h5ad":
        file.close()
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
            zarr.consolidate_metadata(file.store)
    read = read_cells(path, backed=backed)
    assert {*read.layers} - {None} == {"a/b/c", "counts", "spliced/raw"}  # None is X in anndata 0.13
    np.testing.assert_array_equal(read_matrix(read, "spliced/raw").rows(0, 9).toarray(), 2 * cells.X.toarray())
    with open_table(name_sources(path)[0], layer="spliced/raw", modality="rna") as table:
        np.testing.assert_array_equal(table.matrix.rows(0, 9).toarray(), 2 * cells.X.toarray())


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("backed", [False, True])
def test_without_x_the_layers_are_named(tmp_path: Path, cells: AnnData, kind: str, backed: bool):
    cells.X = None
    path, file = write(kind, tmp_path, cells)
    if kind == "h5ad":
        file.close()
    read = read_cells(path, backed=backed)
    assert matrices(read) == ["counts"]
    with pytest.raises(MissingKeyError, match="adata.X is empty. Pass layer= .*'counts'"):
        read_matrix(read)
    np.testing.assert_array_equal(read_matrix(read, "counts").rows(0, 9).toarray(), cells.layers["counts"].toarray())
    plain = ad.read_h5ad(path, backed="r") if kind == "h5ad" and backed else None
    assert plain is None or matrices(plain) == ["counts"]


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("backed", [False, True])
def test_names_in_nullable_text_are_read_as_plain_text(tmp_path: Path, cells: AnnData, kind: str, backed: bool):
    expected = list(cells.obs_names), list(cells.var_names)
    cells.raw = cells.copy()
    for table, names in ((cells, "obs_names"), (cells, "var_names")):
        setattr(table, names, pd.Index(pd.array(list(getattr(table, names)), dtype="string")))
    with ad.settings.override(allow_write_nullable_strings=True):
        path, file = write(kind, tmp_path, cells)
    if kind == "h5ad":
        file.close()
    read = read_cells(path, backed=backed)
    assert (list(read.obs_names), list(read.var_names)) == expected
    assert read.obs_names.dtype == read.var_names.dtype == pd.Index(["plain"]).dtype
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data", UserWarning)
        read.to_memory().write_zarr(tmp_path / "again.zarr")


def test_damage_is_still_named(tmp_path: Path, cells: AnnData):
    path, file = write("h5ad", tmp_path, cells)
    with file:
        del file["obs"]
    with pytest.raises(InputError, match="looks like h5ad but cannot be read.*damaged"):
        read_cells(path)


def test_elements_of_a_newer_anndata_are_no_damage(tmp_path: Path, cells: AnnData):
    path, file = write("h5ad", tmp_path, cells)
    with file:
        file["X"].attrs["encoding-type"] = "matrix-of-the-future"
    with pytest.raises(InputError, match="cannot read a part.*pip install -U anndata") as caught:
        read_cells(path)
    assert "damaged" not in str(caught.value)
