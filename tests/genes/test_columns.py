"""The column that holds the names is read, contradicting names are refused, and errors say what names look like."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfm.genes.hgnc import package_synonyms
from cellfm.genes.match import GeneMatch, find_genes, genes_problem
from cellfm.genes.vocabulary import resolve_vocabulary

MINI = resolve_vocabulary("mini")
TABLE = MINI.genes[(MINI.genes["ensembl_id"] != "") & (MINI.genes["biotype"] == "protein_coding")].iloc[::40]
SYMBOLS, IDS = TABLE["symbol"].to_numpy(object), TABLE["ensembl_id"].to_numpy(object)
NUMBERS = np.arange(len(TABLE))


def match(names: np.ndarray, gene_key: str | None = None, **columns: np.ndarray) -> GeneMatch:
    var = pd.DataFrame(columns, index=pd.Index(names))
    return find_genes(var, MINI, gene_key=gene_key, synonyms=package_synonyms())


def problem(found: GeneMatch) -> str:
    return genes_problem(found, MINI, 200, "adata.var") or ""


TRUE = MINI.find_symbols(SYMBOLS)


@pytest.mark.parametrize("names", [NUMBERS, NUMBERS.astype(str), NUMBERS.astype(float), np.full(len(TABLE), np.nan)])
@pytest.mark.parametrize("values", [SYMBOLS, IDS, pd.Categorical(SYMBOLS), pd.array(SYMBOLS, dtype="string")])
def test_a_column_that_clearly_holds_the_names_is_read(names: np.ndarray, values: object):
    found = match(names, approved_name=values, chromosome=np.resize(["1", "2"], len(TABLE)), length=NUMBERS)
    assert found.ids.tolist() == TRUE.tolist()
    assert found.column == "approved_name"
    assert found.guessed
    assert not problem(found)


def test_columns_that_agree_are_no_choice():
    found = match(NUMBERS, mine=SYMBOLS, yours=np.where(NUMBERS % 3, SYMBOLS, ""))
    assert (found.column, found.ids.tolist()) == ("mine", TRUE.tolist())


def test_columns_that_disagree_are_left_to_the_user():
    found = match(NUMBERS, mine=SYMBOLS, yours=np.roll(SYMBOLS, 3))
    assert not found.ids.any()
    assert "pass gene_key=" in problem(found)
    assert "mine, yours" in problem(found)
    assert match(NUMBERS, "mine", mine=SYMBOLS, yours=np.roll(SYMBOLS, 3)).ids.tolist() == TRUE.tolist()


def test_the_nearest_gene_of_a_peak_is_no_name():
    found = match(NUMBERS, nearest=np.resize(SYMBOLS[: len(SYMBOLS) // 3], len(SYMBOLS)))
    assert not found.ids.any()


def test_names_that_are_known_are_not_looked_for_elsewhere():
    found = match(SYMBOLS, mine=np.roll(SYMBOLS, 1))
    assert (found.column, found.ids.tolist(), len(found.contradictions)) == ("var_names", TRUE.tolist(), 0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, len(TABLE) - 1), st.booleans())
def test_shifted_ids_are_refused(by: int, lead: bool):
    names = np.where(NUMBERS % 50, SYMBOLS, "unknown") if lead else SYMBOLS  # ids lead where names know less
    found = match(names, gene_ids=np.roll(IDS, by))
    text = problem(found)
    assert "name different genes in" in text
    assert "gene_key='var_names'" in text
    assert "gene_key='gene_ids'" in text
    assert match(names, "gene_ids", gene_ids=np.roll(IDS, by)).ids.tolist() == np.roll(TRUE, by).tolist()
    assert not problem(match(names, "var_names", gene_ids=np.roll(IDS, by)))


def test_words_whose_symbol_and_id_contradict_each_other_are_refused():
    text = problem(match(SYMBOLS + "_" + np.roll(IDS, 1)))
    assert text.startswith(
        f"Symbols and ids in var_names name different genes in {len(TABLE)} of the {len(TABLE)} rows"
    )
    assert "gene_key=" not in text


def test_a_column_of_symbols_joined_with_ids_is_read():
    found = match(NUMBERS, mine=SYMBOLS + "|" + IDS)
    assert (found.column, found.ids.tolist()) == ("mine", TRUE.tolist())


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_contradictions_are_counted_and_shown(share: float):
    n = int(share * len(TABLE))
    ids = IDS.copy()
    ids[:n] = np.roll(IDS[:n], 1) if n else ids[:0]
    found = match(SYMBOLS, ensembl_id=ids)
    assert (len(found.contradictions), found.contradictions.n_both) == (n, len(TABLE))
    assert bool(problem(found)) == (share > 0.1)
    if n:
        assert f"{n:,} of the {len(TABLE):,} rows" in str(found.contradictions)
        assert f"{SYMBOLS[0]} / {ids[0]}" in str(found.contradictions)


def test_a_former_name_is_no_contradiction_and_the_id_tells_the_gene():
    # AK3 was the symbol of AK4, and is that of another gene now.
    var = pd.DataFrame({"gene_ids": ["ENSG00000162433", IDS[0]]}, index=["AK3", SYMBOLS[0]])
    found = find_genes(var, MINI, synonyms=package_synonyms())
    assert [MINI.symbols[i - 1] for i in found.ids] == ["AK4", SYMBOLS[0]]
    assert not len(found.contradictions)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (NUMBERS, "These are numbers, not names"),
        (NUMBERS * 37 + 1, "perhaps Entrez ids"),
        (np.char.capitalize(np.char.lower(SYMBOLS.astype(str))), "look like mouse genes"),
        ([f"ENSMUSG{i:011d}" for i in NUMBERS], "look like mouse genes"),
        ([f"ENSRNOG{i:011d}" for i in NUMBERS], "look like rat genes"),
        ([f"ENST{i:011d}.2" for i in NUMBERS], "ids of transcripts"),
        ([f"{i}_at" for i in NUMBERS], "microarray probes"),
        ([f"probe {i}" for i in NUMBERS], "min_known_genes="),
    ],
)
def test_what_names_look_like_is_said(names: np.ndarray, said: str):
    text = problem(match(np.array(names, object)))
    assert said in text
    assert "gene_key=" in text


def test_a_small_panel_is_told_from_wrong_names():
    found = match(SYMBOLS[:50])
    assert problem(found).endswith("For a small panel pass min_known_genes=50 or a smaller number.")
    assert genes_problem(found, MINI, 50, "adata.var") is None


def test_mouse_names_are_not_replaced_by_a_column_silently():
    mouse = np.array([name.capitalize() for name in SYMBOLS], object)
    found = match(mouse, human=SYMBOLS)
    assert "look like mouse genes" in problem(found)
    assert match(mouse, "human", human=SYMBOLS).ids.tolist() == TRUE.tolist()
