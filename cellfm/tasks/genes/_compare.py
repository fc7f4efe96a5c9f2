"""Compare graphs of genes by the enrichment of their modules, with random modules of the same sizes as control."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm.io.progress import progress
from cellfm.tasks.genes._enrich import enriched_terms, n_tests
from cellfm.tasks.genes._graph import leiden_modules, random_modules

RANDOM = "random"
"""Name of size-matched random modules."""


def compare_graphs(
    graphs: Mapping[str, sp.csr_matrix],
    resolutions: list[float],
    terms: list[str],
    members: sp.csr_matrix,
    *,
    min_genes: int,
    alpha: float,
    n_random: int,
    random_state: int = 0,
) -> pd.DataFrame:
    """Enriched terms of each graph at each resolution.

    Parameters
    ----------
    graphs
        Graphs over the same genes, by name.
    terms, members
        Gene sets over these genes, (n_terms, n_genes).
    n_random
        Number of draws of random modules with the sizes of the first graph's modules.

    Returns
    -------
    DataFrame with a row for each graph and resolution, and for each draw of random modules: ``source``,
    ``resolution``, ``draw``, ``n_modules``, ``n_genes`` in them, ``n_tests`` (pairs of a module and a term, over which
    p-values are adjusted), ``n_enriched``, and the ``enriched`` terms (joined by semicolons).
    """
    generator = np.random.default_rng(random_state)
    rows = []

    def judge(source: str, resolution: float, draw: int, modules: np.ndarray) -> None:
        found = enriched_terms(modules, terms, members, alpha)
        sizes = (modules.max() + 1, (modules >= 0).sum(), n_tests(modules, members))
        rows.append((source, resolution, draw, *sizes, len(found), ";".join(sorted(found))))

    with progress(len(graphs) * len(resolutions), "comparing modules", "partitions") as bar:
        for i, (source, graph) in enumerate(graphs.items()):
            for resolution in resolutions:
                modules = leiden_modules(graph, [resolution], min_genes=min_genes, random_state=random_state)[:, 0]
                judge(source, resolution, 0, modules)
                for draw in range(n_random if i == 0 else 0):
                    judge(RANDOM, resolution, draw, random_modules(modules, generator))
                bar.update()
    columns = ["source", "resolution", "draw", "n_modules", "n_genes", "n_tests", "n_enriched", "enriched"]
    return pd.DataFrame(rows, columns=columns)
