"""`cf.train.write_shards`: the counts of the inputs, once each, whatever stops the run."""

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from cellfm.cells.matrix import Matrix
from cellfm.cells.mudata import without_pulling
from cellfm.cells.read import read_cells
from cellfm.cli import _main as cli
from cellfm.corpus import _shard_files, _shard_writer
from cellfm.corpus._corpus import Corpus
from cellfm.corpus._survey import _fingerprint
from cellfm.errors import DataWarning, InputError, MissingKeyError
from cellfm.io.lock import locked
from cellfm.train import write_shards

N_GENES = 300


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shard_contents(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if name.startswith("shard-")}


def write_ten_x(path: Path, adata: AnnData, n_antibodies: int = 0) -> None:
    """As Cell Ranger 3 does; the last genes can be called antibodies."""
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(adata.X, name).astype(np.int64)
        group["shape"] = np.array(adata.shape[::-1])
        group["barcodes"] = adata.obs_names.to_numpy().astype("S")
        kinds = ["Gene Expression"] * (adata.n_vars - n_antibodies) + ["Antibody Capture"] * n_antibodies
        names = {"name": adata.var_names, "id": adata.var_names, "feature_type": kinds}
        for name, values in names.items():
            group[f"features/{name}"] = np.array(values, "S")


def write_mtx(folder: Path, adata: AnnData, *, zipped: bool) -> None:
    folder.mkdir()
    genes = pd.DataFrame({"id": adata.var_names, "name": adata.var_names, "type": "Gene Expression"})
    suffix = ".gz" if zipped else ""
    genes.to_csv(folder / f"features.tsv{suffix}", sep="\t", header=False, index=False)
    adata.obs_names.to_series().to_csv(folder / f"barcodes.tsv{suffix}", header=False, index=False)
    scipy.io.mmwrite(folder / "matrix.mtx", sp.csc_matrix(adata.X.T).astype(np.int64))
    if zipped:
        (folder / "matrix.mtx.gz").write_bytes(gzip.compress((folder / "matrix.mtx").read_bytes()))
        (folder / "matrix.mtx").unlink()


def write_as(form: str, adata: AnnData, folder: Path) -> Path:
    if form.startswith("mtx"):
        write_mtx(folder / "cells", adata, zipped=form == "mtx.gz")
        return folder / "cells"
    if form == "10x":
        write_ten_x(folder / "cells.h5", adata)
        return folder / "cells.h5"
    adata.X = {"dense": adata.X.toarray(), "csc": adata.X.tocsc()}.get(form, adata.X)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data", UserWarning)
        if form == "zarr":
            adata.write_zarr(folder / "cells.zarr")
            return folder / "cells.zarr"
        if form == "h5mu":
            with without_pulling():
                MuData({"rna": adata}).write_h5mu(folder / "cells.h5mu")
            return folder / "cells.h5mu"
    adata.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


@pytest.fixture
def write(tiny_vocab, tmp_path):
    """Write shards of 7 cells to ``tmp_path / "corpus"``."""

    def run(inputs, out="corpus", **options) -> Corpus:
        return write_shards(inputs, tmp_path / out, model=tiny_vocab, **{"cells_per_shard": 7} | options)

    return run


@pytest.mark.parametrize("form", ["h5ad", "csc", "dense", "zarr", "h5mu", "10x", "mtx", "mtx.gz"])
def test_every_format_gives_the_same_shards(form, tiny_adata, write, tmp_path, monkeypatch):
    monkeypatch.setattr(_shard_writer, "BLOCK_CELLS", 9)
    adata = AnnData(tiny_adata.X, obs=tiny_adata.obs[[]], var=tiny_adata.var)
    expected = write(adata.copy(), "expected")
    np.testing.assert_array_equal(expected.counts(np.arange(40)).toarray(), adata.X[:, :N_GENES].toarray())
    found = write(write_as(form, adata, tmp_path))
    assert found.categories("source") == ["cells"]
    assert shard_contents(found.path) == shard_contents(expected.path)


@pytest.mark.parametrize("layer", ["counts", "raw"])
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_layers_and_raw_of_files(layer, form, tiny_adata, write, tmp_path):
    expected = tiny_adata.X[:, :N_GENES].toarray()
    if layer == "raw":
        tiny_adata.raw = tiny_adata.copy()
    else:
        tiny_adata.layers["counts"] = tiny_adata.X.copy()
    tiny_adata.X = tiny_adata.X.log1p()
    path = write_as(form, tiny_adata, tmp_path)
    with pytest.raises(InputError, match=rf"cells: No counts found: adata.X .* pass layer='{layer}'"):
        write(path)
    np.testing.assert_array_equal(write(path, layer=layer).counts(np.arange(40)).toarray(), expected)


