"""The data of `mini` as files of counts over its vocabulary: quality, genes, repeated cells, types, drawn cells.

    python -m benchmarks.mini.prepare --data FOLDER --out FOLDER [--drawn 4]

Writes one h5ad file a data set, and `duplicates.csv`. Counts are whole numbers: values that are none are scaled to
30,000 a cell and rounded, expressed genes to 1 at least; their logarithms per 10,000 stay as layer `values`.
A cell that two sets hold is kept in the set with more genes. Cells are drawn from profiles of cell types and tissues:
the profile with noise, half of the cells with 5 % of another profile, at a depth of 500 to 30,000 counts.
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from benchmarks.mini.sets import DRAWN_APART, NOT_USED, PROFILES_NOT_USED, STORED, type_of
from cellfm.genes.hgnc import Synonyms, load_synonyms
from cellfm.genes.match import find_genes
from cellfm.genes.vocabulary import Vocabulary, resolve_vocabulary

MIN_GENES = 20
"""Known genes of a cell; sets of some hundred genes are wanted too."""
MIN_SHARED = 15
"""Genes that two cells must share to be called the same."""
SCALED_TO = 30_000
AMBIENT, DEPTH = 0.05, (3500, 0.7, 500, 30_000)
BATCHES = ("batch", "donor", "sample", "condition", "tech")


def read_set(path: Path, vocab: Vocabulary, synonyms: Synonyms) -> ad.AnnData:
    """Cells of a file over the genes of the vocabulary that it measures."""
    adata = ad.read_h5ad(path)
    values = sp.csr_matrix(linear(path.stem, adata.X), dtype=np.float32)
    ids = find_genes(adata.var, vocab, synonyms=synonyms).ids
    known = np.flatnonzero(ids > 0)
    genes, column = np.unique(ids[known], return_inverse=True)
    to_genes = sp.csr_matrix((np.ones(len(known), np.float32), (known, column)), (len(ids), len(genes)))
    found = ad.AnnData((values @ to_genes).tocsr(), var=pd.DataFrame(index=vocab.symbols[genes - 1]))
    found.obs_names = adata.obs_names.astype(str)
    found.obs_names_make_unique()
    for column, source in (("label", "cell_type"), ("batch", next((b for b in BATCHES if b in adata.obs), None))):
        if source in adata.obs:
            found.obs[column] = (
                adata.obs[source].astype(object).where(adata.obs[source].notna(), "").astype(str).to_numpy()
            )
    for column in {"condition"} & set(adata.obs):
        found.obs[column] = adata.obs[column].astype(str).to_numpy()
    if "label" in found.obs:
        found.obs["cell_type"] = [type_of(label) for label in found.obs["label"]]
    found = found[np.diff(found.X.indptr) >= MIN_GENES].copy()
    if not (found.X.data == np.rint(found.X.data)).all():
        per_cell = sp.diags(1 / np.asarray(found.X.sum(1)).ravel())
        found.layers["values"] = sp.csr_matrix(per_cell @ found.X * 1e4).log1p().astype(np.float32)
        found.X = sp.csr_matrix(per_cell @ found.X * SCALED_TO).astype(np.float32)
        found.X.data = np.maximum(1, np.rint(found.X.data))
    return found


def linear(name: str, values: np.ndarray | sp.spmatrix) -> np.ndarray | sp.spmatrix:
    stored = STORED.get(name)
    if stored is None:
        return values
    values = values.toarray() if sp.issparse(values) else values
    base = {"log": np.e, "log2": 2, "log10": 10}[stored]
    return np.where(values > 0, base ** values.astype(np.float64) - 1, 0)


def repeated_cells(sets: dict[str, ad.AnnData], vocab: Vocabulary) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Cells of each set that a set before it holds, (n_cells,) bool, and how many by pair of sets.

    Cells are the same if they have the same counts of all genes that both sets measure.
    """
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((len(vocab) + 1, 2))
    rows = {name: vocab.find_symbols(adata.var_names.to_numpy(str)) for name, adata in sets.items()}
    repeated = {name: np.zeros(adata.n_obs, bool) for name, adata in sets.items()}
    pairs = []
    for i, (name, adata) in enumerate(sets.items()):
        for other in list(sets)[:i]:
            if "values" in adata.layers or "values" in sets[other].layers:
                continue
            keys = []
            for own, its in ((name, other), (other, name)):
                shared = np.isin(rows[own], rows[its])
                counts = sets[own].X.astype(np.float64)
                key = np.round(counts @ (weights[rows[own]] * shared[:, None]), 6)
                enough = (counts > 0) @ shared.astype(float) >= MIN_SHARED
                keys.append([tuple(row) if good else None for row, good in zip(key, enough, strict=True)])
            known = set(keys[1]) - {None}
            same = np.array([key in known for key in keys[0]])
            if same.any():
                pairs.append({"set": name, "holds cells of": other, "cells": int(same.sum())})
                repeated[name] |= same
    return repeated, pd.DataFrame(pairs)


