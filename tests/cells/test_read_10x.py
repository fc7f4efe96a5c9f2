"""10x Genomics and STARsolo: all layouts of files and folders give the same cells, and what is missing is named."""

import bz2
import gzip
import lzma
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellfm.cells.read import cell_format, read_cells
from cellfm.corpus._sources import name_sources, open_table
from cellfm.errors import InputError

SHRINK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.fixture(scope="module")
def cells() -> AnnData:
    counts = sp.random(12, 7, 0.5, format="csr", random_state=0, dtype=np.float32)
    counts.data = np.ceil(counts.data * 9).astype(np.float32)
    var = pd.DataFrame({"gene_ids": [f"ENSG{i:011d}" for i in range(7)]}, index=[f"GENE{i}" for i in range(7)])
    return AnnData(counts, obs=pd.DataFrame(index=[f"cell{i}-1" for i in range(12)]), var=var)


def put(path: Path, content: bytes, end: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + (f".{end}" if end else "")).write_bytes(SHRINK[end](content) if end else content)


def write_folder(
    folder: Path,
    cells: AnnData,
    *,
    columns: int = 3,
    features: str = "features.tsv",
    prefix: str = "",
    ends: tuple[str, str, str] = ("", "", ""),
    turned: bool = False,
    header: bool = False,
) -> Path:
    scratch = folder.parent / "scratch.mtx"
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.mmwrite(scratch, sp.coo_matrix(cells.X if turned else cells.X.T).astype(int))
    put(folder / f"{prefix}matrix.mtx", scratch.read_bytes(), ends[0])
    scratch.unlink()
    rows = zip(cells.var["gene_ids"], cells.var_names, ["Gene Expression"] * 7, ["GRCh38"] * 7, strict=True)
    chosen = {1: slice(1, 2), 2: slice(0, 2), 3: slice(0, 3), 4: slice(0, 4)}[columns]
    head = ("gene_id\tgene_name\n", "barcode\n") if header else ("", "")
    table = head[0] + "".join("\t".join(row[chosen]) + "\n" for row in rows)
    put(folder / f"{prefix}{features}", table.encode(), ends[1])
    put(folder / f"{prefix}barcodes.tsv", (head[1] + "\n".join(cells.obs_names) + "\n").encode(), ends[2])
    return folder


def assert_same(path: Path, cells: AnnData) -> AnnData:
    """Both ways of reading, whole and by rows, give these cells."""
    read = read_cells(path)
    assert list(read.obs_names) == list(cells.obs_names)
    assert list(read.var_names) == list(cells.var_names)
    assert read.X.dtype == np.float32
    np.testing.assert_array_equal(read.X.toarray(), cells.X.toarray())
    with open_table(name_sources(path)[0], layer=None, modality="rna") as table:
        np.testing.assert_array_equal(table.matrix.rows(0, cells.n_obs).toarray(), cells.X.toarray())
        pd.testing.assert_frame_equal(table.matrix.var, read.var)
    return read