def test_a_collection_of_annbatch_is_read_table_by_table(tiny_adata, write, tmp_path):
    adata = AnnData(tiny_adata.X, obs=tiny_adata.obs[[]], var=tiny_adata.var)
    collection = tmp_path / "all.zarr"
    collection.mkdir()
    attributes = {"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"}
    (collection / "zarr.json").write_text(
        json.dumps({"attributes": attributes, "zarr_format": 3, "node_type": "group"})
    )
    order = [*range(10, 40), *range(10)]  # dataset_2 comes before dataset_10
    for name, cells in (("dataset_10", order[30:]), ("dataset_2", order[:30])):
        write_as("zarr", adata[cells].copy(), tmp_path).rename(collection / name)
    found = write(collection)
    assert found.categories("source") == ["all/dataset_2", "all/dataset_10"]
    np.testing.assert_array_equal(found.counts(np.arange(40)).toarray(), adata.X[order, :N_GENES].toarray())
    with pytest.raises(InputError, match="is a collection of annbatch with 2 tables: pass it to cf.train.write_shards"):
        read_cells(collection)


HEAD = "%%MatrixMarket matrix coordinate integer general\n% a comment\n320 40 {}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cells\n1 1 5\n", "is not a sparse matrix in Matrix Market format; it begins with 'cells"),
        (HEAD.format(3) + "1 1 5\n2 1 4\n", "is cut short: 2 entries of 3. Get a new copy"),
        (HEAD.format(0) + "1 1 5\n", "is cut short: 1 entries of 0"),
        (HEAD.format(2) + "1 1 5\n2 1\n", "cannot be read: .* It may be cut short or damaged; get a new copy"),
        (HEAD.format(1) + "1 1\n", "cannot be read: .* It may be cut short or damaged; get a new copy"),
        (HEAD.format(1) + "1 1 5 7 9\n1 2 3 4 5 6\n", "cannot be read: "),
        (HEAD.format(1) + "one 1 5\n", "cannot be read: "),
        (HEAD.format("many"), "cannot be read: "),
        (HEAD.format(1) + "321 1 5\n", "an entry lies outside of 320 genes x 40 cells"),
        (HEAD.format(1) + "1 0 5\n", "an entry lies outside"),
        (HEAD.replace("320", "319").format(0), "has 319 genes x 40 cells, but features.tsv names 320 genes and bar"),
    ],
)
def test_damaged_matrices_are_told(text, message, tiny_adata, write, tmp_path):
    write_mtx(tmp_path / "cells", tiny_adata, zipped=False)
    (tmp_path / "cells" / "matrix.mtx").write_text(text)
    with pytest.raises(InputError, match=message):
        write(tmp_path / "cells")


def test_a_matrix_needs_its_tables_and_a_whole_archive(tiny_adata, write, tmp_path):
    write_mtx(tmp_path / "cells", tiny_adata, zipped=True)
    matrix = tmp_path / "cells" / "matrix.mtx.gz"
    whole = matrix.read_bytes()
    matrix.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read: .* It may be cut short or damaged"):
        write(tmp_path / "cells")
    matrix.write_bytes(whole)
    (tmp_path / "cells" / "features.tsv.gz").unlink()
    with pytest.raises(InputError, match="has no features.tsv or genes.tsv .* next to its matrix"):
        write(tmp_path / "cells")
    with h5py.File(tmp_path / "broken.h5", "w") as file:
        file.create_group("matrix")["indptr"] = np.arange(3)
        file["matrix/data"] = file["matrix/indices"] = np.arange(2)
    with pytest.raises(InputError, match="looks like 10x h5 but cannot be read: .* Get a new copy"):
        write(tmp_path / "broken.h5")


def test_other_features_of_ten_x_are_left_out(tiny_adata, write, tmp_path):
    write_ten_x(tmp_path / "cells.h5", tiny_adata, n_antibodies=25)
    with pytest.warns(DataWarning, match="25 Antibody Capture"):
        found = write(tmp_path / "cells.h5", min_genes=1)
    expected = tiny_adata.X[:, :295].toarray()
    np.testing.assert_array_equal(found.counts(np.arange(40)).toarray()[:, :295], expected)
    np.testing.assert_array_equal(found.depth(np.arange(40)), expected.sum(1))


