"""Missing labels, batches and groups: NaN and text that stands for nothing are no class, and are counted."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

import cellfm as cf
from cellfm.cells.obs import cell_groups, missing_values, read_column, read_complete_column
from cellfm.errors import DataWarning, InputError, MissingKeyError
from cellfm.genes.vocabulary import resolve_vocabulary
from cellfm.model import CellFM
from cellfm.settings import MISSING_LABELS, Settings, means_missing, settings
from cellfm.tasks.perturbation._labels import CONTROL_WORDS

MISSING = [
    *(None, np.nan, pd.NA, "nan", "NA", "None", "<NA>", "", " ", " unassigned ", "Unassigned", "N/A", "null", "NULL"),
    *(
        "nan ",
        "NaN",
        "na",
        "Na",
        "#N/A",
        "-",
        " - ",
        "--",
        "?",
        "???",
        ".",
        "undefined",
        "Undefined",
        "UNDEFINED",
        "NaT",
    ),
    *("Not assigned", "unlabelled", "Unlabeled", "Missing", "not available", "n.a.", "\u2013", "\xa0", "\tNA"),
]
CLASSES = ["B cell", "T cell", "NANOG+", "none", "NAT", "0", "ND", "unknown", "B-", "CD4 -", "NA12878", "nano", "non-T"]


def table(values: pd.Series) -> AnnData:
    adata = AnnData(sp.csr_matrix((len(values), 3), dtype=np.float32))
    adata.obs["label"] = values.to_numpy(dtype=object) if values.dtype == object else values.array
    return adata


@given(values=st.lists(st.sampled_from(MISSING + CLASSES), min_size=1), categorical=st.booleans())
def test_what_is_missing_is_no_value_and_everything_else_is(values: list, categorical: bool):
    column = pd.Series(values, dtype=object)
    column = column.astype("category") if categorical else column
    expected = [None if any(value is word for word in MISSING) else value for value in values]
    assert read_column(table(column), "label", "labels_key").tolist() == expected


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1.0, np.nan, 2.0]),
        pd.Series([1, None, 2], dtype="Int64"),
        pd.Series([True, None, False], dtype="boolean"),
        pd.Series(["a", None, "b"], dtype="string"),
        pd.Series(pd.to_datetime(["2020-01-01", None, "2020-01-02"])),
        pd.Series([b"a", None, 3.5], dtype=object),
    ],
)
def test_columns_of_any_type(column: pd.Series):
    assert missing_values(column).tolist() == [False, True, False]


def test_a_minus_is_a_value_beside_a_plus():
    assert missing_values(pd.Series(["+", "-", "-", "?"])).tolist() == [False, False, False, True]
    assert missing_values(pd.Series(["+", "-", None], dtype="category")).tolist() == [False, False, True]
    assert missing_values(pd.Series(["A", "-", "B"])).tolist() == [False, True, False]


@given(words=st.lists(st.sampled_from(MISSING_LABELS), min_size=1), data=st.data())
def test_capitals_and_blanks_of_a_word_do_not_matter(words: list[str], data: st.DataObject):
    change = st.sampled_from([str.upper, str.lower, str.title, str.capitalize])
    written = [word if word != word.lower() else data.draw(change)(word) for word in words]
    assert missing_values(pd.Series([f" {word} " for word in written])).all()
    assert not missing_values(pd.Series([f"{word}x" for word in written])).any()


def test_words_for_control_are_no_missing_labels():
    assert not any(means_missing(word) for word in (*CONTROL_WORDS, "none", "NT", "untreated", "mock", "DMSO"))
    vocab = resolve_vocabulary("mini")
    assert not any(map(means_missing, vocab.symbols))


def test_other_text_can_be_missing(monkeypatch: pytest.MonkeyPatch):
    column = pd.Series(["nan", "doublet", "T cell"])
    monkeypatch.setattr(settings, "_missing_labels", MISSING_LABELS)
    settings.missing_labels = ["doublet"]
    assert missing_values(column).tolist() == [False, True, False]
    settings.missing_labels = ["Doublet"]  # with capitals: just so
    assert missing_values(pd.Series(["Doublet", "doublet"])).tolist() == [True, False]
    with pytest.raises(InputError, match=r"a list of strings.*not 'nan'"):
        settings.missing_labels = "nan"
    monkeypatch.setenv("CELLFM_MISSING_LABELS", "low quality,nan")
    assert Settings().missing_labels == ("low quality", "nan")


def test_groups_have_only_cells_with_a_value(tiny_adata: AnnData):
    labels = np.array(tiny_adata.obs["label"], dtype=object)
    labels[:3] = ["nan", None, "unassigned"]
    tiny_adata.obs["label"] = labels
    with pytest.warns(
        DataWarning,
        match=r"3 of 40 cells have no value in .* \(text that counts as missing: 'nan', 'unassigned'; .* no group",
    ):
        names, groups = cell_groups(tiny_adata, "label")
    assert (names, groups[:3].tolist()) == (["A", "B"], [-1, -1, -1])
    assert [names[code] for code in groups[3:]] == labels[3:].tolist()


def test_groups_keep_the_order_of_categories(tiny_adata: AnnData):
    tiny_adata.obs["label"] = pd.Categorical(tiny_adata.obs["label"].astype(str), ["B", "unused", "A"])
    assert cell_groups(tiny_adata, "label")[0] == ["B", "A"]


def test_what_must_be_complete_is_refused_with_advice_that_works(tiny_adata: AnnData):
    tiny_adata.obs["batch"] = ["NA", " nan", None, *(["one", "two"] * 20)[:37]]
    with pytest.raises(InputError, match=r"missing for 3 of 40 cells .*'NA', ' nan'") as refused:
        read_complete_column(tiny_adata, "batch", "batch_key")
    advice = str(refused.value).partition("cells out: ")[2].removesuffix(".")
    kept = eval(advice, {"adata": tiny_adata})  # the advice is an expression
    assert read_complete_column(kept, "batch", "batch_key").tolist() == tiny_adata.obs["batch"][3:].tolist()


def test_columns_that_are_numbers_or_occur_twice(tiny_adata: AnnData):
    tiny_adata.obs[0] = tiny_adata.obs["label"]
    with pytest.raises(MissingKeyError, match=r"groupby='type' is not a column of obs\. Columns: label, batch, 0\."):
        cell_groups(tiny_adata, "type")
    tiny_adata.obs.columns = ["label", "label", "batch"][: len(tiny_adata.obs.columns)]
    with pytest.raises(InputError, match="obs has 2 columns of this name"):
        read_column(tiny_adata, "label", "labels_key")


@pytest.mark.parametrize("words", [["nan", "NA", "None"], [None, np.nan]])
def test_no_tool_takes_them_for_a_class_or_a_batch(tiny_adata: AnnData, tiny_model: CellFM, words: list):
    labels = np.array(tiny_adata.obs["label"], dtype=object)
    labels[::8] = np.resize(np.array(words, dtype=object), 5)
    tiny_adata.obs["label"] = labels
    with pytest.warns(DataWarning, match="5 of 40 cells"):
        annotator = cf.tl.fit_annotator(tiny_adata, tiny_model, labels_key="label")
    assert annotator.classes == ("A", "B")
    query = tiny_adata.copy()
    query.obs_names = [f"query {name}" for name in query.obs_names]
    with pytest.warns(DataWarning, match="5 of 40 cells"):
        cf.tl.transfer_labels(query, tiny_adata, model=tiny_model, labels_key="label")
    assert query.obsm["cellfm_proba"].shape == (40, 2)
    with pytest.warns(DataWarning, match="5 of 40 cells"):
        cf.tl.attention(tiny_adata, tiny_model, groupby="label")
    assert tiny_adata.uns["cellfm"]["cellfm_attention"]["groups"].tolist() == ["A", "B"]
    with pytest.raises(InputError, match=r"obs\['label'\] is missing for 5 of 40 cells"):
        cf.tl.integrate(tiny_adata, tiny_model, batch_key="label", steps=1)
    for tool in (cf.tl.evaluate_annotation, cf.tl.evaluate_unknowns):
        with pytest.raises(InputError, match=r"obs\['label'\] is missing for 5 of 40 cells"):
            tool(tiny_adata, tiny_model, labels_key="label")
    with pytest.raises(InputError, match=r"obs\['label'\] is missing for 5 of 40 cells"):
        cf.tl.benchmark(tiny_adata, batch_key="batch", label_key="label")


def test_shards_keep_them_apart_from_labels(tiny_adata: AnnData):
    from cellfm.corpus._survey import column_codes, column_values

    obs = pd.DataFrame({"label": ["a", "nan", None, "b", "unassigned"]})
    assert column_values(obs, "label") == ["a", "b"]
    assert column_codes(obs, "label", ["a", "b"]).tolist() == [0, -1, -1, 1, -1]
