"""Genes are matched by their names however R, Seurat, spreadsheets, anndata or authors have written them."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfm.genes.hgnc import Synonyms, package_synonyms
from cellfm.genes.match import GeneMatch, find_genes
from cellfm.genes.names import spelling, split_name, symbols_of_date, without_suffix
from cellfm.genes.vocabulary import Vocabulary, resolve_vocabulary

MINI = resolve_vocabulary("mini")
WITH_ID = MINI.genes[(MINI.genes["ensembl_id"] != "") & ~MINI.genes["symbol"].str.startswith("ENSG")]


def match(names: list[str], vocab: Vocabulary = MINI, **columns: list[str]) -> GeneMatch:
    return find_genes(pd.DataFrame(columns, index=pd.Index(names, dtype=object)), vocab, synonyms=package_synonyms())


def symbols(names: list[str], **columns: list[str]) -> list[str | None]:
    return [MINI.symbols[i - 1] if i else None for i in match(names, **columns).ids]


def make_names(name: str) -> str:
    """What R's make.names does."""
    dotted = re.sub(r"[^0-9A-Za-z.]", ".", name)
    return dotted if re.match(r"[A-Za-z]|\.(?!\d)", dotted) else f"X{dotted}"


KNOWN = {spelling(name) for name in (*MINI.symbols, *package_synonyms().names, *package_synonyms().ambiguous)}
genes = st.lists(st.integers(0, len(WITH_ID) - 1), min_size=1, max_size=20, unique=True).map(lambda i: WITH_ID.iloc[i])


@settings(max_examples=60, deadline=None)
@given(genes)
def test_names_that_r_changed_are_those_they_were(table: pd.DataFrame):
    plain = match(list(table["symbol"]))
    assert plain.ids.tolist() == MINI.find_symbols(table["symbol"].to_numpy()).tolist()
    assert match([make_names(name) for name in table["symbol"]]).ids.tolist() == plain.ids.tolist()
    assert match([name.replace("_", "-") for name in table["symbol"]]).ids.tolist() == plain.ids.tolist()


@settings(max_examples=60, deadline=None)
@given(
    genes, st.sampled_from(["_", "|", "-", ":", ";", " ", ".", "__", " | "]), st.booleans(), st.sampled_from(["", ".7"])
)
def test_symbol_and_id_in_one_word_are_read(table: pd.DataFrame, between: str, id_first: bool, version: str):
    pairs = [(symbol, ensembl + version) for symbol, ensembl in zip(table["symbol"], table["ensembl_id"], strict=True)]
    joined = [between.join(reversed(pair) if id_first else pair) for pair in pairs]
    assert match(joined).ids.tolist() == match(list(table["symbol"])).ids.tolist()


@settings(max_examples=40, deadline=None)
@given(genes, st.sampled_from(["-", "."]), st.integers(1, 9))
def test_what_made_names_unique_is_left_out(table: pd.DataFrame, between: str, number: int):
    names = [name for name in table["symbol"] if not re.match(r"(IG[HKL]|TR[ABDG])[VDJC]", name)]
    ids = match(names).ids
    for name, gene_id in zip(names, ids, strict=True):
        unique = f"{name}{between}{number}"
        if spelling(unique) not in KNOWN:
            assert match([unique]).ids[0] == gene_id
    both = match([*names, *names])
    assert both.ids.tolist() == [*ids, *ids]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HLA.A", "HLA-A"),
        ("MT.CO1", "MT-CO1"),
        ("HLA_DRA", "HLA-DRA"),
        ("X7SK", "RN7SK"),
        ("HLA.DRA", "HLA-DRA"),  # a twin in the vocabulary
        ("SND1.IT1", "SND1-IT1"),
        ("TBCE-1", "TBCE"),
        ("CCDC7.1", "CCDC7"),
        ("RP11.390F4.3", "RP11-390F4.3"),
        ("AC104667.3", "AC104667.3"),  # a true dot
        ("IGHV1-69-2", "IGHV1-69-2"),  # and a true number
        ("IGHV3-30-3", None),  # that is no other segment
        ("GTF2H2C-2", "GTF2H2C_2"),
        ("NKX2.1", "NKX2-1"),
        ("A1BG|1", "A1BG"),
        ("HLA-DRA__chr6", "HLA-DRA"),
        ("ENSG00000204287.13_PAR_Y", "HLA-DRA"),
        ("GRCh38_CD3E", "CD3E"),
        ("MARCH1", "MARCHF1"),
        ("SEPT2", "SEPTIN2"),
        ("DEC1", "DELEC1"),
        ("1-Mar", None),
        ("2-Sep", "SEPTIN2"),
        ("02-Sep", "SEPTIN2"),
        ("Sep-02", "SEPTIN2"),
        ("X2.Sep", "SEPTIN2"),
        ("2021-09-02", "SEPTIN2"),
        ("2021-09-02 00:00:00", "SEPTIN2"),
        ("9/2", "SEPTIN2"),
        ("1-Dec", "DELEC1"),
        ("15-Sep", "SELENOF"),
        ("Mar-08", "MARCHF8"),
        ("13-Mar", None),
        ("MLL", "KMT2A"),
        ("C13orf2", "KCTD12"),
        ("C13ORF2", "KCTD12"),
        ("CD3E ", "CD3E"),
        ('"HLA.A"', "HLA-A"),
        ("b'ENSG00000198851'", "CD3E"),
        ("nothing", None),
        ("nan", None),
        ("", None),
    ],
)
def test_each_way_of_writing(name: str, expected: str | None):
    assert symbols([name]) == [expected]


