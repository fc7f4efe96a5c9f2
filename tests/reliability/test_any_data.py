"""Laws of `cf.pp` and `cf.tl` on data of any shape, type, storage, gene names and labels, drawn by hypothesis."""

import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

import cellfm as cf
from cellfm.cells import inspection as _inspect
from cellfm.cells.tokenize import TokenBatch
from cellfm.config import ModelConfig
from cellfm.errors import InputError
from cellfm.genes.hgnc import load_synonyms
from cellfm.genes.match import find_genes
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import Encoded

# The same few examples in every run; CELLFM_EXAMPLES=2000 draws that many others.
EXAMPLES = int(os.environ.get("CELLFM_EXAMPLES", "0"))
options = {
    "deadline": None,
    "database": None,
    "max_examples": EXAMPLES or 60,
    "derandomize": not EXAMPLES,
    "suppress_health_check": list(HealthCheck),
}
if not EXAMPLES:
    options["phases"] = (Phase.explicit, Phase.generate, Phase.shrink)
any_data = settings(**options)

N_GENES, WIDTH = 30, 6
VOCAB = Vocabulary(
    pd.DataFrame(
        {
            "symbol": [f"GENE{i}" for i in range(N_GENES)],
            "ensembl_id": [f"ENSG{i:011d}" if i < 25 else "" for i in range(N_GENES)],
        }
    )
)
NUMBERS = st.integers(0, N_GENES - 1)
NAMES = st.one_of(
    NUMBERS.map("GENE{}".format),
    NUMBERS.map("ENSG{:011d}".format),
    st.tuples(NUMBERS, st.integers(1, 20)).map(lambda n: f"ENSG{n[0]:011d}.{n[1]}"),
    NUMBERS.map("OLD{}".format),
    NUMBERS.map("ALIAS{}".format),
    st.sampled_from(
        ["", "nan", "None", "FOO", "gene1", "é", "日本", "1", "GENE1-1", " GENE2", "ENSMUSG00000000001", "x" * 300]
    ),
    st.text(max_size=4).filter(lambda text: "\x00" not in text),
)
DTYPES = ["bool", "uint8", "int8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]
STORAGE = ["dense", "fortran", "csr", "csc", "csr_array", "csc_array", "unsorted", "doubled", "zeros"]
KINDS = [
    "counts",
    "counts",
    "counts",
    "sparse counts",
    "large",
    "fractions",
    "logarithms",
    "negative",
    "nan",
    "inf",
    "empty",
]


class StandIn:
    """As much of a model as tools need: a cell is the sum of its genes' vectors, each as often as its value says."""

    config = ModelConfig(n_layers=1, d_model=WIDTH, n_heads=1, n_genes=N_GENES)
    vocab = VOCAB
    name = "stand-in"
    precision = "float32"
    weights_hash = "0" * 64
    table = np.random.default_rng(0).standard_normal((N_GENES + 1, WIDTH))

    def prepare(self, n_tokens: int) -> None:
        pass

    def encode(self, batch: TokenBatch, **_: object) -> Encoded:
        rows = np.repeat(np.arange(batch.n_cells), batch.lengths)
        cell = np.zeros((batch.n_cells, WIDTH))
        np.add.at(cell, rows, self.table[batch.gene_ids] * batch.values[:, None])
        cell[batch.lengths == 0] = np.nan
        return Encoded(cell=cell.astype(np.float32))


MODEL: Any = StandIn()


@pytest.fixture(scope="module", autouse=True)
def hgnc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hgnc") / "hgnc.txt"
    rows = [f"GENE{i}\tALIAS{i}|SHARED\tOLD{i}" for i in range(N_GENES)]
    path.write_text("\n".join(["symbol\talias_symbol\tprev_symbol", *rows]) + "\n")
    SHARED.path = path
    return path


SHARED = SimpleNamespace(path=None)


def stored(values: np.ndarray, storage: str) -> Any:
    if storage == "dense":
        return values
    if storage == "fortran":
        return np.asfortranarray(values)
    if values.dtype == np.float16:  # which SciPy takes no part in
        return values
    if storage == "unsorted":
        matrix = sp.csr_matrix(values)
        for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
            matrix.indices[start:stop] = matrix.indices[start:stop][::-1].copy()
            matrix.data[start:stop] = matrix.data[start:stop][::-1].copy()
        matrix.has_sorted_indices = False
        return matrix
    if storage in ("doubled", "zeros"):
        # Each entry once more: as a part of the value, or as nothing.
        coo = sp.coo_matrix(values)
        part = coo.data // 2 if storage == "doubled" and values.dtype.kind in "iu" else np.zeros_like(coo.data)
        rest = coo.data - part if values.dtype.kind != "b" else coo.data
        order = np.argsort(np.concatenate([coo.row, coo.row]), kind="stable")
        indptr = np.concatenate([[0], np.cumsum(2 * np.bincount(coo.row, minlength=values.shape[0]))])
        data, columns = np.concatenate([rest, part])[order], np.concatenate([coo.col, coo.col])[order]
        return sp.csr_matrix((data, columns, indptr), shape=values.shape)
    return getattr(sp, storage if "array" in storage else f"{storage}_matrix")(values)


@st.composite
def matrices(draw: Callable, shape: tuple[int, int], kinds: list[str] = KINDS) -> np.ndarray:
    kind, dtype = draw(st.sampled_from(kinds)), draw(st.sampled_from(DTYPES))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    values = generator.poisson(1.5, shape).astype(np.float64)
    if kind == "sparse counts":
        values *= generator.random(shape) < 0.3
    elif kind == "large":
        values *= float(draw(st.sampled_from([40, 3e4, 2e9])))
    elif kind == "empty":
        values *= 0
    elif kind == "fractions":
        values *= 25.5
    elif kind == "logarithms":
        values = np.log1p(values)
    elif kind != "counts" and values.size:
        values.flat[generator.integers(values.size)] = {"negative": -3, "nan": np.nan, "inf": np.inf}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else None
        values = values if info is None else np.clip(np.nan_to_num(values), info.min, min(info.max, 2**62))
        return values.astype(dtype)


@st.composite
def tables(draw: Callable, kinds: list[str] = KINDS, least: int = 0, known: bool = False) -> AnnData:
    n_cells, n_vars = draw(st.integers(least, 7)), draw(st.integers(max(least, 4 * known), 12))
    names = draw(st.lists(NAMES, min_size=n_vars, max_size=n_vars))
    if known:
        names = [f"GENE{i}" for i in draw(st.permutations(range(N_GENES)))][:n_vars]
    values = stored(draw(matrices((n_cells, n_vars), kinds)), draw(st.sampled_from(STORAGE)))
    obs = pd.DataFrame(
        {"depth": np.arange(n_cells)}, index=[f"cell{i // draw(st.sampled_from([1, 2]))}" for i in range(n_cells)]
    )
    var = pd.DataFrame({"order": np.arange(n_vars)}, index=names)
    if draw(st.booleans()):
        var["gene_ids"] = draw(st.lists(NAMES, min_size=n_vars, max_size=n_vars))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AnnData(values, obs=obs, var=var)


def arrays_of(values: Any) -> list[Any]:
    parts = [values.data, values.indices, values.indptr] if sp.issparse(values) else [np.asarray(values)]
    return [type(values).__name__, values.shape, *((part.dtype.str, part.tobytes()) for part in parts)]


def frozen(adata: AnnData) -> Any:
    """Everything of a table, to the bit."""
    frames = [
        (list(frame.index), {str(c): (str(frame[c].dtype), list(map(repr, frame[c]))) for c in frame})
        for frame in (adata.obs, adata.var)
    ]
    held = [{key: arrays_of(value) for key, value in field.items()} for field in (adata.layers, adata.obsm)]
    return arrays_of(adata.X), frames, held, repr(adata.uns)


def quiet(tool: Callable, *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        with patch.object(_inspect, "MIN_KNOWN_GENES", 1):
            return tool(*args, **kwargs)


def without_contradictions(adata: AnnData) -> AnnData:
    """The same without ids that name other genes than the names do, which are refused."""
    if find_genes(adata.var, VOCAB, synonyms=load_synonyms(SHARED.path)).contradictions.problem:
        del adata.var["gene_ids"]
    return adata


def require_reason(error: InputError) -> None:
    assert len(str(error)) > 20


def embed(adata: AnnData, **kwargs: Any) -> Any:
    return cf.tl.embed(adata, MODEL, min_known_genes=1, **kwargs)


def harmonize(adata: AnnData, **kwargs: Any) -> Any:
    return cf.pp.harmonize_genes(adata, model=VOCAB, hgnc=SHARED.path, **kwargs)


def prepare(adata: AnnData, **kwargs: Any) -> Any:
    return cf.pp.prepare(adata, model=VOCAB, hgnc=SHARED.path, min_genes=2, **kwargs)


def recover(adata: AnnData, **kwargs: Any) -> Any:
    return cf.pp.recover_counts(adata, errors="flag", **kwargs)


@pytest.mark.parametrize("tool", [embed, harmonize, prepare, recover])
@any_data
@given(adata=tables())
def test_refused_with_a_reason_and_unchanged_or_the_same_as_its_copy(tool: Callable, adata: AnnData):
    before = frozen(adata)
    try:
        result = quiet(tool, adata, copy=True)
    except InputError as error:
        require_reason(error)
        assert frozen(adata) == before
        with pytest.raises(InputError):
            quiet(tool, adata)
        assert frozen(adata) == before
        return
    assert frozen(adata) == before
    assert quiet(tool, adata) is None
    assert frozen(adata) == frozen(result)


@any_data
@given(adata=tables())
def test_a_check_is_a_report_whatever_the_data(adata: AnnData):
    before = frozen(adata)
    report = quiet(cf.pp.check, adata, model=VOCAB, hgnc=SHARED.path)
    assert frozen(adata) == before
    assert report.n_cells == adata.n_obs
    assert report.ok == (not report.problems)
    assert repr(report)


@any_data
@given(adata=tables(["counts", "sparse counts"], least=1, known=True).map(without_contradictions), data=st.data())
def test_an_embedding_depends_on_counts_and_genes_alone(adata: AnnData, data: st.DataObject):
    dense = adata.X.toarray() if sp.issparse(adata.X) else np.asarray(adata.X)
    if not dense.any():
        return
    quiet(embed, adata)
    found = adata.obsm["X_cellfm"]
    assert found.dtype == np.float32
    assert found.shape == (adata.n_obs, WIDTH)
    ids = find_genes(adata.var, VOCAB).ids
    expresses = (dense[:, ids > 0].astype(float) > 0).any(1)
    np.testing.assert_array_equal(np.isnan(found).any(1), ~expresses)
    np.testing.assert_array_equal(np.isnan(found).all(1), ~expresses)

    cells, genes = (data.draw(st.permutations(range(n))) for n in adata.shape)
    dtype, storage = data.draw(st.sampled_from([d for d in DTYPES if d != "bool"])), data.draw(st.sampled_from(STORAGE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = AnnData(stored(dense.astype(dtype)[cells][:, genes], storage), var=adata.var.iloc[genes])
    quiet(embed, other)
    np.testing.assert_allclose(other.obsm["X_cellfm"], found[cells], rtol=1e-4, atol=1e-4)


@any_data
@given(adata=tables(["counts", "sparse counts", "large"], least=1).map(without_contradictions))
def test_harmonizing_keeps_every_count_and_is_done_once(adata: AnnData):
    depth = np.asarray(adata.X.astype(np.float64).sum(1)).ravel()
    if not np.isfinite(depth).all():  # beyond float16; such values cannot be added up
        return
    boolean = adata.X.dtype == bool
    note(f"{adata.var}")
    quiet(harmonize, adata)
    note(f"{adata.var}")
    assert adata.var_names.is_unique
    if not boolean:  # whose sums are no sums
        np.testing.assert_allclose(
            np.asarray(adata.X.astype(np.float64).sum(1)).ravel(),
            depth,
            rtol=2e-3 if adata.X.dtype == np.float16 else 1e-6,
        )
    once = frozen(adata)
    quiet(harmonize, adata)
    names, matrix = adata.var_names, adata.X
    assert arrays_of(matrix) == once[0]
    assert list(names) == once[1][1][0]


@any_data
@given(
    counts=st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 12), min_size=8, max_size=8), min_size=n, max_size=n)
    ),
    target=st.sampled_from([1e3, 1e4, 12345.6]),
    base=st.sampled_from([None, 2, 10]),
    dtype=st.sampled_from(["float32", "float64"]),
    storage=st.sampled_from(STORAGE[:6]),
)
def test_recovered_counts_are_the_counts_or_refused(counts: list, target: float, base: Any, dtype: str, storage: str):
    original = np.array(counts, float)
    depth = np.maximum(original.sum(1, keepdims=True), 1)
    values = np.log1p(original / depth * target) / (math.log(base) if base else 1)
    adata = AnnData(stored(values.astype(dtype), storage))
    try:
        quiet(cf.pp.recover_counts, adata)
    except InputError:
        return
    divisor = np.maximum(np.gcd.reduce(original.astype(int), axis=1), 1)[:, None]
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), original / divisor)


