"""Read modules that `cf.tl.gene_modules` stored in AnnData."""

import numpy as np
from anndata import AnnData

from cellfm.cells.outputs import run_record
from cellfm.errors import MissingKeyError
from cellfm.keys import MODULES


def module_keys(key: str) -> tuple[str, str, str]:
    """Names of the modules at all resolutions (`varm`), of the graph (`varp`) and of its UMAP (`varm`)."""
    if key == MODULES.var:
        return MODULES.varm, MODULES.varp, MODULES.umap
    return f"{key}s", f"{key}_neighbors", f"{key}s_umap"


def stored_modules(adata: AnnData, key: str, resolution: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Names of the genes in the graph, and the module of each, -1 for none.

    Raises
    ------
    MissingKeyError
        There are no such modules, or not at this resolution.
    """
    at_all, neighbours, _ = module_keys(key)
    if at_all not in adata.varm or neighbours not in adata.varp:
        raise MissingKeyError(f"No modules {key!r}: call cf.tl.gene_modules(adata) first.")
    column = 0
    if resolution is not None:
        resolutions = np.asarray(run_record(adata, key, "var").get(MODULES.resolutions, []))
        if len(resolutions) != adata.varm[at_all].shape[1]:
            raise MissingKeyError(
                f"uns['cellfm'][{key!r}] does not record the resolutions of the modules: call "
                "cf.tl.gene_modules(adata) again, or leave out resolution= to use the first."
            )
        column = int(np.abs(resolutions - resolution).argmin())
        if not np.isclose(resolutions[column], resolution):
            raise MissingKeyError(
                f"No resolution {resolution:g}; available: {', '.join(f'{r:g}' for r in resolutions)}."
            )
    in_graph = np.diff(adata.varp[neighbours].tocsr().indptr) > 0
    return np.asarray(adata.var_names)[in_graph], np.asarray(adata.varm[at_all])[in_graph, column]
