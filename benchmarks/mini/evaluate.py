"""How well embeddings keep the cells of one type together: nearest-neighbour accuracy and AvgBio, next to PCA.

    python -m benchmarks.mini.evaluate --data FOLDER

judges the weights that ship on the labelled sets that they were made of, and prints a row a set.
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.neighbors import NearestNeighbors

from benchmarks.mini.corpus import CountSet, load_corpus, principal_components
from cellfm.cells.tokenize import tokenize
from cellfm.model import CellFM, load_model

N_NEIGHBORS = 15
N_FOLDS = 5
RESOLUTIONS = (0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0)


def folds_of(cells: CountSet, labelled: np.ndarray, random_state: int = 0) -> tuple[np.ndarray, str]:
    """Groups of the labelled cells whose members may not be neighbours, and whether they are batches or random.

    Batches where there are several and every label occurs in at least two of them, else random fifths.
    """
    labels = cells.labels[labelled]
    if cells.batch is not None:
        batch = cells.batch[labelled]
        pairs = set(zip(labels, batch, strict=True))
        if all(sum(label == other for other, _ in pairs) > 1 for label in set(labels)):
            return batch, "across batches"
    return np.random.default_rng(random_state).integers(0, N_FOLDS, len(labels)).astype(str), "cross-split"


def knn_accuracy(embedding: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> float:
    """Share of cells whose nearest neighbours (cosine) in other folds vote for their label."""
    unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
    names, codes = np.unique(labels, return_inverse=True)
    right = 0
    for fold in np.unique(folds):
        test = folds == fold
        n = min(N_NEIGHBORS, int((~test).sum()))
        near = (
            NearestNeighbors(n_neighbors=n, algorithm="brute")
            .fit(unit[~test])
            .kneighbors(unit[test], return_distance=False)
        )
        votes = np.zeros((int(test.sum()), len(names)))
        np.add.at(votes, (np.arange(len(votes))[:, None], codes[~test][near]), 1)
        right += int((votes.argmax(1) == codes[test]).sum())
    return right / len(labels)


def avg_bio(embedding: np.ndarray, labels: np.ndarray) -> float:
    """Mean of NMI and ARI of the best Leiden clustering, and of the silhouette width scaled to 0..1."""
    adata = ad.AnnData(obsm={"X": embedding.astype(np.float32)}, shape=(len(embedding), 0))
    sc.pp.neighbors(adata, n_neighbors=N_NEIGHBORS, use_rep="X", metric="cosine", random_state=0)
    scores = []
    for resolution in RESOLUTIONS:
        sc.tl.leiden(adata, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=0)
        found = adata.obs["leiden"].to_numpy()
        scores.append((normalized_mutual_info_score(labels, found), adjusted_rand_score(labels, found)))
    nmi, ari = max(scores)
    return float(np.mean([nmi, ari, (silhouette_score(embedding, labels, metric="cosine") + 1) / 2]))


def judge(cells: CountSet, embedding: np.ndarray, *, bio: bool = False) -> dict[str, float]:
    """`knn`, and with `bio` also `avg_bio`, of the labelled cells."""
    labelled = cells.labels != ""
    folds, _ = folds_of(cells, labelled)
    result = {"knn": knn_accuracy(embedding[labelled], cells.labels[labelled], folds)}
    if bio:
        result["avg_bio"] = avg_bio(embedding[labelled], cells.labels[labelled])
    return result


def scores_of(model: CellFM, cells: CountSet, *, bio: bool = True) -> dict[str, float]:
    tokens = tokenize(cells.counts, cells.gene_ids, max_genes=model.config.max_genes)
    return judge(cells, model.encode(tokens).cell, bio=bio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    mini = load_model("mini")
    random = CellFM(mini.config, mini.vocab)
    print("| data set | neighbours from | random weights | mini | PCA |\n|---|---|---|---|---|")
    for cells in load_corpus(parser.parse_args().data, mini.vocab):
        if cells.labels is not None:
            rows = [scores_of(model, cells, bio=False) for model in (random, mini)]
            rows.append(judge(cells, principal_components(cells.counts)))
            shown = " | ".join(f"{row['knn']:.3f}" for row in rows)
            print(f"| {cells.name} | {folds_of(cells, cells.labels != '')[1]} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