def test_ambiguous_dates_and_names_are_left_and_listed():
    found = match(["1-Mar", "2-Mar", "NOV", "3-Mar", "CD3E"])
    assert found.ambiguous.tolist() == [True, True, True, False, False]
    assert found.how.tolist() == ["none", "none", "none", "restored", "symbol"]
    with_ids = match(["1-Mar", "NOV"], ensembl_id=["ENSG00000145416", "ENSG00000136999"])
    assert [MINI.symbols[i - 1] for i in with_ids.ids] == ["MARCHF1", "CCN3"]
    assert not with_ids.ambiguous.any()


def test_dates_need_no_table():
    found = find_genes(pd.DataFrame(index=["2-Sep", "3-Mar"]), MINI)
    assert [MINI.symbols[i - 1] for i in found.ids] == ["SEPTIN2", "MARCHF3"]


def test_an_alias_takes_nothing_from_a_gene_that_is_there():
    assert symbols(["MLL", "KMT2A"]) == [None, "KMT2A"]
    assert symbols(["MLL", "ENSG00000118058"]) == [None, "KMT2A"]
    assert symbols(["CD20", "MS4A1"]) == [None, "MS4A1"]
    assert symbols(["MARCH1", "MARCHF1"]) == ["MARCHF1", "MARCHF1"]  # a previous symbol is the same gene


def test_an_alias_that_looks_made_unique_is_so_beside_the_gene():
    assert symbols(["INS-1"]) == ["FOXM1"]
    assert symbols(["INS", "INS-1"]) == ["INS", "INS"]


def test_a_high_number_is_that_of_a_copy_only_after_the_copy_before():
    assert symbols(["CAND1", "CAND1.11"]) == ["CAND1", None]
    assert symbols(["CAND1", "CAND1.1", "CAND1-7"]) == ["CAND1"] * 3
    copies = ["CAND1", *(f"CAND1.{i}" for i in range(1, 12))]
    assert symbols(copies) == ["CAND1"] * 12


def test_no_symbol_of_a_vocabulary_is_another_gene_but_for_twins():
    found = match(list(MINI.symbols))
    own = np.arange(1, len(MINI) + 1)
    changed = np.flatnonzero(found.ids != own)
    assert len(changed) < 0.02 * len(MINI)
    assert (found.how[changed] == "restored").all()
    assert (MINI.genes["ensembl_id"].to_numpy()[changed] == "").all()
    assert np.isin(found.ids[changed], own[np.setdiff1d(np.arange(len(MINI)), changed)]).all()


def test_a_vocabulary_with_old_symbols_and_no_ids_is_reached():
    old = Vocabulary(pd.DataFrame({"symbol": ["SEPT2", "MARCH3", "C13orf2", "HLA-A", "MLL"]}))
    found = match(["SEPTIN2", "MARCHF3", "KCTD12", "HLA.A", "KMT2A", "2-Sep", "SEPT2"], old)
    assert found.ids.tolist() == [1, 2, 3, 4, 5, 1, 1]


def test_names_are_told_apart_gene_by_gene():
    ids = ["ENSG00000198851", "", "", "ENSG00000118058.3", "ENSG00000204287"]
    names = ["x1", "CD19", "HLA.A", "x2", "HLA-DRA_ENSG00000204287"]
    found = match(names, gene_ids=ids, gene_symbols=["", "", "", "", "nothing"])
    assert [MINI.symbols[i - 1] for i in found.ids] == ["CD3E", "CD19", "HLA-A", "KMT2A", "HLA-DRA"]
    assert found.matched_by.tolist() == [ids[0], "CD19", "HLA.A", ids[3], ids[4]]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("HLA-DRA_ENSG00000204287", ("HLA-DRA", "ENSG00000204287")),
        ("ENSG00000204287.12|HLA-DRA|protein_coding", ("HLA-DRA", "ENSG00000204287")),
        ("HLA-DRA (ENSG00000204287)", ("HLA-DRA", "ENSG00000204287")),
        ("ENSG00000204287", ("", "ENSG00000204287")),
        ("ENSMUSG00000036594", ("ENSMUSG00000036594", "")),
        ("CD3E", ("CD3E", "")),
        ("a|b", ("a|b", "")),
    ],
)
def test_parts_of_a_name(name: str, parts: tuple[str, str]):
    assert split_name(name) == parts


@given(st.text(max_size=12))
def test_any_text_is_a_name(text: str):
    for function in (split_name, spelling, without_suffix, symbols_of_date):
        function(text)
    assert len(match([text]).ids) == 1


def test_a_spelling_of_two_other_names_tells_nothing():
    vocab = Vocabulary(pd.DataFrame({"symbol": ["AAA", "BBB"]}))
    synonyms = Synonyms({"N-1": ("AAA", "previous"), "N_1": ("BBB", "previous")})
    found = find_genes(pd.DataFrame(index=["N-1", "N_1", "N.1"]), vocab, synonyms=synonyms)
    assert found.ids.tolist() == [1, 2, 0]