def test_the_order_of_columns_changes_nothing(tiny_adata, write):
    order = np.random.default_rng(0).permutation(tiny_adata.n_vars)
    assert shard_contents(write(tiny_adata, "a").path) == shard_contents(write(tiny_adata[:, order].copy(), "b").path)


def test_other_names_and_repeated_columns_are_one_gene(tiny_adata, write, tmp_path):
    expected = write(tiny_adata, "expected").counts(np.arange(40)).toarray()
    table = pd.DataFrame({"symbol": ["GENE3"], "alias_symbol": ["OLD3"], "prev_symbol": [""]})
    table.to_csv(tmp_path / "hgnc.txt", sep="\t", index=False)
    names = tiny_adata.var_names.tolist()
    names[3], names[310], names[5] = "OLD3", "GENE8", "ENSG00000000005.2"
    tiny_adata.var_names = names
    expected[:, 8] += tiny_adata.X[:, 310].toarray().ravel()
    np.testing.assert_array_equal(
        write(tiny_adata, hgnc=tmp_path / "hgnc.txt").counts(np.arange(40)).toarray(), expected
    )


def test_poor_and_rich_cells_are_left_out_and_counted(tiny_adata, write):
    counts = tiny_adata.X.toarray()
    counts[4, 50:] = 0  # fewer than 200 genes
    tiny_adata.X = sp.csr_matrix(counts)
    n_genes = (tiny_adata.X[:, :N_GENES] > 0).sum(1).A1
    limit = int(np.sort(n_genes)[-4])  # three express more
    found = write(tiny_adata, max_genes=limit)
    kept = (n_genes >= 200) & (n_genes <= limit)
    np.testing.assert_array_equal(found.counts(np.arange(36)).toarray(), tiny_adata.X[kept][:, :N_GENES].toarray())
    facts = found.manifest["sources"][0]
    assert (facts["n_cells"], facts["n_kept"]) == (40, 36)
    assert facts["dropped"] == {"few_genes": 1, "many_genes": 3, "duplicate": 0}


def test_cells_are_kept_once_across_inputs(tiny_adata, write):
    later = tiny_adata[[30, 31, 5, 6]].copy()
    later.X = later.X[[0, 1, 2, 2]]
    first = tiny_adata[:30].copy()
    found = write([first, later])
    assert found.n_cells == 32
    assert [source["dropped"]["duplicate"] for source in found.manifest["sources"]] == [0, 2]
    assert found.codes("source").tolist() == [0] * 30 + [1, 1]
    assert write([first, later], "all", deduplicate=False).n_cells == 34


def test_the_split_depends_on_the_content_alone(tiny_adata, write):
    one = write(tiny_adata, "one", validation_fraction=0.3)
    order = np.random.default_rng(0).permutation(40)
    other = write([tiny_adata[order[:9]].copy(), tiny_adata[order[9:]].copy()], "other", validation_fraction=0.3)
    assert 0 < one.validation.sum() < 40
    np.testing.assert_array_equal(other.validation, one.validation[order])


def test_columns_of_all_inputs_share_their_categories(tiny_adata, write):
    first, second = tiny_adata[:20].copy(), tiny_adata[20:].copy()
    first.obs["donor"] = [3.0] * 10 + [np.nan] * 10
    second.obs["tissue"] = "lung"
    found = write([first, second])
    assert found.columns == ["batch", "donor", "tissue", "source"]  # label is none of the usual columns
    assert found.categories("batch") == ["one", "two"]
    assert found.codes("donor").tolist() == [0] * 10 + [-1] * 30
    assert found.codes("tissue").tolist() == [-1] * 20 + [0] * 20
    with pytest.raises(
        MissingKeyError, match="No input has the column 'organ'; available: label, batch, donor, tissue"
    ):
        write([first, second], "other", columns=["organ"])
    with pytest.raises(InputError, match="'source' is always written"):
        write(first, "other", columns=["source"])


