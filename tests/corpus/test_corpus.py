"""Packed cells, hashes, and a corpus: what is written is read, in any order, and damage is named."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellfm.cells.tokenize import tokenize
from cellfm.corpus._corpus import Corpus
from cellfm.corpus._pack import SeenHashes, in_validation, pack_cells
from cellfm.corpus._shard_files import codes_name
from cellfm.errors import CheckpointError, InputError, MissingKeyError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.train import write_shards

N_GENES = 300


def naive(counts: np.ndarray, gene_ids: np.ndarray) -> np.ndarray:
    """Counts of known genes by id, after the cap of the depth, one cell and gene after the other."""
    out = np.zeros((len(counts), N_GENES), np.float32)
    for cell, row in enumerate(counts):
        for value, gene in zip(row, gene_ids, strict=True):
            if gene:
                out[cell, gene - 1] += value
        out[cell] = np.rint(out[cell] / max(1, row.sum() / 1e5))
    return out


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(1).poisson(1.5, (30, N_GENES + 20)).astype(np.float32)


@pytest.fixture
def gene_ids() -> np.ndarray:
    """Shuffled ids; two columns are the same gene, twenty are unknown."""
    ids = np.random.default_rng(2).permutation(np.concatenate((np.arange(1, N_GENES + 1), np.zeros(20, int))))
    first, second = np.flatnonzero((ids == 7) | (ids == 8))
    ids[first] = ids[second]
    return ids.astype(np.int32)


@pytest.mark.parametrize("scale", [1, 1000, 1_000_000])  # below and above the cap
def test_packed_are_the_capped_counts_of_known_genes(counts, gene_ids, scale):
    packed = pack_cells(sp.csr_matrix(counts * scale), gene_ids, N_GENES)
    found = sp.csr_matrix((packed.counts, packed.gene_ids.astype(np.int32) - 1, packed.indptr), (30, N_GENES))
    np.testing.assert_array_equal(found.toarray(), naive(counts * scale, gene_ids))
    np.testing.assert_array_equal(packed.depth, (counts * scale).sum(1))
    assert packed.gene_ids.dtype == np.uint16
    steps = np.diff(packed.gene_ids.astype(int))
    steps[packed.indptr[1:-1] - 1] = 1
    assert (steps > 0).all(), "ids ascend within a cell"


def test_packed_give_the_tokens_of_the_counts(counts, gene_ids):
    packed = pack_cells(sp.csr_matrix(counts), gene_ids, N_GENES)
    kept = sp.csr_matrix((packed.counts, packed.gene_ids.astype(np.int32) - 1, packed.indptr), (30, N_GENES))
    again = tokenize(kept, np.arange(1, N_GENES + 1), max_genes=150)
    straight = tokenize(sp.csr_matrix(counts), gene_ids, max_genes=150)
    for cell in range(30):
        pairs = []
        for tokens in (again, straight):
            span = slice(tokens.indptr[cell], tokens.indptr[cell + 1])
            pairs.append(dict(zip(tokens.gene_ids[span].tolist(), tokens.values[span].tolist(), strict=True)))
        assert pairs[0] == pytest.approx(pairs[1])


def test_the_smallest_type_that_holds_the_counts(counts, gene_ids):
    for scale, dtype in ((1, np.uint8), (200, np.uint16)):
        assert pack_cells(sp.csr_matrix(counts * scale), gene_ids, N_GENES).counts.dtype == dtype
    one = sp.csr_matrix(([99_000.0], ([0], [0])), (1, N_GENES))
    assert pack_cells(one, np.arange(1, N_GENES + 1), N_GENES).counts.dtype == np.uint32
    assert pack_cells(one, np.arange(1, N_GENES + 1), 70_000).gene_ids.dtype == np.int32


def test_hashes_see_the_content_alone(counts, gene_ids):
    order = np.random.default_rng(3).permutation(len(gene_ids))
    hashes = pack_cells(sp.csr_matrix(counts), gene_ids, N_GENES).hashes
    np.testing.assert_array_equal(pack_cells(sp.csr_matrix(counts[:, order]), gene_ids[order], N_GENES).hashes, hashes)
    np.testing.assert_array_equal(pack_cells(sp.csr_matrix(counts[::-1]), gene_ids, N_GENES).hashes, hashes[::-1])
    assert len(np.unique(hashes)) == len(hashes)
    changed = counts.copy()
    changed[:, np.flatnonzero(gene_ids)[0]] += 1
    assert not set(pack_cells(sp.csr_matrix(changed), gene_ids, N_GENES).hashes) & set(hashes)


def test_the_split_has_its_share():
    hashes = np.random.default_rng(4).integers(0, 2**64, 100_000, np.uint64)
    assert in_validation(hashes, 0.1).mean() == pytest.approx(0.1, abs=0.005)
    assert not in_validation(hashes, 0.0).any()
    assert (in_validation(hashes, 0.3) >= in_validation(hashes, 0.1)).all(), "a larger share holds the smaller one"


def test_seen_hashes_are_a_set():
    generator, seen, known = np.random.default_rng(5), SeenHashes(), set()
    for size in (5, 1, 0, 300, 20, 20, 1000):
        hashes = generator.integers(0, 500, size, np.uint64)
        expected = []
        for value in hashes.tolist():
            expected.append(value not in known)
            known.add(value)
        assert seen.add(hashes).tolist() == expected
        assert len(seen) == len(known)


@pytest.fixture
def corpus(tiny_adata, tiny_vocab, tmp_path) -> Corpus:
    """40 cells in shards of 7."""
    return write_shards(tiny_adata, tmp_path / "corpus", model=tiny_vocab, columns=["label"], cells_per_shard=7)


def test_rows_in_the_order_asked_for(corpus, tiny_adata):
    expected = tiny_adata.X[:, :N_GENES].toarray()
    cells = np.random.default_rng(6).integers(0, 40, 100)
    found = corpus.counts(cells)
    assert (found.dtype, found.shape) == (np.float32, (100, N_GENES))
    np.testing.assert_array_equal(found.toarray(), expected[cells])
    assert found.has_sorted_indices
    found.check_format(full_check=True)
    np.testing.assert_array_equal(corpus.lengths, (expected > 0).sum(1))
    np.testing.assert_array_equal(corpus.depth(cells), np.asarray(tiny_adata.X.sum(1)).ravel()[cells])
    assert corpus.counts(np.array([], int)).shape == (0, N_GENES)
    assert len(corpus) == corpus.n_cells == 40
    assert corpus.shard_ends.tolist() == [7, 14, 21, 28, 35, 40]


def test_labels_are_those_of_the_cells(corpus, tiny_adata):
    labels = np.array(corpus.categories("label"))[corpus.codes("label")]
    assert labels.tolist() == tiny_adata.obs["label"].tolist()
    assert corpus.columns == ["label", "source"]
    with pytest.raises(MissingKeyError, match="'donor'; available: label, source"):
        corpus.codes("donor")


def test_cells_that_are_not_there_are_refused(corpus):
    for cells in ([-1], [40]):
        with pytest.raises(InputError, match="cells 0 to 39"):
            corpus.counts(np.array(cells))


def test_few_open_shards_are_enough(corpus):
    cells = np.random.default_rng(7).permutation(40)
    expected = corpus.counts(cells).toarray()
    few = Corpus.open(corpus.path)
    few._max_maps = 2
    np.testing.assert_array_equal(few.counts(cells).toarray(), expected)
    assert len(few._maps) <= 2


FORK = """
import os, sys
import numpy as np
from cellfm.corpus import Corpus
corpus, cells = Corpus.open(sys.argv[1]), np.arange(40)
before = corpus.counts(cells[::2]).sum()
child = os.fork()
same = corpus.counts(cells[::2]).sum() == before and corpus.counts(cells).sum() == float(sys.argv[2])
if not child:
    os._exit(not same)
