"""A stored embedding is used only for the cells, counts and model that it was made from, else embedded anew."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

import cellfm as cf
from cellfm.cells.fingerprint import among, count_fingerprints, tie, value_fingerprints
from cellfm.cells.input import read_input
from cellfm.cells.input_options import InputOptions
from cellfm.cells.read import read_cells
from cellfm.cells.write import write_cells
from cellfm.errors import DataWarning
from cellfm.model import CellFM
from cellfm.model._embed import stored_or_new_embedding


@pytest.fixture
def embedded(tiny_adata: AnnData, tiny_model: CellFM) -> AnnData:
    cf.tl.embed(tiny_adata, tiny_model)
    tiny_adata.obsm["X_cellfm"].flags.writeable = False  # what is taken is this very array
    return tiny_adata


def used(adata: AnnData, model: CellFM, monkeypatch: pytest.MonkeyPatch, **options: str) -> bool:
    """Whether the stored embedding is used; what is used otherwise is checked to be the new one."""
    cells = read_input(adata, model.vocab, InputOptions(**options))
    encoded = []
    encode = CellFM.encode
    with monkeypatch.context() as patch:
        patch.setattr(CellFM, "encode", lambda self, *args, **kw: encoded.append(1) or encode(self, *args, **kw))
        found = stored_or_new_embedding(adata, model, cells)
    other = adata.copy()
    del other.obsm["X_cellfm"]
    np.testing.assert_allclose(found, stored_or_new_embedding(other, model, cells), atol=1e-5)
    return not encoded


PARTS = {
    "all": lambda a: a,
    "subset": lambda a: a[5:30],
    "mask": lambda a: a[np.arange(a.n_obs) % 3 == 0].copy(),
    "another order": lambda a: a[::-1].copy(),
    "genes in another order": lambda a: a[:, ::-1].copy(),
    "dense": lambda a: AnnData(a.X.toarray(), obs=a.obs, var=a.var, obsm=dict(a.obsm), uns=dict(a.uns)),
    "float64": lambda a: AnnData(a.X.astype(np.float64), obs=a.obs, var=a.var, obsm=dict(a.obsm), uns=dict(a.uns)),
    "integers": lambda a: AnnData(a.X.astype(np.int32), obs=a.obs, var=a.var, obsm=dict(a.obsm), uns=dict(a.uns)),
}


@pytest.mark.parametrize("part", PARTS)
def test_the_same_cells_keep_their_embedding(embedded: AnnData, tiny_model: CellFM, monkeypatch, part: str):
    assert used(PARTS[part](embedded), tiny_model, monkeypatch)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("backed", [False, True])
def test_it_is_used_from_a_file(
    embedded: AnnData, tiny_model: CellFM, monkeypatch, tmp_path: Path, suffix: str, backed: bool
):
    write_cells(embedded, tmp_path / f"cells{suffix}")
    read = read_cells(tmp_path / f"cells{suffix}", backed=backed)
    cells = read_input(read, tiny_model.vocab)
    monkeypatch.setattr(CellFM, "encode", None)
    np.testing.assert_array_equal(stored_or_new_embedding(read, tiny_model, cells), embedded.obsm["X_cellfm"])


def swap_cells(a: AnnData) -> None:
    a.X = a.X[[1, 0, *range(2, a.n_obs)]]


def swap_embeddings(a: AnnData) -> None:
    a.obsm["X_cellfm"] = a.obsm["X_cellfm"][[1, 0, *range(2, a.n_obs)]]


def change_a_count(a: AnnData) -> None:
    a.X[17, 123] += 1


def swap_two_counts(a: AnnData) -> None:
    dense = a.X.toarray()
    dense[17, [123, 124]] = dense[17, 123] + [2, 1]
    a.X = sp.csr_matrix(dense)


def rename_two_genes(a: AnnData) -> None:
    a.var_names = [a.var_names[1], a.var_names[0], *a.var_names[2:]]


def change_an_embedding(a: AnnData) -> None:
    a.obsm["X_cellfm"] = a.obsm["X_cellfm"] + np.eye(*a.obsm["X_cellfm"].shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("change", "n_changed"),
    [
        (swap_cells, 2),
        (swap_embeddings, 2),
        (change_a_count, 1),
        (swap_two_counts, 1),
        (rename_two_genes, None),
        (change_an_embedding, 16),
    ],
)
def test_what_was_changed_is_embedded_anew(embedded: AnnData, tiny_model: CellFM, monkeypatch, change, n_changed):
    change(embedded)
    said = "" if n_changed is None else f" of {n_changed} of 40 cells have changed"
    with pytest.warns(DataWarning, match=rf"obsm\['X_cellfm'\] is not used, .*{said}") as warned:
        assert not used(embedded, tiny_model, monkeypatch)
    assert len(warned) == 1


def test_cells_of_another_table_are_embedded_anew(embedded: AnnData, tiny_model: CellFM, monkeypatch):
    other = embedded.copy()
    change_a_count(other)
    both = ad.concat([embedded, other], index_unique="-", uns_merge="first")
    with pytest.warns(DataWarning, match="1 of 80 cells"):
        assert not used(both, tiny_model, monkeypatch)
    assert used(ad.concat([embedded[:10], embedded[20:]], uns_merge="first"), tiny_model, monkeypatch)
    assert not used(ad.concat([embedded[:10], embedded[20:]]), tiny_model, monkeypatch)  # without its record


def test_other_input_is_no_surprise(embedded: AnnData, tiny_model: CellFM, monkeypatch):
    embedded.layers["twice"] = embedded.X * 2
    embedded.layers["same"] = embedded.X.copy()
    assert not used(embedded, tiny_model, monkeypatch, layer="twice")
    assert used(embedded, tiny_model, monkeypatch, layer="same")
    assert not used(embedded, tiny_model, monkeypatch, values_layer="same")
    other = CellFM(tiny_model.config, tiny_model.vocab, random_state=1)
    assert not used(embedded, other, monkeypatch)
    halved = CellFM(tiny_model.config, tiny_model.vocab, tiny_model.weights, precision="bfloat16")
    assert not used(embedded, halved, monkeypatch)


def test_an_embedding_of_an_earlier_version_is_made_anew(embedded: AnnData, tiny_model: CellFM, monkeypatch):
    del embedded.uns["cellfm"]["X_cellfm"]["fingerprints"]
    with pytest.warns(DataWarning, match="earlier version"):
        assert not used(embedded, tiny_model, monkeypatch)


@pytest.mark.parametrize("broken", ["text", 3, ["a"], {"X_cellfm": "text"}, {"X_cellfm": {"fingerprints": "x"}}])
def test_foreign_records_are_no_records(embedded: AnnData, tiny_model: CellFM, monkeypatch, broken: object):
    embedded.uns["cellfm"] = broken
    assert not used(embedded, tiny_model, monkeypatch)


def test_values_of_the_user_count_too(tiny_adata: AnnData, tiny_model: CellFM):
    tiny_adata.layers["own"] = np.log1p(tiny_adata.X.toarray())
    cells = read_input(tiny_adata, tiny_model.vocab, InputOptions(values_layer="own"))
    before = np.concatenate([found for _, found in cells.fingerprints()])
    tiny_adata.layers["own"][3, 5] += 0.5
    after = np.concatenate([found for _, found in cells.fingerprints()])
    assert np.flatnonzero(before != after).tolist() == [3]


counts = st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=6)


@given(counts, st.permutations(range(4)))
@settings(max_examples=60, deadline=None)
def test_fingerprints_are_of_what_a_model_sees(rows: list[list[int]], order: list[int]):
    ids = np.array([3, 1, 3, 0])  # the first and the third are the same gene, the last is unknown
    matrix = sp.csr_matrix(np.array(rows, np.float32))
    found = count_fingerprints(matrix, ids)
    assert (found == count_fingerprints(matrix[:, order], ids[order])).all()
    seen = [(row[0] + row[2], row[1], sum(row)) for row in rows]
    assert len(set(zip(seen, found, strict=True))) == len(set(seen)) == len(set(found.tolist()))
    values = value_fingerprints(matrix, np.array([3, 1, 2, 0]))
    assert len({tuple(row[:3]) for row in rows}) == len(set(values.tolist()))
    embedding = np.arange(len(rows) * 3, dtype=np.float32).reshape(-1, 3)
    tied = tie(found, embedding)
    assert among(tied, np.unique(tied)).all()
    assert not among(tied, np.empty(0, np.uint64)).any()