def test_all_bad_inputs_are_named_before_anything_is_written(tiny_adata, write, tmp_path):
    log = tiny_adata.copy()
    log.X = log.X.log1p()
    mouse = tiny_adata.copy()
    mouse.var_names = [f"ENSMUSG{i:011d}" for i in range(320)]
    mixed = tiny_adata.copy()
    mixed.var_names = [*tiny_adata.var_names[:250], *mouse.var_names[250:]]
    (tmp_path / "cut.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n1234")
    with pytest.raises(InputError) as caught:
        write([tiny_adata, log, mouse, mixed, tmp_path / "cut.h5ad", tmp_path / "none.h5ad"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 of 6 inputs cannot be used; nothing was written."
    for line, start, words in zip(
        lines[1:],
        ("input 2: ", "input 3: ", "input 4: ", "cut: ", "none: "),
        ("No counts found", "look like mouse genes", "mixed species", "damaged", "No file"),
        strict=True,
    ):
        assert line.startswith(start)
        assert words in line
    assert not (tmp_path / "corpus").exists()


def test_the_human_genome_of_a_ten_x_file_is_read_and_others_need_a_choice(tiny_adata, write, tmp_path):
    def write_genomes(*genomes: str) -> Path:
        with h5py.File(tmp_path / "cells.h5", "w") as file:
            for genome in genomes:
                for name in ("data", "indices", "indptr"):
                    file[f"{genome}/{name}"] = getattr(tiny_adata.X, name)
                file[f"{genome}/shape"] = np.array(tiny_adata.shape[::-1])
                file[f"{genome}/barcodes"] = tiny_adata.obs_names.to_numpy().astype("S")
                file[f"{genome}/gene_names"] = tiny_adata.var_names.to_numpy().astype("S")
                file[f"{genome}/genes"] = tiny_adata.var_names.to_numpy().astype("S")
        return tmp_path / "cells.h5"

    expected = write(tiny_adata.copy(), "expected").counts(np.arange(40)).toarray()
    assert (write(write_genomes("mm10", "GRCh38")).counts(np.arange(40)).toarray() == expected).all()
    with pytest.raises(InputError, match=r"several genomes \(GRCh38, hg19\)"):
        write(write_genomes("GRCh38", "hg19"), "other")
    assert (write(tmp_path / "cells.h5", "other", genome="hg19").counts(np.arange(40)).toarray() == expected).all()


def test_a_matrix_that_is_not_sorted_by_cell_is_read_whole(tiny_adata, write, tmp_path):
    write_mtx(tmp_path / "cells", tiny_adata, zipped=False)
    lines = (tmp_path / "cells" / "matrix.mtx").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if not line.startswith("%")) + 1
    (tmp_path / "cells" / "matrix.mtx").write_text("\n".join(lines[:start] + lines[: start - 1 : -1]) + "\n")
    found = write(tmp_path / "cells").counts(np.arange(40)).toarray()
    np.testing.assert_array_equal(found, tiny_adata.X[:, :N_GENES].toarray())


def test_bad_values_behind_the_sample_stop_the_run(tiny_adata, write, tmp_path, monkeypatch):
    monkeypatch.setattr("cellfm.cells.matrix._SAMPLE_CELLS", 2)
    tiny_adata.X[10] *= 0.5
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match="cells: cells 0 to 39 of adata.X have .*not counts"):
        write(tmp_path / "cells.h5ad")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_genes": 0}, "min_genes must be at least 1"),
        ({"max_genes": 100}, "max_genes must be at least min_genes"),
        ({"validation_fraction": 1.0}, "validation_fraction must be"),
        ({"cells_per_shard": 0}, "cells_per_shard must be"),
        (
            {"min_genes": 299},
            "No cells are left; the following were removed: 40 with fewer than 299 known genes. Pass",
        ),
    ],
)
def test_impossible_options_are_refused(options, message, tiny_adata, write, tmp_path):
    with pytest.raises(InputError, match=message):
        write(tiny_adata, **options)
    assert write(tiny_adata).n_cells == 40, "what failed leaves nothing in the way"


def test_impossible_inputs_are_refused(tiny_adata, write, tmp_path):
    for inputs, message in (
        ([], "No inputs"),
        ([3], "found int"),
        ([tiny_adata, tiny_adata], "input 2 is given twice"),
    ):
        with pytest.raises(InputError, match=message):
            write(inputs)


def test_files_of_one_name_are_told_apart(tiny_adata, write, tmp_path):
    paths = []
    for name, cells in (("a", tiny_adata[:20]), ("b", tiny_adata[20:])):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "cells.h5ad")
        cells.copy().write_h5ad(paths[-1])
    assert write(paths).categories("source") == [str(path) for path in paths]


def test_an_input_that_loses_most_cells_warns(tiny_adata, write):
    with pytest.warns(DataWarning, match="input 2: 3 of 3 cells are left out .3 the same as an earlier one"):
        write([tiny_adata, tiny_adata[:3].copy()])


