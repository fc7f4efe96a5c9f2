"""The how-to page on other models does what it says on files as their tools write them."""

import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import cellfm as cf
from cellfm.tl import _benchmark

PAGE = Path(__file__).resolve().parent.parent / "docs" / "howto" / "compare_models.md"
N, D = 60, 8


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.Index:
    """Cells, embeddings that name their cell in the first dimension, and gene vectors; returns cells that all have."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    symbols = cf.load_model("mini").vocab.symbols[:400]
    names = pd.Index([f"cell{i}" for i in range(N)])
    obs = pd.DataFrame({"donor": [f"d{i % 2}" for i in range(N)], "cell_type": [f"t{i // 2 % 3}" for i in range(N)]})
    counts = generator.poisson(1.0, (N, len(symbols))).astype(np.float32)
    cells = ad.AnnData(counts, obs=obs.set_index(names), var=pd.DataFrame(index=symbols))
    cells.write_h5ad("cells.h5ad")

    vectors = generator.standard_normal((N, D)).astype(np.float32)
    vectors[:, 0] = np.arange(N)
    scgpt, uce = cells[:, :300].copy(), cells[5:].copy()
    scgpt.obsm["X_scGPT"], uce.obsm["X_uce"] = vectors, vectors[5:]
    scgpt.write_h5ad("scgpt.h5ad")
    uce.write_h5ad("uce.h5ad")
    order = generator.permutation(N)[:-4]
    pd.DataFrame(vectors[order]).assign(cell_id=names[order]).to_csv("geneformer.csv")

    pd.DataFrame({"sensitive": np.arange(100) % 2}, index=symbols[:100]).to_csv("dosage.csv")
    pd.DataFrame(generator.standard_normal((90, D)), index=symbols[:90]).to_csv("scgpt_genes.csv")
    return names[sorted({*range(5, N)} & {*order.tolist()})]


def test_the_page_matches_cells_by_name(files, monkeypatch, capsys):
    seen = {}

    def score(embeddings, cells, unintegrated, *, profile):
        seen.update(embeddings)
        return pd.DataFrame(0.5, index=list(embeddings), columns=["AvgBio", "Batch correction", "Total"])

    monkeypatch.setattr(_benchmark, "score_embeddings", score)
    namespace = {"cf": cf, "sc": sc}
    page = PAGE.read_text()
    assert page.count("n_repeats=1") == 1
    page = page.replace("n_repeats=1", "n_repeats=1, n_folds=2, n_epochs=2")
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(block, namespace)
    pd.testing.assert_index_equal(namespace["adata"].obs_names, files)
    for name in ("X_scGPT", "X_geneformer", "X_uce"):
        assert [f"cell{value:.0f}" for value in seen[name][:, 0]] == files.tolist()
    assert {"X_pca", "X_cellfm", "X_scGPT", "X_geneformer", "X_uce"} <= seen.keys()
    compared = namespace["results"].groupby("model")["features"].unique().map(set)
    features = {"features", "random", "permuted"}
    assert compared.to_dict() == {"mini": features, "scGPT": features}
    assert re.findall(r"^(mini|scGPT) ", capsys.readouterr().out, re.MULTILINE) == ["mini", "scGPT"]
