"""Genes are found by every name they go by, and the report of too few says what to do."""

import numpy as np
import pandas as pd
import pytest

from cellfm.errors import InputError, MissingKeyError
from cellfm.genes.hgnc import Synonyms
from cellfm.genes.match import find_genes, require_genes
from cellfm.genes.vocabulary import Vocabulary

VOCAB = Vocabulary(
    pd.DataFrame(
        {
            "symbol": ["TP53", "CD3E", "KMT2A", "SEPT1", "MARCH1"],
            "ensembl_id": ["ENSG00000141510", "ENSG00000198851", "ENSG00000118058", "", ""],
        }
    )
)
OTHER_NAMES = {
    "MLL": ("KMT2A", "previous"),
    "HRX": ("KMT2A", "alias"),
    "SEPT1": ("SEPTIN1", "previous"),
    "LARP": ("SEPTIN1", "alias"),
    "MARCH1": ("MARCHF1", "previous"),
    "ENSG00000180096": ("SEPTIN1", "ensembl"),
    "OTHER": ("NOT_IN_VOCABULARY", "alias"),
}
SYNONYMS = Synonyms(OTHER_NAMES)


def table(names: list[str], **columns: list) -> pd.DataFrame:
    return pd.DataFrame(columns, index=names)


def test_symbols_and_ensembl_ids_mix():
    match = find_genes(table(["CD3E", "ENSG00000141510.3", "ENSG00000118058", "nothing"]), VOCAB)
    assert match.ids.tolist() == [2, 1, 3, 0]
    assert match.how.tolist() == ["symbol", "ensembl", "ensembl", "none"]
    assert (match.n_matched, match.n_distinct, match.column) == (3, 3, "var_names")


@pytest.mark.parametrize(
    "column", ["feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_ids", "ensembl_id", "feature_id"]
)
def test_usual_columns_are_found_by_themselves(column: str):
    ids = column in ("gene_ids", "ensembl_id", "feature_id")
    names = ["ENSG00000141510", "ENSG00000198851"] if ids else ["TP53", "CD3E"]
    match = find_genes(table(["x1", "x2"], **{column: names}), VOCAB)
    assert match.ids.tolist() == [1, 2]
    assert match.column == column


@pytest.mark.parametrize("column", ["Gene_Symbol", "GeneName", "SYMBOL", "gene.name", "Ensembl_ID", "ENSEMBL"])
def test_usual_columns_are_found_in_any_writing(column: str):
    names = ["ENSG00000141510", "nothing"] if "ENS" in column.upper() else ["TP53", "nothing"]
    match = find_genes(table(["KMT2A", "CD3E"], **{column: names}), VOCAB)
    assert (match.ids.tolist(), len(match.contradictions)) == ([3, 2], 1)


def test_var_names_win_a_draw():
    assert find_genes(table(["TP53"], gene_symbols=["CD3E"]), VOCAB).ids.tolist() == [1]


def test_other_columns_fill_in_what_the_best_leaves_open():
    match = find_genes(table(["TP53", "CD3E", "x"], gene_ids=["", "", "ENSG00000118058.1"]), VOCAB)
    assert match.ids.tolist() == [1, 2, 3]
    assert match.how.tolist() == ["symbol", "symbol", "ensembl"]


def test_gene_key_rules():
    var = table(["TP53", "CD3E"], mine=["CD3E", "x"])
    assert find_genes(var, VOCAB, gene_key="mine").ids.tolist() == [2, 0]
    with pytest.raises(MissingKeyError, match="'yours' is not a column of var. Columns: mine"):
        find_genes(var, VOCAB, gene_key="yours")


def test_names_of_any_type_are_read():
    assert find_genes(pd.DataFrame(index=[1, 2]), VOCAB).n_matched == 0
    categorical = table(["x1", "x2"], gene_name=pd.Categorical(["TP53", None]))
    assert find_genes(categorical, VOCAB).ids.tolist() == [1, 0]


def test_previous_symbols_and_aliases_match_with_a_table_only():
    var = table(["TP53", "MLL", "OTHER"])
    assert find_genes(var, VOCAB).ids.tolist() == [1, 0, 0]
    match = find_genes(var, VOCAB, synonyms=SYNONYMS)
    assert match.ids.tolist() == [1, 3, 0]
    assert match.how.tolist() == ["symbol", "previous", "none"]
    match = find_genes(table(["HRX"]), VOCAB, synonyms=SYNONYMS)
    assert (match.ids.tolist(), match.how.tolist()) == ([3], ["alias"])


def test_an_alias_of_a_gene_that_is_there_is_not_followed():
    assert find_genes(table(["HRX", "KMT2A"]), VOCAB, synonyms=SYNONYMS).ids.tolist() == [0, 3]
    assert find_genes(table(["MLL", "KMT2A"]), VOCAB, synonyms=SYNONYMS).ids.tolist() == [3, 3]


def test_a_vocabulary_with_old_symbols_is_reached_by_the_new_ones():
    match = find_genes(table(["LARP", "SEPTIN1", "ENSG00000180096.2", "MARCHF1"]), VOCAB, synonyms=SYNONYMS)
    assert match.ids.tolist() == [0, 4, 4, 5]
    assert match.how.tolist() == ["none", "previous", "ensembl", "previous"]
    match = find_genes(table(["LARP"]), VOCAB, synonyms=SYNONYMS)
    assert (match.ids.tolist(), match.how.tolist()) == ([4], ["alias"])


