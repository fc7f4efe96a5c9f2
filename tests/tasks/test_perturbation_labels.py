"""Labels of perturbations as GEARS, scPerturb, pertpy and screens of guides write them, and rules for others."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

import cellfm as cf
from cellfm.errors import DataWarning, InputError
from cellfm.tasks.perturbation._conditions import name_of, parse_all, read_conditions
from cellfm.tasks.perturbation._fit import known_genes
from cellfm.tasks.perturbation._labels import is_control_word, name_parts, read_label

KNOWN = [
    "A", "B", "KLF1", "MAP2K6", "HLA-A", "HLA-B", "NKX2-1", "AC104667.3", "WT1", "NT5E", "SGK1", "AAAS", "NME1",
    "NME2",
]  # fmt: skip
"""Names of genes."""
CONTROLS = [
    "ctrl", "Control", "ctrl+ctrl", "non-targeting", "NON-TARGETING", "non_targeting", "non-targeting_00025",
    "nontargeting", "non-targeting_non-targeting", "NT", "NT-1", "NTg4", "sgNT", "NTC", "NegCtrl0",
    "negative_control", "NegCtrl10_NegCtrl0__NegCtrl10_NegCtrl0", "unperturbed", "safe-targeting", "Safe_Harbor_2",
    "scramble", "wild-type",
]  # fmt: skip
"""Labels of control."""
SINGLES = [
    "@", "@+ctrl", "ctrl+@", "@_ctrl", "@_control", "control_@", "@+NT", "@_NegCtrl0__@_NegCtrl0", "@_1", "@_sg2",
    "@_sgRNA_2", "sg@", "sg@-1", "sg-@", "sgRNA_@_2", "sh@", "@-KO", "@_KO", "@_KO_1", "KO_@", "@|ctrl", "@.1",
    "@#2", "@_guide1", "@_g1", "@_P1P2", "@_P1", "@_pDS258", "@_+_53715355.23-P1P2", "@_ENST00000123456.1",
    "@_ACGTACGTACGTACGTACGT", "@_exon2", "@ KO", "@ (KO)", " @ ", "@ + ctrl",
]  # fmt: skip
"""Labels of one gene, which stands at @."""
PAIRS = [
    "A+B", "B+A", "A_B", "B_A", "A|B", "A,B", "A;B", "A/B", "A:B", "A_1+B_2", "A_1_B_2", "A_sg1|B_sg2", "sgA_sgB",
    "A_B_1", "A__B", "A_B__A_B", "A + B", "A, B", "A B",
]  # fmt: skip
"""Labels of two genes."""


@pytest.mark.parametrize("label", CONTROLS)
def test_control_has_many_names(label):
    assert read_label(label, KNOWN).genes == ()


@pytest.mark.parametrize("gene", ["A", "HLA-A", "NKX2-1", "AC104667.3"])
@pytest.mark.parametrize("label", SINGLES)
def test_a_gene_and_its_guides_are_the_gene(label, gene):
    assert read_label(label.replace("@", gene), KNOWN).genes == (gene,)


@pytest.mark.parametrize("label", PAIRS)
def test_two_genes_are_a_pair_with_guides_or_without(label):
    found = read_label(label, KNOWN)
    assert (found.genes, found.unknown) == (("A", "B"), ())


@pytest.mark.parametrize(
    ("label", "genes"),
    [
        ("HLA-A_HLA-B", ("HLA-A", "HLA-B")),
        ("HLA-A+KLF1", ("HLA-A", "KLF1")),
        ("AC104667.3_KLF1", ("AC104667.3", "KLF1")),
        ("WT1", ("WT1",)),
        ("NT5E", ("NT5E",)),
        ("SGK1", ("SGK1",)),
        ("KLF1_NegCtrl0__KLF1_NegCtrl0", ("KLF1",)),
    ],
)
def test_names_that_hold_a_separator_or_look_like_a_word_are_whole(label, genes):
    found = read_label(label, KNOWN)
    assert (found.genes, found.unknown, found.guide) == (genes, (), False)


def test_genes_that_look_like_guides_are_genes():
    """Plasmids are pMJ145 with a small p; hardly any gene of the model reads as a guide or a control."""
    assert {"SAMD1", "PTPN12", "GC"} <= set(name_parts(["SAMD1_PTPN12", "GC"]))
    symbols = cf.load_model("mini").vocab.symbols
    assert set(symbols) - set(name_parts(symbols)) <= {"CR1", "CR2", "REP15", "SI", "CTRL", "NTS"}


@pytest.mark.parametrize(
    "label", ["NOSUCH", "KLF1_NOSUCH", "KLF1-AS1", "NME1-NME2", "NOSUCH_1", "1", "KO", "NOSUCH_KLF1"]
)
def test_what_cannot_be_genes_of_the_data_is_not_taken_apart(label):
    found = read_label(label, KNOWN)
    assert found.genes == found.unknown == (label,)


def test_a_name_that_is_unknown_beside_a_plus_is_told():
    assert read_label("KLF1+NOSUCH", KNOWN).unknown == ("NOSUCH",)


@pytest.mark.parametrize("label", ["A+", "A+B+KLF1", "", "A_1+B_1+KLF1_1"])
def test_labels_that_name_no_one_or_two_genes_are_refused(label):
    with pytest.raises(InputError, match="one or two genes"):
        read_label(label, KNOWN)


names = st.from_regex(r"[A-Z][A-Z0-9]{2,6}(-[A-Z0-9]{1,3}|\.[0-9]{1,2})?", fullmatch=True).filter(
    lambda name: not is_control_word(name)
)
separators = st.sampled_from(["+", "|", ",", ";", "__", "_", " ", "/"])
guides = st.sampled_from(
    ["", "_1", "_12", "_sg1", "-sg2", "_sgRNA3", " KO", "_KO", "-KO", "_P1P2", "_guide1", ".1", "#3"]
)


@given(names, names, separators, guides, guides)
def test_pairs_and_guides_of_any_genes_are_read(one, other, separator, first, second):
    known = {one, other}
    pair = f"{one}{first}{separator}{other}{second}"
    if pair in known or any(f"{gene}{guide}" in known for gene, guide in ((one, first), (other, second)) if guide):
        return
    assert read_label(f"{one}{first}", known).genes == (one,)
    assert set(read_label(pair, known).genes) == known or read_label(pair, known).unknown == (pair,)
    assert read_label(f"{one}+{other}", known).genes == tuple(sorted(known))
    assert parse_all([name_of(tuple(sorted(known)))], known=known) == [tuple(sorted(known))]


def cells(labels) -> AnnData:
    obs = pd.DataFrame({"condition": labels}, index=[f"c{i}" for i in range(len(labels))])
    return AnnData(np.ones((len(labels), 3), np.float32), obs=obs)


def conditions_of(labels, **options):
    adata = cells(labels)
    found = read_conditions(adata, adata, "condition", known=KNOWN, **options)
    return [found.conditions[code] if code >= 0 else None for code in found.codes]


def test_unmatched_labels_are_listed_with_their_cells_and_what_to_do():
    labels = ["ctrl"] * 10 + ["A"] * 10 + ["odd"] * 12 + ["KLF1_odd"] * 11
    with pytest.raises(InputError, match=r"2 labels .*'KLF1_odd' \(11\), 'odd' \(12\).*parse_labels="):
        conditions_of(labels)
    with pytest.warns(DataWarning, match="23 cells of 2 labels .*'KLF1_odd', 'odd'.*used as perturbation names"):
        found = conditions_of(labels, others=True)
    assert found[-1] == ("KLF1_odd",)


@pytest.mark.parametrize("dtype", [object, "category"])
def test_a_rule_may_be_a_mapping_a_function_or_a_separator(dtype):
    labels = pd.Series(["ctrl"] * 10 + ["odd"] * 10 + ["A-B"] * 10 + ["A_1"] * 10).astype(dtype).to_numpy()
    given = {"odd": ["A", "B"], "A-B": None}
    assert conditions_of(labels, parse_labels=given)[::10] == [(), ("A", "B"), None, ("A",)]
    by_function = conditions_of(labels, parse_labels=lambda label: {"odd": "A+B"}.get(label, "ctrl"))
    assert by_function[::10] == [(), ("A", "B"), (), ()]
    assert conditions_of(labels, parse_labels="-")[::10] == [(), ("odd",), ("A", "B"), ("A_1",)]
    for rule in ("_", {}, lambda label: label):
        own = ["neg"] * 10 + ["A+neg" if callable(rule) else "A_neg"] * 10
        assert conditions_of(own, parse_labels=rule, control="neg")[::10] == [(), ("A",)]
    with pytest.raises(InputError, match="parse_labels= gives 3 for the label 'odd'; expected"):
        conditions_of(labels, parse_labels={"odd": 3})
    with pytest.raises(InputError, match="parse_labels= reads 'odd' as 'A', 'B', 'C'; expected one or two genes"):
        conditions_of(labels, parse_labels={"odd": "A+B+C"})


@pytest.mark.parametrize("column", [["1"], [1], [1.0], ["1 "]])
@pytest.mark.parametrize("control", ["1", 1, 1.0, ["1"], [1]])
def test_a_control_that_is_a_number_is_compared_as_text(column, control):
    assert conditions_of(column * 10 + ["A"] * 10, control=control)[::10] == [(), ("A",)]


def test_control_may_be_several_labels_and_takes_the_place_of_the_usual_words():
    labels = ["safe"] * 10 + ["GFP"] * 10 + ["A"] * 10 + ["A+ctrl"] * 10
    assert conditions_of(labels, control=["safe", "GFP"])[::10] == [(), (), ("A",), ("A",)]
    with pytest.warns(DataWarning, match="10 cells of 1 label .'NT'. .*left out"):
        found = conditions_of([*labels[:10], *["NT"] * 10, *labels[20:]], control="safe")
    assert found[::10] == [(), None, ("A",), ("A",)]
    with pytest.raises(InputError, match=r"control='none' is none of its labels.*A, A\+ctrl"):
        conditions_of(labels[20:], control="none")


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "nan", "NA", "None", "<NA>", "", "unassigned"])
def test_missing_labels_are_no_perturbation_and_are_counted(missing):
    labels = np.array(["ctrl"] * 10 + ["A"] * 10 + [missing] * 3, dtype=object)
    with pytest.warns(DataWarning, match="3 of 23 cells have no label"):
        assert conditions_of(labels)[-3:] == [None] * 3


def test_what_missing_is_can_be_set(monkeypatch):
    monkeypatch.setattr(cf.settings, "missing_labels", ("A",))
    with pytest.warns(DataWarning, match="10 of 30 cells have no label"):
        conditions_of(["ctrl"] * 10 + ["A"] * 10 + ["B"] * 10)


def test_rows_that_are_there_twice_are_no_gene_of_a_label():
    vocab = cf.load_model("mini").vocab
    assert {"TBCE", "TBCE-1"} <= set(vocab.symbols)
    known = known_genes(["TBCE-1", "NKX2-1_sg1", "HLA-A_HLA-B", "KLF1_NOSUCH", "sgKLF1"], vocab, None)
    assert {"TBCE", "NKX2-1", "HLA-A", "HLA-B", "KLF1"} <= known
    assert not {"TBCE-1", "NOSUCH", "NKX2"} & known
    assert read_label("TBCE-1", known).genes == ("TBCE",)
