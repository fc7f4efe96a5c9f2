"""Files of cells are known by their content, read as they were written, and refused for what they are."""

import gzip
import shutil
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from cellfm.cells.mudata import without_pulling
from cellfm.cells.read import cell_format, read_cells
from cellfm.cells.write import write_cells, write_copy
from cellfm.errors import InputError


@pytest.fixture
def adata() -> AnnData:
    counts = sp.random(12, 7, 0.5, format="csr", random_state=0, dtype=np.float32)
    counts.data = np.ceil(counts.data * 9).astype(np.float32)
    obs = pd.DataFrame({"kind": pd.Categorical(["a", "b"] * 6)}, index=[f"cell{i}" for i in range(12)])
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(7)]))


def write_mtx(folder: Path, adata: AnnData, prefix: str = "", *, genes: list[str] | None = None) -> Path:
    """A folder as Cell Ranger 3 writes it."""
    folder.mkdir(exist_ok=True)
    names = list(adata.var_names) if genes is None else genes
    with gzip.open(folder / f"{prefix}matrix.mtx.gz", "wb") as file:
        scipy.io.mmwrite(file, adata.X.T.astype(int))
    rows = "".join(f"ENSG{i:011d}\t{name}\tGene Expression\n" for i, name in enumerate(names))
    (folder / f"{prefix}features.tsv.gz").write_bytes(gzip.compress(rows.encode()))
    (folder / f"{prefix}barcodes.tsv.gz").write_bytes(gzip.compress("\n".join(adata.obs_names).encode()))
    return folder


def write_10x_h5(path: Path, adata: AnnData) -> Path:
    """A file as Cell Ranger 3 writes it."""
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["data"], matrix["indices"] = adata.X.data.astype(np.int32), adata.X.indices
        matrix["indptr"], matrix["shape"] = adata.X.indptr, np.array(adata.shape[::-1])
        matrix["barcodes"] = np.array(list(adata.obs_names), "S")
        features = matrix.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(adata.n_vars)], "S")
        features["name"] = np.array(list(adata.var_names), "S")
        features["feature_type"] = np.array(["Gene Expression"] * adata.n_vars, "S")
        features["genome"] = np.array(["GRCh38"] * adata.n_vars, "S")
    return path


def make(kind: str, folder: Path, adata: AnnData) -> Path:
    if kind == "10x h5":
        return write_10x_h5(folder / "cells.h5", adata)
    if kind == "10x mtx":
        return write_mtx(folder / "cells", adata)
    path = folder / f"cells.{kind}"
    with without_pulling():
        write_cells(MuData({"rna": adata}) if kind == "h5mu" else adata, path)
    return path


@pytest.mark.parametrize("kind", ["h5ad", "zarr", "h5mu", "10x h5", "10x mtx"])
def test_every_format_gives_the_same_cells(tmp_path: Path, adata: AnnData, kind: str):
    path = make(kind, tmp_path, adata)
    assert cell_format(path) == kind
    read = read_cells(path)
    read = read["rna"] if kind == "h5mu" else read
    assert list(read.obs_names) == list(adata.obs_names)
    assert list(read.var_names) == list(adata.var_names)
    np.testing.assert_array_equal(read.X.toarray(), adata.X.toarray())


@pytest.mark.parametrize(("kind", "name"), [("h5ad", "cells"), ("h5mu", "cells.h5"), ("10x h5", "cells.h5ad")])
def test_the_content_tells_the_format_and_not_the_name(tmp_path: Path, adata: AnnData, kind: str, name: str):
    (tmp_path / "made").mkdir()
    path = make(kind, tmp_path / "made", adata).rename(tmp_path / name)
    assert cell_format(path) == kind


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_backed_matrices_stay_on_disk(tmp_path: Path, adata: AnnData, kind: str):
    adata.raw = adata
    adata.layers["sparse"], adata.layers["dense"] = adata.X * 2, adata.X.toarray() * 3
    adata.layers["turned"] = sp.csc_matrix(adata.X)  # its rows are all over the file
    backed = read_cells(make(kind, tmp_path, adata), backed=True)
    assert backed.isbacked == (kind == "h5ad")
    expected = adata.X[3:5].toarray()
    matrices = {"X": backed.X, "raw": backed.raw.X, **backed.layers}
    for name, factor in {"X": 1, "raw": 1, "sparse": 2, "dense": 3, "turned": 1}.items():
        assert isinstance(matrices[name], np.ndarray | sp.spmatrix | sp.sparray) == (name == "turned"), name
        rows = matrices[name][3:5]
        np.testing.assert_array_equal(rows.toarray() if sp.issparse(rows) else rows, factor * expected)
    assert list(backed.obs["kind"]) == list(adata.obs["kind"])
    assert list(backed.raw.var_names) == list(backed.var_names) == list(adata.var_names)


def test_files_from_before_anndata_07_are_read_and_copied(tmp_path: Path, adata: AnnData):
    path = make("h5ad", tmp_path, adata)
    with h5py.File(path, "r+") as file:
        for name in ("encoding-type", "encoding-version"):
            del file.attrs[name]
    backed = read_cells(path, backed=True)
    assert backed.isbacked
    np.testing.assert_array_equal(backed.X[3:5].toarray(), adata.X[3:5].toarray())
    backed.obsm["new"], backed.uns["facts"] = np.ones((adata.n_obs, 2), np.float32), {"n": 1}
    write_copy(path, backed, tmp_path / "copy.h5ad", obsm="new", uns="facts")
    copy = read_cells(tmp_path / "copy.h5ad")
    assert copy.obsm["new"].sum() == 2 * adata.n_obs
    np.testing.assert_array_equal(copy.X.toarray(), adata.X.toarray())