def test_an_old_symbol_does_not_take_a_gene_from_the_new_one():
    vocab = Vocabulary(pd.DataFrame({"symbol": ["SEPT1", "SEPTIN1"]}))
    match = find_genes(table(["SEPTIN1", "SEPT1"]), vocab, synonyms=SYNONYMS)
    assert match.ids.tolist() == [2, 1]


def test_two_old_symbols_of_one_gene_are_not_chosen_between():
    vocab = Vocabulary(pd.DataFrame({"symbol": ["A1", "A2"]}))
    names = {"A1": ("A", "previous"), "A2": ("A", "previous")}
    assert find_genes(table(["A"]), vocab, synonyms=Synonyms(names)).ids.tolist() == [0]
    names = {**names, "A2": ("A", "alias")}
    assert find_genes(table(["A"]), vocab, synonyms=Synonyms(names)).ids.tolist() == [1]


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (["Tp53", "Cd3e", "Kmt2a"], "look like mouse genes"),
        (["ENSMUSG00000059552", "ENSMUSG00000032093"], "look like mouse genes"),
        (["0", "1", "2"], "These are numbers, not names: pass gene_key="),
        (["probe_a", "probe_b"], "Pass gene_key="),
    ],
)
def test_too_few_genes_say_what_was_found_and_what_to_do(names: list[str], advice: str):
    match = find_genes(table(names), VOCAB)
    with pytest.raises(InputError, match=advice) as caught:
        require_genes(match, VOCAB, 2, "adata.var")
    assert f"Only 0 of the {len(names)} genes in adata.var" in str(caught.value)
    assert names[0] in str(caught.value)


def test_enough_genes_pass_and_the_same_gene_counts_once():
    match = find_genes(table(["TP53", "CD3E", "TP53"]), VOCAB)
    require_genes(match, VOCAB, 2, "adata.var")
    with pytest.raises(InputError, match="Only 2 of the 3"):
        require_genes(match, VOCAB, 3, "adata.var")
    assert np.array_equal(match.ids, [1, 2, 1])


def test_an_id_that_many_names_share_tells_nothing():
    vocab = vocabulary_of(
        ["CD3E", "IRF4", "ABCF2", "LYZ", "MS4A1"], ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003", "", ""]
    )
    names = ["CD3E", "IRF4", "MUM1", "AL1.1", "AL1.2", "AL1.3", "LYZ", "MS4A1"]
    ensembl = ["ENSG00000000001", "ENSG00000000002", "ENSG00000000002", *["ENSG00000000003"] * 5]
    match = find_genes(pd.DataFrame({"ensembl_id": ensembl}, index=names), vocab)
    assert list(match.ids) == [1, 2, 0, 0, 0, 0, 4, 5]


def test_rows_of_one_name_and_id_are_one_gene():
    vocab = vocabulary_of(["CD3E", "TBCE"], ["ENSG00000000001", "ENSG00000000002"])
    var = pd.DataFrame({"gene_ids": ["ENSG00000000001", "ENSG00000000002", "ENSG00000000002"]}, index=["a", "x", "x"])
    assert list(find_genes(var, vocab).ids) == [1, 2, 2]


def test_a_gene_that_the_vocabulary_has_under_its_id_and_its_name_contradicts_nothing():
    vocab = vocabulary_of(["CD3E", "RP11-345P4.9", "ENSG00000272106"], ["ENSG00000000001", "", "ENSG00000272106"])
    var = pd.DataFrame({"gene_ids": ["ENSG00000000001", "ENSG00000272106"]}, index=["CD3E", "RP11-345P4.9"])
    assert len(find_genes(var, vocab).contradictions) == 0
    vocab = vocabulary_of(["CD3E", "TBCE"], ["ENSG00000000001", "ENSG00000000002"])
    var = pd.DataFrame({"gene_ids": ["ENSG00000000002", "ENSG00000000001"]}, index=["CD3E", "TBCE"])
    assert len(find_genes(var, vocab).contradictions) == 2


@pytest.mark.parametrize("n_unnamed", [0, 3])  # the names or the ids know more genes
def test_a_symbol_with_an_id_of_its_own_is_not_taken_for_an_entry_that_has_no_name(n_unnamed: int):
    symbols = ["CD3E", "TBCE", "CD19", "CD4", "SOD2", "ENSG00000112096"]
    ids = [*(f"ENSG0000000000{i}" for i in range(4)), "ENSG00000291237", "ENSG00000112096"]
    var = pd.DataFrame({"gene_ids": [*ids[:4], ids[5]]}, index=symbols[:5])
    var.index = [*(f"unnamed{i}" for i in range(n_unnamed)), *var.index[n_unnamed:]]
    match = find_genes(var, vocabulary_of(symbols, ids))
    assert list(match.ids) == [1, 2, 3, 4, 5]
    assert len(match.contradictions) == 0


def vocabulary_of(symbols, ensembl):
    return Vocabulary(pd.DataFrame({"symbol": symbols, "ensembl_id": ensembl}))