# ---- interrupted runs

RUN = """
import os, signal, sys
import cellfm.corpus._shard_files as files
import cellfm.corpus._unfinished as unfinished
from cellfm.train import write_shards

out, genes, point, *inputs = sys.argv[1:]
def die():
    os.kill(os.getpid(), signal.SIGKILL)
write, record, n_written = files._write_array, unfinished.Unfinished.record, 0
def write_or_die(*args):
    global n_written
    n_written += 1
    facts = write(*args)
    return die() if point == "array" and n_written == 10 else facts
def record_or_die(self, shard):
    if point == "before record":
        die()
    record(self, shard)
    if point == "after record":
        with open(self.folder / "manifest.partial.jsonl", "a") as file:
            file.write('{"n_cells": 7, "fi')
        die()
files._write_array = write_or_die
unfinished.Unfinished.record = record_or_die
if point == "manifest":
    unfinished.Unfinished.finish = lambda *args: die()
write_shards(inputs, out, model=genes, cells_per_shard=7)
"""


@pytest.fixture
def two_files(tiny_adata, tiny_vocab, tmp_path) -> list[str]:
    """Vocabulary and two inputs; some cells of the second are those of the first."""
    tiny_vocab.genes.to_csv(tmp_path / "genes.tsv", sep="\t", index=False)
    tiny_adata[:25].copy().write_h5ad(tmp_path / "first.h5ad")
    tiny_adata[20:].copy().write_h5ad(tmp_path / "second.h5ad")
    return [str(tmp_path / name) for name in ("genes.tsv", "first.h5ad", "second.h5ad")]


def test_killed_at_any_time_it_continues_to_the_same_bytes(two_files, tmp_path):
    genes, *inputs = two_files
    expected = write_shards(inputs, tmp_path / "expected", model=genes, cells_per_shard=7)
    out = tmp_path / "corpus"
    n_shards = []
    for point in ("array", "before record", "after record", "manifest"):
        ran = subprocess.run([sys.executable, "-c", RUN, out, genes, point, *inputs], capture_output=True, text=True)
        assert ran.returncode == -signal.SIGKILL, ran.stderr
        with pytest.raises(InputError, match="unfinished corpus"):
            Corpus.open(out)
        n_shards.append(len((out / "manifest.partial.jsonl").read_text().splitlines()) - 1)
    assert n_shards == [1, 1, 3, 6]  # the third counts the line that was cut
    assert write_shards(inputs, out, model=genes, cells_per_shard=7).n_cells == 40
    assert contents(out) == contents(expected.path)
    Corpus.open(out, verify=True)


def test_a_finished_corpus_is_left_as_it_is(two_files, tmp_path):
    genes, *inputs = two_files
    written = write_shards(inputs, tmp_path / "corpus", model=genes)
    times = {path: path.stat().st_mtime_ns for path in written.path.rglob("*")}
    write_shards(inputs, tmp_path / "corpus", model=genes)
    assert {path: path.stat().st_mtime_ns for path in written.path.rglob("*")} == times


@pytest.mark.parametrize("finished", [True, False])
def test_other_options_or_inputs_do_not_continue(finished, two_files, tiny_adata, tmp_path):
    genes, *inputs = two_files
    out = tmp_path / "corpus"
    if finished:
        write_shards(inputs, out, model=genes, cells_per_shard=7)
    else:
        subprocess.run([sys.executable, "-c", RUN, out, genes, "array", *inputs], check=False)
    with pytest.raises(InputError, match="min_genes was 200 and is now 201.*overwrite=True"):
        write_shards(inputs, out, model=genes, cells_per_shard=7, min_genes=201)
    with pytest.raises(InputError, match="the inputs were first, second and are now second"):
        write_shards(inputs[1:], out, model=genes, cells_per_shard=7)
    tiny_adata.X[39, 0] += 1
    tiny_adata[20:].copy().write_h5ad(inputs[1])
    with pytest.raises(InputError, match="the input second has changed"):
        write_shards(inputs, out, model=genes, cells_per_shard=7)
    assert write_shards(inputs[1:], out, model=genes, overwrite=True).n_cells == 20