def test_some_formats_are_read_whole_only(tmp_path: Path, adata: AnnData):
    with pytest.raises(InputError, match="only h5ad and zarr can be read with backed=True"):
        read_cells(make("10x h5", tmp_path, adata), backed=True)


@pytest.mark.parametrize("prefix", ["", "GSM1_"])
def test_a_folder_may_carry_a_prefix(tmp_path: Path, adata: AnnData, prefix: str):
    assert read_cells(write_mtx(tmp_path / "cells", adata, prefix)).shape == adata.shape


def test_a_folder_of_several_samples_is_refused(tmp_path: Path, adata: AnnData):
    write_mtx(tmp_path / "cells", adata, "one_")
    write_mtx(tmp_path / "cells", adata, "two_")
    with pytest.raises(InputError, match=r"several matrices \(one_matrix\.mtx\.gz, two_matrix\.mtx\.gz\)"):
        read_cells(tmp_path / "cells")


def test_genes_of_one_name_keep_it(tmp_path: Path, adata: AnnData):
    genes = ["TWIN", "TWIN", *adata.var_names[2:]]
    read = read_cells(write_mtx(tmp_path / "cells", adata, genes=genes))
    assert list(read.var_names) == genes


@pytest.mark.parametrize("kind", ["h5ad", "10x h5", "h5mu"])
def test_a_truncated_file_is_an_input_error(tmp_path: Path, adata: AnnData, kind: str):
    path = make(kind, tmp_path, adata)
    content = path.read_bytes()
    for kept in (0.05, 0.5, 0.99):
        path.write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(InputError, match=r"cells.*(cut short or damaged|is not a file of cells)"):
            read_cells(path)


def test_damaged_files_raise_nothing_but_input_errors(tmp_path: Path, adata: AnnData):
    path = make("h5ad", tmp_path, adata)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    outcomes = []
    for _ in range(60):
        content = bytearray(whole)
        start = int(generator.integers(8, len(whole) - 64))
        content[start : start + 64] = generator.bytes(64)
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # odd names, which AnnData warns of
                read_cells(path)
            outcomes.append("read")
        except InputError:
            outcomes.append("refused")
    assert "refused" in outcomes


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is empty"),
        (b"gene\tdisease\nTP53\tcancer\n", r"text, perhaps a table, and begins with 'gene\\tdisease"),
        (b"<!DOCTYPE html><html>", "begins with '<!DOCTYPE html>"),
        ("gène\n".encode() * 2000, "it is text"),
        (gzip.compress(b"x", mtime=0), "compressed by gzip, and its content is text"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"%%MatrixMarket matrix coordinate integer general\n", "pass the folder"),
        (b"RDX3\nX\n\x00\x00", r"R data .*load\("),
        (b"\xff\xfe\x00\x01" * 40, "binary data of an unknown format"),
    ],
)
def test_other_files_are_named_for_what_they_seem(tmp_path: Path, content: bytes, found: str):
    path = tmp_path / "cells.h5ad"
    path.write_bytes(content)
    with pytest.raises(InputError, match=found) as caught:
        read_cells(path)
    assert "Supported are .h5ad, .h5mu, .zarr, 10x Genomics .h5" in str(caught.value)


def test_other_hdf5_files_are_named_for_what_they_hold(tmp_path: Path):
    path = tmp_path / "cells.h5"
    with h5py.File(path, "w") as file:
        file["weights"] = np.ones(3)
    with pytest.raises(InputError, match="HDF5 file with other contents: 'weights'"):
        read_cells(path)
    with h5py.File(path, "w") as file:
        for name in ("assays", "cell.names", "meta.data"):
            file.create_group(name)
    with pytest.raises(InputError, match=r'h5Seurat file.*SeuratDisk::Convert\("cells.h5", dest = "h5ad"\)'):
        read_cells(path)


def test_missing_files_and_folders_of_other_things_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="No file .*nothing"):
        read_cells(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"a folder without matrix\.mtx"):
        read_cells(tmp_path)


def test_an_incomplete_10x_folder_names_what_is_missing(tmp_path: Path, adata: AnnData):
    folder = write_mtx(tmp_path / "cells", adata)
    (folder / "barcodes.tsv.gz").unlink()
    with pytest.raises(InputError, match=r"no barcodes\.tsv .*; available: features.tsv.gz, matrix.mtx.gz") as caught:
        read_cells(folder)
    assert "damaged" not in str(caught.value)


def test_a_damaged_zarr_is_an_input_error(tmp_path: Path, adata: AnnData):
    path = make("zarr", tmp_path, adata)
    shutil.rmtree(path / "obs")
    for file in path.glob("*"):
        if file.is_file() and file.name not in (".zgroup", "zarr.json"):
            file.write_text("{")
    with pytest.raises(InputError, match=r"looks like zarr but cannot be read"):
        read_cells(path)


def test_reading_is_what_anndata_reads(shared_data: Path):
    path = shared_data / "pbmc_citeseq_scvi.h5ad"
    expected, read = anndata.read_h5ad(path), read_cells(path)
    assert read.obs.equals(expected.obs)
    assert (read.X != expected.X).nnz == 0
