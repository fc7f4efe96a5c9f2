"""What comes out can be written and read again: keys and contents are checked before any work, and nothing is lost."""

import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mudata import MuData

import cellfm as cf
from cellfm.cells.mudata import without_pulling
from cellfm.cells.outputs import as_keys, record_run, require_keys, run_record
from cellfm.cells.read import read_cells
from cellfm.cells.storable import columns_may_have_slashes, name_problem, require_storable
from cellfm.cells.write import check_fits, write_cells
from cellfm.cli._main import main
from cellfm.errors import DataWarning, InputError
from cellfm.model import CellFM

BAD_KEYS = ["X/cell", "", ".", "..", "a\\b", "a\0b", "\ud800", "zarr.json", "x" * 300, 3, None, ("X", "cell")]


def table(n: int = 4) -> AnnData:
    counts = sp.csr_matrix(np.arange(n * 3, dtype=np.float32).reshape(n, 3))
    names = [f"cell{i}" for i in range(n)]
    return AnnData(counts, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=list("xyz")))


def written(adata: AnnData, path: Path) -> AnnData:
    write_cells(adata, path)
    return read_cells(path)


TOOLS = {
    "embed": lambda a, m, key: cf.tl.embed(a, m, key_added=key),
    "integrate": lambda a, m, key: cf.tl.integrate(a, m, batch_key="batch", key_added=key, steps=1),
    "embed_genes": lambda a, m, key: cf.tl.embed_genes(a, m, key_added=key),
    "attention": lambda a, m, key: cf.tl.attention(a, m, key_added=key),
    "rank_lncrnas": lambda a, m, key: cf.tl.rank_lncrnas(a, m, groupby="label", key_added=key),
    "attention_partners": lambda a, m, key: cf.tl.attention_partners(a, m, genes=["GENE1"], key_added=key),
    "gene_contributions": lambda a, m, key: cf.tl.gene_contributions(a, m, groupby="label", key_added=key),
    "gene_modules": lambda a, m, key: cf.tl.gene_modules(a, key_added=key),
    "enrich_modules": lambda a, m, key: cf.tl.enrich_modules(a, {"set": ["GENE1"]}, key_added=key),
    "compare_modules": lambda a, m, key: cf.tl.compare_modules(a, {"set": ["GENE1"]}, key_added=key),
    "score_modules": lambda a, m, key: cf.tl.score_modules(a, key_added=key),
    "gene_network": lambda a, m, key: cf.tl.gene_network(a, ["GENE1"], key_added=key),
    "recover_counts": lambda a, m, key: cf.pp.recover_counts(a, key_added=key),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_no_tool_takes_a_key_that_files_cannot_hold(
    tiny_adata: AnnData, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch, tool: str
):
    monkeypatch.setattr(CellFM, "_encoder", None)  # the network must not run
    before = repr(tiny_adata)
    for key in BAD_KEYS:
        with pytest.raises(InputError, match=r"key_added=.* choose another key"):
            TOOLS[tool](tiny_adata, tiny_model, key)
    assert repr(tiny_adata) == before


@given(st.one_of(st.text(max_size=8), st.sampled_from(["a/b", "..", ".", "_index", "zarr.json", "é☃", "a.b", " "])))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_key_that_is_taken_can_be_read_again(tmp_path: Path, suffix: str, key: str):
    adata = table()
    for slot in ("obsm", "varm", "layers", "uns", "obs"):
        try:
            require_keys(adata, "key_added", **{slot: key})
        except InputError:
            assert key == "_index" or name_problem(key) is not None or key in ("X", "raw", "cellfm")
            continue
        value = {"uns": pd.DataFrame({"a": [1]}), "obs": np.arange(4.0)}
        rows = {"obsm": (4, 2), "varm": (3, 2), "layers": (4, 3)}
        getattr(adata, slot)[key] = np.ones(rows[slot], np.float32) if slot in rows else value[slot]
    read = written(adata, tmp_path / f"cells{suffix}")
    for slot in ("obsm", "varm", "layers", "uns", "obs"):
        assert set(getattr(read, slot)) == set(getattr(adata, slot))


def test_keys_of_something_else_are_refused_and_replaced_data_are_said(tiny_adata: AnnData):
    for slot, key in (("uns", "cellfm"), ("layers", "X"), ("layers", "raw"), ("obs", "_index")):
        with pytest.raises(InputError, match="choose another key"):
            require_keys(tiny_adata, "key_added", **{slot: key})
    tiny_adata.var.index.name = "symbol"
    with pytest.raises(InputError, match="name of the index of var"):
        require_keys(tiny_adata, "key_added", var="symbol")
    tiny_adata.obsm["X_pca"] = np.ones((tiny_adata.n_obs, 2))
    with pytest.warns(DataWarning, match=r"obsm\['X_pca'\] exists already"):
        require_keys(tiny_adata, "key_added", obsm="X_pca")
    record_run(tiny_adata, "X_pca", "obsm", seed=1)
    require_keys(tiny_adata, "key_added", obsm="X_pca")  # what cellfm wrote itself


def test_groups_with_slashes_keep_their_own_keys(tiny_adata: AnnData, tiny_model: CellFM, tmp_path: Path):
    tiny_adata.obs["type"] = np.where(np.arange(tiny_adata.n_obs) % 2, "CD4/CD8", "CD4|CD8")
    cf.tl.embed_genes(tiny_adata, tiny_model, kind="contextual", groupby="type")
    names = list(tiny_adata.uns["cellfm"]["cellfm"]["groups"])
    assert len(set(names)) == 2
    assert not np.array_equal(*(tiny_adata.varm[f"cellfm_{name}"] for name in names), equal_nan=True)
    assert set(written(tiny_adata, tmp_path / "cells.zarr").varm) == set(tiny_adata.varm)
    assert as_keys(["a/b", "a|b", "a|b_2"]) == ["a|b", "a|b_2", "a|b_2_2"]


FOREIGN = ["0.9", 3, [1, 2], np.arange(3), {"version": "0.9"}, {"X_cellfm": "mine"}, {"X_cellfm": {"mine": 1}}, None]


@pytest.mark.parametrize("foreign", FOREIGN, ids=repr)
def test_a_foreign_entry_of_uns_is_kept(tiny_adata: AnnData, tiny_model: CellFM, tmp_path: Path, foreign: object):
    tiny_adata.uns["cellfm"] = foreign
    stays = isinstance(foreign, dict) and "X_cellfm" not in foreign
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", DataWarning)
        cf.tl.embed(tiny_adata, tiny_model)
    assert ["cellfm_foreign" in str(one.message) for one in said] == ([] if stays else [True])
    assert run_record(tiny_adata, "X_cellfm")["model"] == "tiny"
    kept = tiny_adata.uns["cellfm"] if stays else tiny_adata.uns["cellfm_foreign"]
    assert {"version": "0.9"}.items() <= kept.items() if stays else kept is foreign or kept == foreign
    cf.tl.embed(tiny_adata, tiny_model)  # a second time there is nothing to say
    assert "cellfm_foreign_1" not in tiny_adata.uns
    read = written(tiny_adata, tmp_path / "cells.h5ad")
    assert set(read.uns) == set(tiny_adata.uns)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_a_copied_file_keeps_a_foreign_entry(tiny_adata: AnnData, model_dir: Path, tmp_path: Path, suffix: str):
    tiny_adata.uns["cellfm"] = "0.9"
    write_cells(tiny_adata, tmp_path / f"in.{suffix}")
    out = tmp_path / f"out.{suffix}"
    assert main(["-q", "embed", str(tmp_path / f"in.{suffix}"), "-o", str(out), "--model", str(model_dir)]) == 0
    read = read_cells(out)
    assert read.uns["cellfm_foreign"] == "0.9"
    assert "X_cellfm" in read.uns["cellfm"]


def with_obs(name: object, values: object) -> AnnData:
    adata = table()
    adata.obs[name] = values
    return adata


def with_slot(slot: str, key: object, value: object) -> AnnData:
    adata = table()
    getattr(adata, slot)[key] = value
    return adata


def with_raw(change: object) -> AnnData:
    adata = table()
    adata.raw = adata.copy()
    change(adata.raw.var)
    return adata


def with_index(index: object) -> AnnData:
    adata = table()
    adata.obs.index = index
    return adata


def strings(values: list) -> object:
    return pd.array(values, dtype="string")


PUT_RIGHT = {
    "nullable strings": lambda: with_obs("a", strings(["a", None, "b", "b"])),
    "nullable integers": lambda: with_obs("a", pd.array([1, None, 3, 4], dtype="Int64")),
    "nullable booleans": lambda: with_obs("a", pd.array([True, None, False, True], dtype="boolean")),
    "text and missing": lambda: with_obs("a", pd.Series(["a", None, np.nan, "b"], list(table().obs_names), object)),
    "numbers as categories": lambda: with_obs("a", pd.Categorical([3, 1, 3, 1])),
    "booleans as categories": lambda: with_obs("a", pd.Categorical([True, False, True, True])),
    "a number as a name": lambda: with_obs(0, [1, 2, 3, 4]),
    "names of cells as nullable strings": lambda: with_index(pd.Index(strings(list("abcd")))),
    "a number as the name of the index": lambda: with_index(pd.Index(list("abcd"), name=0)),
    "_index in raw": lambda: with_raw(lambda var: var.insert(0, "_index", list("xyz"))),
    "names of genes of raw": lambda: with_raw(lambda var: setattr(var, "index", pd.Index(strings(list("xyz"))))),
    "None": lambda: with_slot("uns", "a", None),
    "a dict": lambda: with_slot("uns", "a", {"b": {"c": [1, 2]}, "d": {}}),
    "a table": lambda: with_slot("uns", "a", pd.DataFrame({"b": [1, 2], "c": ["x", "y"]})),
}
REFUSED = {
    "adata.obs['a'] contains values of the types float, str": lambda: with_obs("a", ["a", 1.0, "b", 2.0]),
    "adata.obs['a'] contains values of the types NoneType, bool": lambda: with_obs("a", [True, None, False, True]),
    "adata.obs['a'] contains values of the type list": lambda: with_obs("a", [[1], [2], [3], [4]]),
    "adata.obs['a'] contains values of the type set": lambda: with_obs("a", [{1}, {2}, {3}, {4}]),
    "adata.obs['a'] contains values of the types int, str": lambda: with_obs("a", pd.Categorical([1, "b", 1, "b"])),
    "adata.obs['a'] contains values of the type datetime64[ns]": lambda: with_obs(
        "a", pd.date_range("2020", periods=4).as_unit("ns")
    ),
    "adata.obs[''] is empty": lambda: with_obs("", [1, 2, 3, 4]),
    "adata.layers['s/r'] has a slash": lambda: with_slot("layers", "s/r", table().X),
    "adata.obsm['s/r'] has a slash": lambda: with_slot("obsm", "s/r", np.ones((4, 2))),
    "adata.uns['a'] contains a tuple": lambda: with_slot("uns", "a", (1, 2)),
    "adata.uns['a'] contains a set": lambda: with_slot("uns", "a", {"b"}),
    "adata.uns['a'] contains a Series": lambda: with_slot("uns", "a", pd.Series([1])),
    "adata.uns['a']['b'] contains a object": lambda: with_slot("uns", "a", {"b": object()}),
    "adata.uns['a'][1] is int": lambda: with_slot("uns", "a", {1: 2}),
    "adata.uns['a/b'] has a slash": lambda: with_slot("uns", "a/b", 1),
    "adata.raw.var['a'] contains values of the types int, str": lambda: with_raw(
        lambda var: var.insert(0, "a", [1, "b", 2])
    ),
}


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("case", PUT_RIGHT)
def test_what_can_be_written_is_written(tmp_path: Path, case: str, suffix: str):
    adata = PUT_RIGHT[case]()
    values = adata.obs.iloc[:, 0].astype(object) if adata.obs.shape[1] else None
    path = tmp_path / f"cells{suffix}"
    check_fits(adata, path)
    read = written(adata, path)
    assert list(read.obs_names) == list(adata.obs_names)
    assert set(read.uns) == set(adata.uns)
    if values is not None:
        found = read.obs.iloc[:, 0].astype(object)
        assert found.isna().tolist() == values.isna().tolist()
        assert found.dropna().tolist() == values.dropna().tolist()
        assert list(read.obs) == [str(name) for name in adata.obs]
    if adata.raw is not None:
        assert list(read.raw.var_names) == list("xyz")
        assert list(read.raw.var) == (["index"] if case == "_index in raw" else [])


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("place", REFUSED)
def test_what_cannot_be_written_is_named_with_its_place(tmp_path: Path, place: str, suffix: str):
    with pytest.raises(InputError) as refused:
        check_fits(REFUSED[place](), tmp_path / f"cells{suffix}")
    assert place in str(refused.value)
    assert "Rename, convert or remove" in str(refused.value)


def test_columns_with_slashes_go_to_h5ad_only(tmp_path: Path):
    adata = with_obs("G1/S", np.arange(4.0))
    advice = ""
    if columns_may_have_slashes():
        check_fits(adata, tmp_path / "cells.h5ad")
        assert list(written(adata, tmp_path / "cells.h5ad").obs) == ["G1/S"]
        advice = r" or write \.h5ad"
    else:
        with pytest.raises(InputError, match=r"adata\.obs\['G1/S'\] has a slash"):
            check_fits(adata, tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match=rf"adata\.obs\['G1/S'\] has a slash.*{advice}"):
        check_fits(adata, tmp_path / "cells.zarr")


def test_columns_twice_and_columns_like_the_index_are_named(tmp_path: Path):
    twice = table()
    twice.obs = pd.DataFrame(np.ones((4, 2)), twice.obs_names, ["a", "a"])
    like = with_obs("n", np.arange(4.0))
    like.obs.index.name = "n"
    for adata, said in ((twice, "occurs more than once"), (like, "has the name of the index")):
        with pytest.raises(InputError, match=said):
            check_fits(adata, tmp_path / "cells.h5ad")


def test_the_tables_of_a_mudata_are_checked(tmp_path: Path):
    with without_pulling():
        bad = MuData({"rna": with_obs("a", [[1], [2], [3], [4]])})
        fine = MuData({"rna": with_raw(lambda var: var.insert(0, "_index", list("xyz")))})
        with pytest.raises(InputError, match=r"mdata\.mod\['rna'\]\.obs\['a'\]"):
            require_storable(bad, ".h5mu")
        check_fits(fine, tmp_path / "cells.h5mu")
        write_cells(fine, tmp_path / "cells.h5mu")
    assert list(read_cells(tmp_path / "cells.h5mu").mod["rna"].raw.var) == ["index"]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_results_are_saved_though_something_cannot_be(tmp_path: Path, suffix: str):
    adata = with_obs("a", [[1], [2], [3], [4]])
    adata.obs["label"] = pd.Categorical(list("abab"))
    adata.obsm["X_cellfm"] = np.ones((4, 2), np.float32)
    record_run(adata, "X_cellfm", seed=1)
    adata.uns["other"] = object()
    with pytest.warns(DataWarning, match="could not write all of the cells"):
        read = written(adata, tmp_path / f"cells{suffix}")
    assert list(read.obs) == ["label"]
    np.testing.assert_array_equal(read.obsm["X_cellfm"], adata.obsm["X_cellfm"])
    assert read.uns["cellfm"]["X_cellfm"]["seed"] == 1
    assert (read.X != adata.X).nnz == 0


def test_names_with_slashes_in_a_file_are_named_and_the_advice_works(tmp_path: Path):
    adata = table()
    path = tmp_path / "cells.h5ad"
    adata.layers["twice"], adata.obsm["X"] = adata.X * 2, np.ones((4, 2))
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:  # anndata 0.13 writes no such names
        for old, new in (("layers/twice", "layers/spliced/raw"), ("obsm/X", "obsm/X/cell")):
            file.move(old, "moved")
            file.move("moved", new)
    adata.layers["spliced/raw"] = adata.layers["twice"]
    del adata.layers["twice"]
    adata.obsm["X/cell"] = adata.obsm.pop("X")
    with pytest.raises(InputError, match=r"obsm\['X/cell'\], layers\['spliced/raw'\]") as refused:
        check_fits(adata, tmp_path / "copy.h5ad", copied_from=path)
    assert "damaged" not in str(refused.value)
    exec(str(refused.value).split("in Python: ")[1])
    check_fits(adata, tmp_path / "copy.h5ad", copied_from=path)
    read = ad.read_h5ad(path)
    assert (read.layers["spliced_raw"] != adata.layers["spliced/raw"]).nnz == 0
    assert list(read.obsm) == ["X_cell"]


def test_the_command_refuses_before_the_network_runs(
    tiny_adata: AnnData, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(CellFM, "_encoder", None)
    tiny_adata.obs["G1\\S"] = 1.0
    write_cells(tiny_adata, tmp_path / "in.h5ad")
    write_cells(tiny_adata[:3].copy(), tmp_path / "three.h5ad")
    common = ["--model", str(model_dir), "-o"]
    for arguments, said in (
        (["in.h5ad", *common, "out.zarr"], "adata.obs['G1\\\\S'] has a backslash"),
        (["in.h5ad", *common, "out.h5ad", "--key-added", "X/cell"], "has a slash"),
        (["three.h5ad", *common, "out.h5ad", "--plot", "p.png"], "needs 4 cells"),
        (["in.h5ad", *common, "out.h5ad", "--plot", "p.png", "--color", "nothing"], "--color"),
        (["in.h5ad", *common, f"{'x' * 245}.h5ad"], "name too long"),
    ):
        monkeypatch.chdir(tmp_path)
        assert main(["-q", "embed", *arguments]) == 2
        assert said in capsys.readouterr().err.replace("File name", "name")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad", "three.h5ad", "tiny"]


def test_a_plot_that_fails_loses_nothing(
    tiny_adata: AnnData, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    from cellfm import pl

    def fail(*_: object, **__: object) -> None:
        raise TypeError("unhashable colour")

    monkeypatch.setattr(pl, "cells", fail)
    monkeypatch.setattr("scanpy.tl.umap", lambda *_, **__: None)
    write_cells(tiny_adata, tmp_path / "in.h5ad")
    common = ["--model", str(model_dir), "-o", str(tmp_path / "out.h5ad")]
    assert main(["-q", "embed", str(tmp_path / "in.h5ad"), *common, "--plot", str(tmp_path / "p.png")]) == 2
    assert "is written, but the plot could not be drawn: unhashable colour" in capsys.readouterr().err
    assert ad.read_h5ad(tmp_path / "out.h5ad").obsm["X_cellfm"].shape == (40, 16)


@pytest.mark.parametrize("foreign", [None, "0.9", {"cellfm_proba": 3, "cellfm_module": {}}], ids=repr)
def test_what_reads_records_takes_foreign_ones_for_none(foreign: object):
    from cellfm.tasks.genes._stored import stored_modules

    adata = table()
    adata.varm["cellfm_modules"], adata.varp["cellfm_neighbors"] = np.zeros((3, 2), np.int32), sp.eye(3, format="csr")
    if foreign is not None:
        adata.uns["cellfm"] = foreign
    assert len(stored_modules(adata, "cellfm_module")[0]) == 3
    with pytest.raises(InputError, match="does not record the resolutions"):
        stored_modules(adata, "cellfm_module", 10.0)


NUMBERED = {
    "embed_genes": lambda a, m: cf.tl.embed_genes(a, m, kind="contextual", groupby="none"),
    "attention": lambda a, m: cf.tl.attention(a, m, groupby="none"),
    "rank_lncrnas": lambda a, m: cf.tl.rank_lncrnas(a, m, groupby="none"),
    "gene_contributions": lambda a, m: cf.tl.gene_contributions(a, m, groupby="none"),
    "integrate": lambda a, m: cf.tl.integrate(a, m, batch_key="none"),
    "fit_annotator": lambda a, m: cf.tl.fit_annotator(a, m, labels_key="none"),
    "transfer_labels": lambda a, m: cf.tl.transfer_labels(a, a, model=m, labels_key="none"),
    "annotate": lambda a, m: cf.tl.annotate(a, reference=a, model=m, labels_key="none"),
    "evaluate_annotation": lambda a, m: cf.tl.evaluate_annotation(a, m, labels_key="none"),
    "benchmark": lambda a, m: cf.tl.benchmark(a, batch_key="none", label_key="none", embeddings=["X"]),
    "fit_perturbation": lambda a, m: cf.tl.fit_perturbation(a, m, condition_key="none"),
    "fit_transport": lambda a, m: cf.tl.fit_transport(a, m, condition_key="none", source="a", target="b"),
    "gene_modules": lambda a, m: cf.tl.gene_modules(a, embedding_key="none"),
    "embed": lambda a, m: cf.tl.embed(a, m, gene_key="none"),
    "pl.cells": lambda a, m: cf.pl.cells(a, color="none", basis="X_pca"),
    "pl.cells basis": lambda a, m: cf.pl.cells(a, basis="none"),
}


@pytest.mark.parametrize("tool", NUMBERED)
def test_names_that_are_numbers_are_listed(tiny_adata: AnnData, tiny_model: CellFM, tool: str):
    tiny_adata.obs[0], tiny_adata.var[1] = 1.0, 2.0
    tiny_adata.obsm["X_pca"] = np.ones((tiny_adata.n_obs, 2))
    with pytest.raises(InputError, match="none"):
        NUMBERED[tool](tiny_adata, tiny_model)


def anndata_can(adata: AnnData, path: Path) -> bool:
    try:
        adata.write_h5ad(path)
        ad.read_h5ad(path)
    except Exception:  # noqa: BLE001
        return False
    return True


column = st.one_of(
    st.lists(st.one_of(st.none(), st.text("ab", max_size=2)), min_size=4, max_size=4),
    st.lists(st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.floats(0, 1)), min_size=4, max_size=4),
    st.lists(st.one_of(st.text("ab", max_size=1), st.integers(0, 3), st.just((1,))), min_size=4, max_size=4),
)


@given(column, st.sampled_from(["object", "category", "infer"]), st.text(max_size=4))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_column_is_refused_or_can_be_read_again(tmp_path: Path, values: list, kind: str, name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas, of what it infers
        found = pd.Series(values, list(table().obs_names), object)
        found = found.infer_objects() if kind == "infer" else found.astype(kind)
        adata = table()
        adata.obs[name] = found
    path = tmp_path / "cells.h5ad"
    try:
        check_fits(adata, path)
    except InputError:
        assert not anndata_can(adata, path)
        return
    read = written(adata, path).obs[name]
    assert read.isna().tolist() == found.isna().tolist()
    assert read.dropna().tolist() == found.dropna().tolist()