def test_a_change_in_any_cell_in_memory_is_another_input():
    """A change between the beginning, the middle and the end went unseen."""
    counts = sp.random(3000, 20, 0.3, format="csr", random_state=0, dtype=np.float32)
    counts.data = np.ceil(counts.data * 9).astype(np.float32)
    ids, var, obs = np.arange(1, 21), pd.DataFrame(index=[f"g{i}" for i in range(20)]), pd.DataFrame(index=range(3000))
    seen = {_fingerprint(Matrix(counts, var, "adata.X"), ids, obs, [])}
    for cell in (0, 700, 1400, 2300, 2999):
        changed = counts.copy()
        changed.data[changed.indptr[cell]] += 1
        seen.add(_fingerprint(Matrix(changed, var, "adata.X"), ids, obs, []))
    assert len(seen) == 6
    assert _fingerprint(Matrix(counts.toarray(), var, "adata.X"), ids, obs, []) in seen


def test_a_full_disk_is_an_error_after_which_the_run_continues(two_files, tmp_path, monkeypatch):
    genes, *inputs = two_files
    expected = write_shards(inputs, tmp_path / "expected", model=genes, cells_per_shard=7)
    with monkeypatch.context() as patch:
        written = []

        def write_or_fail(path, *args, write=_shard_files._write_array):
            written.append(path)
            if len(written) == 12:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(path, *args)

        patch.setattr(_shard_files, "_write_array", write_or_fail)
        with pytest.raises(InputError, match=r"shard-00001: No space left on device.*run the same again"):
            write_shards(inputs, tmp_path / "corpus", model=genes, cells_per_shard=7)
    assert sorted(path.name for path in (tmp_path / "corpus").glob("shard-*")) == ["shard-00000"]
    write_shards(inputs, tmp_path / "corpus", model=genes, cells_per_shard=7)
    assert contents(tmp_path / "corpus") == contents(expected.path)


def test_folders_that_cannot_be_used_are_refused(tiny_adata, write, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Could not write .*file"):
        write(tiny_adata, "file/corpus")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.doc").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"contains other files \(thesis.doc\)"):
            write(tiny_adata, overwrite=overwrite)
    assert (tmp_path / "corpus" / "thesis.doc").read_text() == "mine"


def test_shards_that_lost_their_manifest_are_not_removed_unasked(tiny_adata, write):
    (write(tiny_adata).path / "manifest.json").unlink()
    with pytest.raises(InputError, match="contains 6 shards without a manifest"):
        write(tiny_adata, cells_per_shard=30)
    assert len(write(tiny_adata, cells_per_shard=30, overwrite=True).shard_ends) == 2


def test_one_process_a_folder(tiny_adata, write, tmp_path):
    (tmp_path / "corpus").mkdir()
    with locked(tmp_path / "corpus"), pytest.raises(InputError, match="written by another process"):
        write(tiny_adata)
    assert write(tiny_adata).n_cells == 40
    assert not (tmp_path / "corpus" / ".lock").exists()


# ---- command line


def test_the_commands_write_and_tell(two_files, tmp_path, capsys):
    genes, *inputs = two_files
    out = tmp_path / "corpus"
    options = ["--model", genes, "--column", "label", "--column", "batch", "--validation-fraction", "0.2"]
    assert cli.main(["-q", "shard", *inputs, "-o", str(out), *options]) == 0
    assert f"{out}: 40 cells" in capsys.readouterr().out
    assert cli.main(["info", str(out)]) == 0
    told = capsys.readouterr().out
    for words in ("Corpus of 40 cells x 300 genes", "label: A 20, B 20", "first: 25 of 25 cells", "5 duplicate"):
        assert words in told
    (out / "shard-00000" / "depth.npy").unlink()
    assert cli.main(["info", str(out)]) == 2
    assert "depth.npy is missing" in capsys.readouterr().err


def test_shards_are_written_without_mindspore(two_files, tmp_path):
    genes, *inputs = two_files
    code = (
        "import sys, cellfm as cf; cf.train.write_shards(sys.argv[3:], sys.argv[1], model=sys.argv[2]);"
        "sys.exit('mindspore' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "corpus", genes, *inputs], check=True)
    facts = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert facts["n_cells"] == 40


def test_an_input_that_would_lose_most_cells_is_refused_unless_it_is_asked_for(write, tiny_adata):
    counts = tiny_adata.X.toarray()
    counts[:30, 60:] = 0  # 30 of 40 cells express at most 60 genes
    tiny_adata.X = sp.csr_matrix(counts)
    with pytest.raises(InputError, match="75% of the cells .* fewer than 200 of the 300 known .*perhaps 7"):
        write(tiny_adata)
    assert len(write(tiny_adata, min_genes=7)) == 40
