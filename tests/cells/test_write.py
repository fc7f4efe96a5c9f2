"""Cells are written whole or not at all, and what cannot be written is refused before any long work."""

import errno
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import zarr
from anndata import AnnData
from mudata import MuData

from cellfm.cells.mudata import without_pulling
from cellfm.cells.read import read_cells
from cellfm.cells.write import check_writable, write_cells, write_copy
from cellfm.errors import DataWarning, InputError


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_written_is_read(tmp_path: Path, tiny_adata: AnnData, suffix: str):
    tiny_adata.obsm["X_cellfm"] = np.random.default_rng(0).standard_normal((tiny_adata.n_obs, 4)).astype(np.float32)
    tiny_adata.obsm["X_cellfm"][3] = np.nan  # a cell without an embedding
    path = tmp_path / f"cells{suffix}"
    for _ in range(2):  # also in place of an older file
        write_cells(tiny_adata, path)
        read = read_cells(path)
        assert (read.X != tiny_adata.X).nnz == 0
        assert read.obs.equals(tiny_adata.obs)
        np.testing.assert_array_equal(read.obsm["X_cellfm"], tiny_adata.obsm["X_cellfm"], strict=True)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".h5mu", ".zarr"])
def test_mudata_goes_to_its_own_formats(tmp_path: Path, tiny_adata: AnnData, suffix: str):
    with without_pulling():
        mdata = MuData({"rna": tiny_adata})
        write_cells(mdata, tmp_path / f"cells{suffix}")
    assert list(tmp_path.iterdir()) == [tmp_path / f"cells{suffix}"]
    with pytest.raises(InputError, match=r"MuData is written to \.h5mu or \.zarr"):
        write_cells(mdata, tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match=r"AnnData is written to \.h5ad or \.zarr"):
        write_cells(tiny_adata, tmp_path / "cells.h5mu")


# In a process of its own, because HDF5 is of no more use once it could not close a file. The largest size of a file
# stands for the end of the disk: the system refuses in the middle of the writing.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from anndata import AnnData
from cellfm.cells import write_cells
from cellfm.errors import InputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    write_cells(AnnData(np.random.default_rng(0).random((50, 40), np.float32)), Path(sys.argv[1]))
except InputError as error:
    sys.stdout.write(str(error))
"""


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, tiny_adata: AnnData, suffix: str):
    path = tmp_path / f"cells{suffix}"
    write_cells(tiny_adata, path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    ran = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=False)
    assert ran.stdout == f"Could not write {path}: File too large. Nothing was changed."
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["cells.csv", "cells", "cells.h5"])
def test_the_suffix_chooses_the_format(tmp_path: Path, name: str):
    with pytest.raises(InputError, match=r"must end in \.h5ad, \.zarr, \.h5mu"):
        check_writable(tmp_path / name)


def test_what_cannot_be_written_is_found_out_first(tmp_path: Path):
    with pytest.raises(InputError, match="there is no folder .*no"):
        check_writable(tmp_path / "no" / "cells.h5ad")
    for name in ("folder.h5ad", "notes.zarr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("keep me")
        with pytest.raises(InputError, match="is a folder; choose another name"):
            check_writable(tmp_path / name)
    (tmp_path / "file.zarr").write_text("")
    with pytest.raises(InputError, match=r"a \.zarr is a folder"):
        check_writable(tmp_path / "file.zarr")
    check_writable(tmp_path / "fine.h5ad")
    assert not (tmp_path / "fine.h5ad").exists()


def test_a_folder_that_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)  # the tests may run as root, whom no folder refuses
    with pytest.raises(InputError, match=r"cells\.h5ad cannot be written: Permission denied"):
        check_writable(tmp_path / "cells.h5ad")


@pytest.mark.parametrize("same", [False, True])
def test_a_copy_has_the_new_entries_and_everything_else_as_it_was(tmp_path: Path, tiny_adata: AnnData, same: bool):
    source = tmp_path / "in.h5ad"
    tiny_adata.layers["twice"] = tiny_adata.X * 2
    tiny_adata.obsm["X_pca"] = np.ones((tiny_adata.n_obs, 2))
    tiny_adata.uns["cellfm"] = {"older": {"seed": 1}}
    write_cells(tiny_adata, source)
    target = source if same else tmp_path / "out.h5ad"
    embedding = np.full((tiny_adata.n_obs, 3), 0.5, np.float32)
    for seed in (2, 3):  # the second time, entries of these names are there
        backed = read_cells(source, backed=True)
        backed.obsm["X_new"] = embedding * seed
        backed.uns["cellfm"] = {"X_new": {"seed": seed, "name": "tiny"}}
        write_copy(source, backed, target, obsm="X_new", uns="cellfm")
    written = anndata.read_h5ad(target)
    np.testing.assert_array_equal(written.obsm["X_new"], embedding * 3, strict=True)
    assert written.uns["cellfm"] == {"X_new": {"seed": 3, "name": "tiny"}}
    np.testing.assert_array_equal(written.obsm["X_pca"], tiny_adata.obsm["X_pca"])
    assert (written.X != tiny_adata.X).nnz == 0
    assert (written.layers["twice"] != tiny_adata.layers["twice"]).nnz == 0
    assert written.obs.equals(tiny_adata.obs)
    if not same:
        assert "X_new" not in anndata.read_h5ad(source).obsm


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_copy_holds_nothing_that_anndata_cannot_read(tmp_path: Path, tiny_adata: AnnData, suffix: str):
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write_cells(tiny_adata, source)
    if suffix == ".zarr":
        zarr.open_group(source, mode="r+", use_consolidated=False).create_group("junk")
    else:
        with h5py.File(source, "r+") as file:
            file["junk/x"], file["scalar"] = np.arange(3), 5
    cells = read_cells(source, backed=True)
    cells.obsm["X_new"] = np.ones((tiny_adata.n_obs, 3), np.float32)
    cells.uns["cellfm"] = {"X_new": {"seed": 0}}
    with pytest.warns(DataWarning, match="'junk'.* in the input .* left out of the output"):
        write_copy(source, cells, target, obsm="X_new", uns="cellfm")
    read = anndata.read_zarr(target) if suffix == ".zarr" else anndata.read_h5ad(target)
    assert read.obsm["X_new"].shape == (tiny_adata.n_obs, 3)


def test_a_copy_of_a_file_without_obsm_gains_it(tmp_path: Path, tiny_adata: AnnData):
    source = tmp_path / "in.h5ad"
    write_cells(tiny_adata, source)
    with h5py.File(source, "r+") as file:
        del file["obsm"], file["uns"]
    backed = read_cells(source, backed=True)
    backed.obsm["X_new"] = np.ones((tiny_adata.n_obs, 3), np.float32)
    backed.uns["cellfm"] = {"X_new": {"seed": 0}}
    write_copy(source, backed, tmp_path / "out.h5ad", obsm="X_new", uns="cellfm")
    assert anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_new"].shape == (tiny_adata.n_obs, 3)


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, tiny_adata: AnnData, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "in.h5ad"
    write_cells(tiny_adata, source)
    backed = read_cells(source, backed=True)
    backed.obsm["X_new"] = np.ones((tiny_adata.n_obs, 3), np.float32)
    backed.uns["cellfm"] = {}

    def full(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(InputError, match=r"Could not write .*out\.h5ad: No space left on device"):
        write_copy(source, backed, tmp_path / "out.h5ad", obsm="X_new", uns="cellfm")
    assert list(tmp_path.iterdir()) == [source]
