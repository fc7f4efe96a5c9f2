"""Tables of text, loom files and compressed files are read; for what is not read, the message has the way on."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellfm.cells.read import cell_format, read_cells
from cellfm.corpus._sources import name_sources
from cellfm.errors import InputError
from cellfm.genes.vocabulary import resolve_vocabulary

SHRINK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.fixture(scope="module")
def cells() -> AnnData:
    vocab = resolve_vocabulary("mini")
    names = list(vocab.symbols[100:130])
    counts = sp.random(9, 30, 0.5, format="csr", random_state=0, dtype=np.float32)
    counts.data = np.ceil(counts.data * 9).astype(np.float32)
    return AnnData(counts, obs=pd.DataFrame(index=[f"AAAC{i}-1" for i in range(9)]), var=pd.DataFrame(index=names))


def frame(cells: AnnData, *, genes_in_rows: bool) -> pd.DataFrame:
    table = pd.DataFrame(cells.X.toarray().astype(int), index=cells.obs_names, columns=cells.var_names)
    return table.T if genes_in_rows else table


def assert_same(read: AnnData, cells: AnnData) -> None:
    assert list(read.var_names) == list(cells.var_names)
    assert list(read.obs_names) == list(cells.obs_names)
    np.testing.assert_array_equal(read.X.toarray(), cells.X.toarray())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    separator=st.sampled_from([",", "\t", ";", " "]),
    genes_in_rows=st.booleans(),
    corner=st.sampled_from(["", "gene", "one short"]),
    end=st.sampled_from(list(SHRINK)),
    comment=st.sampled_from(["", "# made by a tool\n", "\n"]),
    quoted=st.booleans(),
)
def test_tables_are_read_whichever_way_they_lie(
    tmp_path: Path,
    cells: AnnData,
    separator: str,
    genes_in_rows: bool,
    corner: str,
    end: str,
    comment: str,
    quoted: bool,
):
    table = frame(cells, genes_in_rows=genes_in_rows)
    text = table.to_csv(sep=separator, index_label=corner or "x", quoting=2 if quoted else 0)
    if corner != "gene":
        head, rest = text.split("\n", 1)
        first = '""' if quoted or separator == " " else ""
        text = head.split(separator, 1)[1] if corner == "one short" else first + separator + head.split(separator, 1)[1]
        text += "\n" + rest
    path = tmp_path / f"counts.csv{end}"
    path.write_bytes(SHRINK[end]((comment + text).encode()))
    assert cell_format(path) == "table of text"
    assert_same(read_cells(path), cells)


def test_large_tables_are_read_in_pieces(tmp_path: Path, cells: AnnData, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cellfm.cells.read_text._CHUNK_VALUES", 25)
    for genes_in_rows in (True, False):
        frame(cells, genes_in_rows=genes_in_rows).to_csv(tmp_path / "counts.csv")
        assert_same(read_cells(tmp_path / "counts.csv"), cells)


def test_columns_beside_the_counts_are_those_of_genes_or_cells(tmp_path: Path, cells: AnnData):
    table = frame(cells, genes_in_rows=True)
    table.insert(0, "gene_id", [f"ENSG{i:011d}" for i in range(30)])
    table.insert(1, "Length", np.arange(30) + 500)
    table.to_csv(tmp_path / "counts.tsv", sep="\t", index_label="symbol")
    read = read_cells(tmp_path / "counts.tsv")
    np.testing.assert_array_equal(read.X.toarray(), cells.X.toarray())
    assert list(read.var["Length"]) == list(range(500, 530))
    table = frame(cells, genes_in_rows=False).assign(cell_type=list("abcabcabc"), n_counts=5)
    table.to_csv(tmp_path / "counts.csv", index_label="cell")
    read = read_cells(tmp_path / "counts.csv")
    assert_same(read, cells)
    assert list(read.obs["cell_type"]) == list("abcabcabc")
    assert list(read.obs["n_counts"]) == [5] * 9


@pytest.mark.parametrize("genes_in_rows", [True, False])
def test_an_unnamed_first_column_is_no_column_of_the_cells(tmp_path: Path, cells: AnnData, *, genes_in_rows: bool):
    table = frame(cells, genes_in_rows=genes_in_rows)
    table.to_csv(tmp_path / "names.csv")
    read = read_cells(tmp_path / "names.csv")
    assert_same(read, cells)
    assert [*read.obs.columns, *read.var.columns] == []
    table.reset_index(names="name").to_csv(tmp_path / "numbers.csv")  # numbers the rows, from 0
    assert_same(read_cells(tmp_path / "numbers.csv"), cells)


def test_names_beside_ids_without_a_title_get_one(tmp_path: Path, cells: AnnData):
    table = frame(cells, genes_in_rows=True)
    table.insert(0, "gene_id", [f"ENSG{i:011d}" for i in range(30)])
    table.to_csv(tmp_path / "counts.csv")
    read = read_cells(tmp_path / "counts.csv")
    np.testing.assert_array_equal(read.X.toarray(), cells.X.toarray())
    assert "" not in read.var
    read.write_h5ad(tmp_path / "read.h5ad")


@pytest.mark.parametrize("word", ["NA", "na", "nan", "-", ".", "?", "Not available", "missing", "#N/A", ""])
def test_text_for_a_missing_number_is_read_as_missing(tmp_path: Path, cells: AnnData, word: str):
    table = frame(cells, genes_in_rows=True).astype(str)
    table.iloc[2, 1] = table.iloc[29, 1] = word
    path = tmp_path / "counts.csv"
    table.to_csv(path)
    read = read_cells(path).X.toarray()
    expected = cells.X.toarray()
    expected[1, [2, 29]] = np.nan
    np.testing.assert_array_equal(read, expected)


def test_names_are_not_made_unique_and_mouse_tables_lie_the_right_way(tmp_path: Path, cells: AnnData):
    table = frame(cells, genes_in_rows=False)
    table.columns = [table.columns[0], *table.columns[:-1]]
    table.to_csv(tmp_path / "counts.csv")
    assert list(read_cells(tmp_path / "counts.csv").var_names) == list(table.columns)
    table = frame(cells, genes_in_rows=True)
    table.index = table.index.str.capitalize()
    table.to_csv(tmp_path / "mouse.csv")
    assert read_cells(tmp_path / "mouse.csv").shape == cells.shape


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cell,x,y\n" + "".join(f"c{i},{i},2\n" for i in range(30)), "neither carries names of human genes"),
        ("gene,cell,count\n" + "".join(f"TP53,c{i},2\n" for i in range(30)), "a long table"),
        (",TP53,CD4\nc1,1,2\n" + "c2,1,2\n" * 60 + "c3,1,many\n", "not a table of numbers .*'many'"),
        (",TP53,CD4\nc1,1,2\nc2,1,many\n" + "c3,1,2\n" * 60, "column 3 contains 'many' among numbers"),
    ],
)
def test_other_tables_are_refused_with_what_they_have(tmp_path: Path, text: str, found: str):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=found):
        read_cells(path)


@pytest.mark.parametrize("end", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("kind", ["h5ad", "loom"])
def test_compressed_files_are_read(tmp_path: Path, cells: AnnData, end: str, kind: str):
    path = write_loom(tmp_path / "cells.loom", cells) if kind == "loom" else tmp_path / "cells.h5ad"
    if kind == "h5ad":
        cells.write_h5ad(path)
    small = tmp_path / f"small.{kind}{end}"
    small.write_bytes(SHRINK[end](path.read_bytes()))
    assert cell_format(small) == "compressed HDF5"
    assert_same(read_cells(small), cells)
    assert name_sources(small)[0].name == "small"
    small.write_bytes(small.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"compressed by .* cannot be unpacked.*cut short or damaged"):
        read_cells(small)


def test_messages_on_what_lies_in_a_compressed_file_name_that_file(tmp_path: Path, cells: AnnData):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    content = (tmp_path / "cells.h5ad").read_bytes()
    whole = tmp_path / "cut.h5ad.gz"
    whole.write_bytes(gzip.compress(content[: len(content) // 2]))
    with pytest.raises(InputError, match=f"^{re.escape(str(whole))} looks like HDF5 but cannot be read"):
        read_cells(whole)


def test_what_does_not_fit_on_the_disk_is_not_unpacked(tmp_path: Path, cells: AnnData, monkeypatch: pytest.MonkeyPatch):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    small = tmp_path / "cells.h5ad.gz"
    small.write_bytes(gzip.compress((tmp_path / "cells.h5ad").read_bytes()))
    monkeypatch.setattr("cellfm.cells.compressed._KEPT_FREE", 1 << 62)
    with pytest.raises(InputError, match="does not fit on the disk"):
        read_cells(small)


def write_loom(path: Path, cells: AnnData) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["LOOM_SPEC_VERSION"] = "2.0.1"
        file.create_dataset("matrix", data=cells.X.T.toarray(), chunks=(4, 4))
        file["row_attrs/Gene"] = np.array(list(cells.var_names), "S")
        file["row_attrs/Accession"] = np.array([f"ENSG{i:011d}" for i in range(cells.n_vars)], "S")
        file["col_attrs/CellID"] = np.array(list(cells.obs_names), "S")
        file["col_attrs/Clusters"] = np.arange(cells.n_obs)
        file["col_attrs/Embedding"] = np.ones((cells.n_obs, 2))
        file["layers/spliced"] = cells.X.T.toarray() * 2
        for name in ("row_graphs", "col_graphs", "attrs"):
            file.create_group(name)
        file["attrs/note"] = "a scalar"
    return path


def test_loom_files_are_read(tmp_path: Path, cells: AnnData, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cellfm.cells.read_loom._BLOCK", 30 * 5)
    read = read_cells(write_loom(tmp_path / "cells.loom", cells))
    assert_same(read, cells)
    np.testing.assert_array_equal(read.layers["spliced"].toarray(), 2 * cells.X.toarray())
    assert list(read.var["gene_ids"])[:2] == ["ENSG00000000000", "ENSG00000000001"]
    assert list(read.obs["Clusters"]) == list(range(9))
    assert read.obsm["Embedding"].shape == (9, 2)


RDS = b"X\n\x00\x00\x00\x03\x00\x04\x02\x01\x00\x03\x05\x00\x00\x00\x00\x05UTF-8" + bytes(range(256))
IMAGE = b"RDX3\n" + RDS


@pytest.mark.parametrize("shrink", SHRINK.values(), ids=["plain", "gz", "bz2", "xz"])
@pytest.mark.parametrize("name", ["cells.rds", "cells.RData", "cells.h5ad"])
def test_r_data_are_told_by_content_with_the_commands_for_r(tmp_path: Path, shrink, name: str):
    for content, command in ((RDS, 'readRDS("'), (IMAGE, 'load("')):
        path = tmp_path / name
        path.write_bytes(shrink(content))
        with pytest.raises(InputError) as caught:
            read_cells(path)
        message = str(caught.value)
        assert command + name in message
        assert 'anndataR::write_h5ad(x, "cells.h5ad"' in message
        assert "zellkonverter::writeH5AD" in message
        assert "unpack" not in message
        assert "damaged" not in message


def test_archives_and_other_formats_are_told_with_a_command(tmp_path: Path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cells.h5ad", b"x" * 100)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("sample/matrix.mtx"), io.BytesIO())
    workbook = io.BytesIO()
    with zipfile.ZipFile(workbook, "w") as archive:
        archive.writestr("[Content_Types].xml", b"")
    store = io.BytesIO()
    with zipfile.ZipFile(store, "w") as archive:
        archive.writestr("X/", b"")  # a folder may come first
        archive.writestr("zarr.json", b"{}")
    for content, found in (
        (store.getvalue(), r"a zipped zarr: .*`unzip it.bin -d it.zarr`, and pass it.zarr"),
        (buffer.getvalue(), r"a zip archive that contains 'cells.h5ad': extract it with `unzip it.bin`.* cells.h5ad"),
        (tar.getvalue(), r"a tar archive, which begins with 'sample/matrix.mtx': extract it with `tar -xf it.bin`"),
        (workbook.getvalue(), "an Excel workbook: save the sheet"),
        (b"\x28\xb5\x2f\xfd rest", "compressed by zstd: run `zstd -d it.bin`"),
        (b"<html><body>404</body></html>", "a web page"),
    ):
        path = tmp_path / "it.bin"
        path.write_bytes(content)
        with pytest.raises(InputError, match=found) as caught:
            read_cells(path)
        assert "damaged" not in str(caught.value)