END = st.sampled_from(["", "gz", "bz2", "xz"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    columns=st.integers(1, 4),
    features=st.sampled_from(["features.tsv", "genes.tsv"]),
    prefix=st.sampled_from(["", "GSM1_a_", "a."]),
    ends=st.tuples(END, END, END),
    turned=st.booleans(),
    header=st.booleans(),
)
def test_all_layouts_of_folders_give_the_same_cells(
    tmp_path: Path, cells: AnnData, ends: tuple[str, str, str], **layout
):
    shutil.rmtree(tmp_path / "cells", ignore_errors=True)
    read = assert_same(write_folder(tmp_path / "cells", cells, ends=ends, **layout), cells)
    assert ("gene_ids" in read.var) == (layout["columns"] > 1)
    assert ("feature_types" in read.var) == (layout["columns"] > 2)


def test_names_of_files_may_lie_about_compression(tmp_path: Path, cells: AnnData):
    folder = write_folder(tmp_path / "cells", cells)
    for file in list(folder.iterdir()):
        file.rename(f"{file}.gz")
    assert_same(folder, cells)


def test_a_file_beside_its_compressed_copy_is_one_sample(tmp_path: Path, cells: AnnData):
    folder = write_folder(tmp_path / "cells", cells)
    for file in list(folder.iterdir()):
        put(file, file.read_bytes(), "gz")
    assert_same(folder, cells)


@pytest.mark.parametrize(
    "inside",
    ["outs/filtered_feature_bc_matrix", "outs/filtered_gene_bc_matrices/GRCh38", "Solo.out/Gene/filtered", "sample"],
)
def test_the_filtered_matrix_in_a_folder_of_a_pipeline_is_read(tmp_path: Path, cells: AnnData, inside: str):
    write_folder(tmp_path / "run" / inside, cells)
    noise = cells.copy()
    noise.X = noise.X * 5
    if "filtered" in inside:
        write_folder(tmp_path / "run" / inside.replace("filtered", "raw"), noise)
    assert cell_format(tmp_path / "run") == "10x mtx"
    assert_same(tmp_path / "run", cells)


def test_the_human_folder_of_two_genomes_is_read(tmp_path: Path, cells: AnnData):
    for genome in ("GRCh38", "mm10"):
        write_folder(tmp_path / "filtered_gene_bc_matrices" / genome, cells if genome == "GRCh38" else cells[:5])
    assert_same(tmp_path, cells)
    assert read_cells(tmp_path, genome="mm10").n_obs == 5


def test_only_a_raw_matrix_has_to_be_asked_for(tmp_path: Path, cells: AnnData):
    raw = write_folder(tmp_path / "outs" / "raw_feature_bc_matrix", cells)
    with pytest.raises(InputError, match=r"only a matrix of all barcodes.*raw_feature_bc_matrix itself"):
        read_cells(tmp_path / "outs")
    assert_same(raw, cells)


def test_folders_of_several_samples_are_named(tmp_path: Path, cells: AnnData):
    for name in ("one", "two"):
        write_folder(tmp_path / name, cells)
    with pytest.raises(InputError, match=r"several matrices, in separate folders: pass one of .*one, .*two"):
        read_cells(tmp_path)


@pytest.mark.parametrize("file", ["features.tsv", "barcodes.tsv"])
def test_numbers_of_lines_that_do_not_fit_are_named(tmp_path: Path, cells: AnnData, file: str):
    folder = write_folder(tmp_path / "cells", cells)
    lines = (folder / file).read_text().splitlines()
    (folder / file).write_text("\n".join(lines[:-2]))
    names = "names 5 genes and barcodes.tsv 12" if file == "features.tsv" else "names 7 genes and barcodes.tsv 10"
    for read in (read_cells, lambda path: open_table(name_sources(path)[0], layer=None, modality="rna").__enter__()):
        with pytest.raises(InputError, match=f"7 genes x 12 cells, but features.tsv {names}") as caught:
            read(folder)
        assert "damaged" not in str(caught.value)


def test_a_matrix_file_alone_is_told_of_its_folder(tmp_path: Path, cells: AnnData):
    folder = write_folder(tmp_path / "cells", cells, ends=("gz", "", ""))
    with pytest.raises(InputError, match=r"Matrix Market .* pass the folder that contains it .*cells"):
        read_cells(folder / "matrix.mtx.gz")


def write_h5(path: Path, cells: AnnData, version: int) -> Path:
    group = "matrix" if version > 2 else "GRCh38"
    with h5py.File(path, "w") as file:
        for name in ("data", "indices", "indptr"):
            file[f"{group}/{name}"] = getattr(cells.X, name).astype(np.int64)
        file[f"{group}/shape"] = np.array(cells.shape[::-1])
        file[f"{group}/barcodes"] = np.array(list(cells.obs_names), "S")
        names = ("features/name", "features/id") if version > 2 else ("gene_names", "genes")
        file[f"{group}/{names[0]}"] = np.array(list(cells.var_names), "S")
        file[f"{group}/{names[1]}"] = np.array(list(cells.var["gene_ids"]), "S")
        if version > 2:
            file["matrix/features/feature_type"] = np.array(["Gene Expression"] * cells.n_vars, "S")
            file["matrix/features/genome"] = np.array(["GRCh38"] * cells.n_vars, "S")
            file["matrix/features/_all_tag_keys"] = np.array(["genome"], "S")
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("more", [False, True])
def test_h5_files_of_all_versions_give_the_same_cells_whatever_else_they_hold(
    tmp_path: Path, cells: AnnData, version: int, more: bool
):
    path = write_h5(tmp_path / "cells.h5", cells, version)
    with h5py.File(path, "r+") as file:
        group = file["matrix" if version > 2 else "GRCh38"]
        if more:  # as CellBender and others add
            file["scalar"], file["text"] = 3.5, "made by hand"
            file.create_dataset("nothing", data=h5py.Empty("f"))
            file["metadata/learning_curve"] = np.arange(4)
            group["latent"], group["overdispersion"] = np.ones((12, 3)), 2.5
            (group["features"] if version > 2 else group)["note"] = "a scalar"
            (group["features"] if version > 2 else group)["sizes"] = np.arange(3)
    read = assert_same(path, cells)
    assert list(read.var["gene_ids"]) == list(cells.var["gene_ids"])
    assert "note" not in read.var


def test_genomes_of_a_table_are_chosen_by_name(tmp_path: Path, cells: AnnData):
    path = write_h5(tmp_path / "cells.h5", cells, 3)
    with h5py.File(path, "r+") as file:
        file["matrix/features/genome"][...] = np.array(["GRCh38"] * 4 + ["mm10"] * 3, "S")
    assert read_cells(path).n_vars == 7, "the table keeps its rows"
    assert list(read_cells(path, genome="mm10").var_names) == ["GENE4", "GENE5", "GENE6"]
    with pytest.raises(InputError, match="no genome 'hg19'; available: GRCh38, mm10"):
        read_cells(path, genome="hg19")


@pytest.mark.parametrize("lost", ["barcodes", "features/name", "shape", "indices"])
def test_parts_that_are_missing_or_do_not_fit_are_damage(tmp_path: Path, cells: AnnData, lost: str):
    path = write_h5(tmp_path / "cells.h5", cells, 3)
    with h5py.File(path, "r+") as file:
        values = file[f"matrix/{lost}"][:-1]
        del file[f"matrix/{lost}"]
        file[f"matrix/{lost}"] = values
    for read in (read_cells, lambda path: open_table(name_sources(path)[0], layer=None, modality="rna").__enter__()):
        with pytest.raises(InputError, match="looks like 10x h5 but cannot be read: .*damaged"):
            read(path)
