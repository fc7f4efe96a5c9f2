"""The command ``cellfm demo``: real blood cells from counts to a picture, with the embedded model, offline."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfm.cli._configuration import add_backend

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

LABELS = "bulk_labels"


def add_demo_command(commands: Any) -> None:
    demo = commands.add_parser("demo", help="embed real cells that come with scanpy, and draw them")
    demo.add_argument("-o", "--output", type=Path, default=Path("cellfm-demo"), metavar="FOLDER")
    add_backend(demo)
    demo.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    run_demo(args.output)
    return 0


def run_demo(folder: Path) -> None:
    """Prepare, embed and draw the 700 blood cells that scanpy ships; write an .h5ad and a .png to `folder`."""
    import scanpy as sc  # slow to import

    import cellfm as cf
    from cellfm.cells.write import check_writable, write_cells

    cells_file, figure_file = folder / "pbmc68k_cellfm.h5ad", folder / "pbmc68k_cellfm.png"
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(cells_file)
    start = time.perf_counter()
    print("CellFM demo: 700 blood cells (10x Genomics, Zheng 2017), as they ship with scanpy.\n")

    scaled = sc.datasets.pbmc68k_reduced()
    adata = scaled.raw.to_adata()
    cf.pp.recover_counts(adata)
    print("1. Counts recovered from the log-normalised values: layers['counts'].")
    print(f"{cf.pp.check(adata, layer='counts')!r}\n")
    cf.pp.prepare(adata, layer="counts", min_genes=0)  # a panel of 765 genes: few cells express 200 of them

    model = cf.load_model("mini")
    print(f"2. Embed with {model!r}")
    begin = time.perf_counter()
    cf.tl.embed(adata, model, layer="counts")
    print(f"   {adata.n_obs} cells in {time.perf_counter() - begin:.1f} s, compilation included: obsm['X_cellfm'].\n")

    print(
        "3. How many of a cell's 15 nearest neighbours have its label (shares of the labels alone: "
        f"{_by_chance(adata.obs[LABELS]):.2f}):"
    )
    for name, key in (("CellFM mini", "X_cellfm"), ("PCA fitted on these very cells", "X_pca")):
        print(f"   {_agreement(adata.obsm[key], adata.obs[LABELS]):.2f}  {name}")
    print(
        "   mini was made with other cells of this donor and with the sorted cells that gave these their labels.\n"
        "   On data that it has not seen PCA finds neighbours of the same type more often: see its model card."
    )

    sc.pp.neighbors(adata, use_rep="X_cellfm")
    sc.tl.umap(adata)
    cf.pl.cells(adata, color=[LABELS, "CD3E"], title=["CellFM mini: cell type", "CD3E (T cells)"], save=figure_file)
    write_cells(adata, cells_file)
    print(f"\n4. Wrote {figure_file} (UMAP of the embedding)\n         {cells_file} (cells with their embedding)")
    print(f"\nDone in {time.perf_counter() - start:.0f} s. Next: cellfm embed YOUR.h5ad -o OUT.h5ad --plot OUT.png")


def _agreement(embedding: "np.ndarray", labels: "pd.Series", n_neighbors: int = 15) -> float:
    """Mean share of the nearest neighbours of a cell, by cosine, that have its label."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=n_neighbors + 1, metric="cosine").fit(embedding)
    neighbors = nearest.kneighbors(embedding, return_distance=False)[:, 1:]
    codes = labels.cat.codes.to_numpy()
    return float((codes[neighbors] == codes[:, None]).mean())


def _by_chance(labels: "pd.Series") -> float:
    return float((labels.value_counts(normalize=True) ** 2).sum())