def draw_cells(path: Path, vocab: Vocabulary, synonyms: Synonyms, per_profile: int) -> ad.AnnData:
    """Cells drawn from the profiles of a table, in groups of their profile."""
    table = ad.read_h5ad(path)
    generator = np.random.default_rng(0)
    profiles = linear(path.stem, table.X)
    profiles = (profiles.toarray() if sp.issparse(profiles) else np.asarray(profiles)).astype(np.float64)
    if STORED.get(path.stem) == "log10":  # arrays: what no gene is below is the background
        profiles = np.maximum(0, profiles - profiles[profiles > 0].min())
    ids = find_genes(table.var, vocab, synonyms=synonyms).ids
    genes, column = np.unique(ids[ids > 0], return_inverse=True)
    share = np.zeros((len(profiles), len(genes)))
    np.add.at(share.T, column, profiles[:, ids > 0].T)
    share /= share.sum(1, keepdims=True)
    mean, spread, least, most = DEPTH
    cells = []
    for own in np.repeat(np.arange(len(share)), per_profile):
        noisy = share[own] * generator.gamma(3, 1 / 3, len(genes))
        noisy /= noisy.sum()
        if generator.random() < 0.5:
            noisy = (1 - AMBIENT) * noisy + AMBIENT * share[generator.integers(len(share))]
        depth = int(np.clip(generator.lognormal(np.log(mean), spread), least, most))
        cells.append(sp.csr_matrix(generator.multinomial(depth, noisy / noisy.sum()).astype(np.float32)))
    names = table.obs_names.astype(str)
    obs = pd.DataFrame({"cell_type": [f"{path.stem}: {name}" for name in np.repeat(names, per_profile)]})
    obs.index = [f"{name} {i}" for name in names for i in range(per_profile)]
    return ad.AnnData(sp.vstack(cells).tocsr(), obs=obs, var=pd.DataFrame(index=vocab.symbols[genes - 1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--drawn", type=int, default=4, help="cells drawn from each profile")
    arguments = parser.parse_args()
    vocab, synonyms = resolve_vocabulary("mini"), load_synonyms(None)
    arguments.out.mkdir(parents=True, exist_ok=True)
    paths = sorted([*arguments.data.glob("*.h5ad"), *arguments.data.glob("more/*.h5ad")], key=lambda path: path.stem)
    sets = {path.stem: read_set(path, vocab, synonyms) for path in paths if path.stem not in NOT_USED}
    sets = dict(sorted(sets.items(), key=lambda item: -item[1].n_vars))
    repeated, pairs = repeated_cells(sets, vocab)
    pairs.to_csv(arguments.out / "duplicates.csv", index=False)
    print(pairs.to_string(index=False))
    for name, adata in sets.items():
        kept = adata[~repeated[name]].copy()
        if kept.n_obs:
            kept.write_h5ad(arguments.out / f"{name}.h5ad", compression="lzf")
        print(f"{name}: {kept.n_obs:,} of {adata.n_obs:,} cells, {kept.n_vars:,} genes", flush=True)
    for path in sorted(arguments.data.glob("profiles/*.h5ad")):
        if path.stem not in PROFILES_NOT_USED and arguments.drawn:
            drawn = draw_cells(path, vocab, synonyms, arguments.drawn)
            starts = [next((name for name in DRAWN_APART if cell.startswith(name)), "") for cell in drawn.obs_names]
            for start, cells in drawn.obs.groupby(np.array(starts)).groups.items():
                name = DRAWN_APART.get(start, f"drawn_{path.stem}")
                drawn[cells].copy().write_h5ad(arguments.out / f"{name}.h5ad", compression="lzf")
                print(f"{name}: {len(cells):,} cells, {drawn.n_vars:,} genes", flush=True)


if __name__ == "__main__":
    main()
