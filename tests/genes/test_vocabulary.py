"""A vocabulary finds genes by symbol and Ensembl id, and is the same after saving."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cellfm.errors import CheckpointError, InputError
from cellfm.genes.vocabulary import NAME_COLUMNS, Vocabulary, resolve_vocabulary, strip_version
from cellfm.settings import settings

GENES = pd.DataFrame(
    {
        "symbol": ["TP53", "CD3E", "NA", "MALAT1"],
        "ensembl_id": ["ENSG00000141510", "ENSG00000198851", np.nan, "ENSG00000251562"],
        "biotype": ["protein_coding", "protein_coding", np.nan, "lncRNA"],
    }
)


@pytest.fixture
def vocab() -> Vocabulary:
    return Vocabulary(GENES)


def test_ids_count_from_one_and_zero_is_unknown(vocab: Vocabulary):
    assert vocab.find_symbols(np.array(["MALAT1", "TP53", "tp53", ""], object)).tolist() == [4, 1, 0, 0]
    assert vocab.find_symbols(vocab.symbols).tolist() == [1, 2, 3, 4]
    assert vocab.find_symbols(np.array([], object)).dtype == np.int32


def test_ensembl_ids_match_with_and_without_version(vocab: Vocabulary):
    names = ["ENSG00000141510", "ENSG00000141510.18", "ENSG00000000001", "ENSMUSG00000141510", "", "TP53"]
    assert vocab.find_ensembl(np.array(names, object)).tolist() == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "expected"), [("ENSG00000141510.18", "ENSG00000141510"), ("AC004.1", "AC004.1"), ("ENSG1.2", "ENSG1.2")]
)
def test_only_ensembl_ids_lose_what_stands_after_the_point(name: str, expected: str):
    assert strip_version(name) == expected


def test_saved_is_loaded(vocab: Vocabulary, tmp_path: Path):
    vocab.save(tmp_path)
    for path in (tmp_path, tmp_path / "vocabulary.tsv", str(tmp_path)):
        loaded = Vocabulary.load(path)
        pd.testing.assert_frame_equal(loaded.genes, vocab.genes)
        assert loaded.hash == vocab.hash


def test_other_names_in_a_file_are_no_part_of_a_vocabulary(vocab: Vocabulary, tmp_path: Path):
    others = {name: ["A|B", "", "C", ""] for name in NAME_COLUMNS}
    vocab.genes.assign(**others).to_csv(tmp_path / "vocabulary.tsv", sep="\t", index=False)
    loaded = Vocabulary.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.genes, vocab.genes)
    assert loaded.hash == vocab.hash


def test_mini_is_what_its_weights_were_made_for(tmp_path: Path):
    vocab = resolve_vocabulary("mini")
    assert vocab.hash.startswith("136afc5a1f9c")
    vocab.save(tmp_path)
    assert (tmp_path / "vocabulary.tsv").read_text().startswith("symbol\tensembl_id\tbiotype\n")


def test_published_tables_are_read(tmp_path: Path):
    path = tmp_path / "gene_info.csv"
    path.write_text('HGNC_gene,h5_sample_frequency,biotype\nA1BG,17,"RNA, long"\nNA,3,\n')
    genes = Vocabulary.load(path).genes
    assert genes["symbol"].tolist() == ["A1BG", "NA"]
    assert genes["biotype"].tolist() == ["RNA, long", ""]


def test_the_hash_tells_order_and_names_only(vocab: Vocabulary):
    assert Vocabulary(GENES[["symbol"]]).hash == vocab.hash
    assert Vocabulary(GENES.iloc[::-1]).hash != vocab.hash
    assert Vocabulary(GENES.replace("TP53", "TP63")).hash != vocab.hash


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        (pd.DataFrame({"name": ["A"]}), "column 'symbol'; found name"),
        (pd.DataFrame({"symbol": []}), "no genes"),
        (pd.DataFrame({"symbol": ["A", "A"]}), "unique"),
        (pd.DataFrame({"symbol": ["A", None]}), "unique and not empty"),
    ],
)
def test_bad_tables_are_refused(genes: pd.DataFrame, message: str):
    with pytest.raises(InputError, match=message):
        Vocabulary(genes)


def test_files_that_are_no_tables_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="No vocabulary at"):
        Vocabulary.load(tmp_path)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(CheckpointError, match="not a table of genes"):
        Vocabulary.load(tmp_path / "empty.csv")


class TestResolve:
    def test_all_that_has_or_is_a_vocabulary_serves(self, vocab: Vocabulary, tmp_path: Path):
        vocab.save(tmp_path)
        assert resolve_vocabulary(vocab) is vocab
        assert resolve_vocabulary(SimpleNamespace(vocab=vocab)) is vocab
        for path in (tmp_path, str(tmp_path), tmp_path / "vocabulary.tsv"):
            assert resolve_vocabulary(path).hash == vocab.hash

    def test_a_name_is_looked_up_in_the_cache(self, vocab: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(settings, "_cache_dir", tmp_path)
        with pytest.raises(InputError, match=r"cf\.load_model\('80M'\)"):
            resolve_vocabulary("80M")
        folder = tmp_path / "models" / "80M"
        folder.mkdir(parents=True)
        vocab.save(folder)
        assert resolve_vocabulary("80M").hash == vocab.hash

    @pytest.mark.parametrize(
        ("model", "message"),
        [("nothing", "No model 'nothing'"), ("weights.ckpt", "without gene names"), (3, "found int")],
    )
    def test_anything_else_is_refused(self, model: object, message: str):
        with pytest.raises(InputError, match=message):
            resolve_vocabulary(model)