sys.exit(os.waitpid(child, 0)[1] or not same)
"""


def test_a_forked_process_reads_the_same(corpus):
    total = corpus.counts(np.arange(40)).sum()
    subprocess.run([sys.executable, "-c", FORK, corpus.path, str(total)], check=True)


def test_a_copy_maps_the_files_itself(corpus):
    corpus.counts(np.arange(40))
    again = copy.copy(corpus)
    assert not again._maps
    np.testing.assert_array_equal(again.counts(np.arange(40)).toarray(), corpus.counts(np.arange(40)).toarray())


def test_hashes_are_those_of_what_is_stored(corpus):
    again = pack_cells(corpus.counts(np.arange(40)), np.arange(1, N_GENES + 1), N_GENES)
    np.testing.assert_array_equal(corpus.hashes, again.hashes)
    np.testing.assert_array_equal(corpus.validation, in_validation(again.hashes, 0.01))


@pytest.mark.parametrize("name", ["indptr.npy", "gene_ids.npy", "counts.npy", "obs.label.npy"])
def test_a_damaged_shard_is_named(corpus, name):
    path = corpus.path / "shard-00003" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=rf"shard-00003 is damaged.*{name}"):
        Corpus.open(corpus.path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    Corpus.open(corpus.path)  # only the checksum can tell
    with pytest.raises(CheckpointError, match=rf"shard-00003 is damaged.*SHA-256 of {name}"):
        Corpus.open(corpus.path, verify=True)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"shard-00003 is damaged: {name} is missing"):
        Corpus.open(corpus.path)
    path.write_bytes(whole)
    Corpus.open(corpus.path, verify=True)


def test_a_header_that_is_no_header_is_named(corpus):
    path = corpus.path / "shard-00001" / "counts.npy"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(CheckpointError, match=r"shard-00001.counts\.npy.*cannot be read"):
        Corpus.open(corpus.path).counts(np.arange(40))


def test_missing_and_foreign_shards_are_named(corpus):
    shutil.copytree(corpus.path / "shard-00001", corpus.path / "shard-00009")
    with pytest.raises(CheckpointError, match="shard-00009 is a foreign shard"):
        Corpus.open(corpus.path)
    shutil.rmtree(corpus.path / "shard-00009")
    shutil.rmtree(corpus.path / "shard-00001")
    with pytest.raises(CheckpointError, match="shard-00001 is missing"):
        Corpus.open(corpus.path)


def test_no_corpus_and_a_damaged_manifest_are_told_apart(corpus, tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a corpus: there is no manifest\.json"):
        Corpus.open(tmp_path)
    manifest = corpus.path / "manifest.json"
    whole = json.loads(manifest.read_text())
    for content, message in (
        ("{", "is damaged"),
        ("[]", "is damaged"),
        (json.dumps(whole | {"format": 99}), "has format 99.*reads format 1"),
        (json.dumps({k: v for k, v in whole.items() if k != "shards"}), "has no shards"),
        (json.dumps(whole | {"shards": [whole["shards"][0], *whole["shards"]]}), "it lists a shard twice"),
        (json.dumps(whole | {"n_cells": 7}), "n_cells is 7, and the shards contain"),
    ):
        manifest.write_text(content)
        with pytest.raises(CheckpointError, match=message):
            Corpus.open(corpus.path)


def test_a_foreign_vocabulary_is_refused(corpus, tiny_vocab):
    corpus.require_vocabulary(tiny_vocab)
    other = Vocabulary(pd.DataFrame({"symbol": tiny_vocab.symbols[::-1]}))
    with pytest.raises(InputError, match="written for another vocabulary"):
        corpus.require_vocabulary(other)
    other.save(corpus.path)
    with pytest.raises(CheckpointError, match="is not the vocabulary that the shards were written with"):
        Corpus.open(corpus.path)
    (corpus.path / "vocabulary.tsv").unlink()
    with pytest.raises(CheckpointError, match="no readable vocabulary"):
        Corpus.open(corpus.path)


def test_any_column_name_is_a_file_name():
    assert Path(codes_name("a/../b:c")).name == codes_name("a/../b:c") == "obs.a%2F..%2Fb%3Ac.npy"