LABELS = st.sampled_from(
    [
        lambda codes: pd.Categorical.from_codes(codes, ["A", "B", "C", "never"]),
        lambda codes: pd.Categorical(np.array(["T cell", "é", None], object)[codes]),
        lambda codes: np.array(["x", np.nan, "y"], object)[codes],
        lambda codes: np.asarray(codes),
        lambda codes: np.array([0.5, np.nan, 2.0])[codes],
        lambda codes: np.array([True, False, True])[codes],
        lambda codes: pd.Categorical(np.array([10, 2, 33])[codes], categories=[33, 10, 2, 5]),
        lambda codes: np.array(["", "Unknown", "z"], object)[codes],
        lambda codes: np.array(["only"] * 3, object)[codes],
    ]
)


@any_data
@given(
    query=tables(["counts", "sparse counts"], least=1, known=True),
    reference=tables(["counts", "sparse counts"], least=4, known=True),
    make=LABELS,
    data=st.data(),
)
def test_labels_come_from_the_reference(query: AnnData, reference: AnnData, make: Callable, data: st.DataObject):
    n = reference.n_obs
    labels = make(np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))))
    reference.obs["kind"] = labels
    before, kept = frozen(query), frozen(reference)
    options = {"labels_key": "kind", "model": MODEL, "min_known_genes": 1, "n_neighbors": data.draw(st.integers(1, 9))}
    try:
        quiet(cf.tl.transfer_labels, query, reference, **options)
    except InputError as error:
        require_reason(error)
        assert frozen(query) == before
        return
    finally:
        assert frozen(reference) == kept
    classes = set(map(str, pd.Series(labels).dropna())) - {""}
    assert set(query.obs["cellfm_label"]) <= classes | {"Unknown"}
    assert set(query.obs["cellfm_label_raw"].dropna()) <= classes
    proba = query.obsm["cellfm_proba"]
    assert proba.shape[0] == query.n_obs
    assert proba.shape[1] == len(query.obs["cellfm_label_raw"].cat.categories) <= len(classes)
    empty = np.isnan(proba).all(1)
    np.testing.assert_allclose(proba[~empty].sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(query.obs["cellfm_label_raw"].isna(), empty)
    assert set(query.obs["cellfm_label"][empty]) <= {"Unknown"}


def test_the_names_are_found_in_every_way():
    # So that the laws above are not about names that nothing knows.
    names = ["GENE1", "ENSG00000000002", "ENSG00000000003.7", "OLD4", "ALIAS5", "FOO", "SHARED"]
    match = find_genes(pd.DataFrame(index=names), VOCAB, synonyms=load_synonyms(SHARED.path))
    assert match.ids.tolist() == [2, 3, 4, 5, 6, 0, 0]
