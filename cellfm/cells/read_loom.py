"""Loom files: genes x cells, dense, with attributes of genes (rows) and cells (columns).

anndata's reader is deprecated, needs loompy, and finds the names of genes only if it is given their attribute.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm.errors import InputError
from cellfm.genes.text import as_text

if TYPE_CHECKING:
    from anndata import AnnData

_GENE_NAMES = ("Gene", "gene_names", "var_names", "GeneName", "gene_name", "gene_symbols", "Symbol", "gene", "name")
_GENE_IDS = ("Accession", "gene_ids", "ensembl_id", "EnsemblID", "ensembl_ids")
_CELL_NAMES = ("CellID", "obs_names", "cell_names", "cell_id", "Cell", "barcode", "barcodes", "index")
_BLOCK = 1 << 25  # numbers that are dense at once


def is_loom(file: Any) -> bool:
    """Whether an open HDF5 file is a loom file."""
    return {"row_attrs", "col_attrs", "matrix"} <= set(file)


def read_loom(path: Path) -> "AnnData":
    """Read a loom file as cells x genes, sparse; graphs and attributes of the file itself are left out.

    Raises
    ------
    InputError
        The genes have no names, or the parts of the file do not fit together.
    """
    import h5py
    from anndata import AnnData

    with h5py.File(path) as file:
        n_genes, n_cells = file["matrix"].shape
        var, varm = _attributes(file["row_attrs"], n_genes)
        obs, obsm = _attributes(file["col_attrs"], n_cells)
        names = next((name for name in (*_GENE_NAMES, *_GENE_IDS) if name in var), None)
        if names is None:
            there = ", ".join(map(str, var)) or "nothing"
            raise InputError(
                f"{path} is a loom file whose genes have no names: row_attrs contains {there}; expected 'Gene' or "
                "'Accession'."
            )
        ids = next((name for name in _GENE_IDS if name in var), None)
        var = var.assign(gene_ids=var[ids]) if ids is not None else var
        cells = next((name for name in _CELL_NAMES if name in obs), None)
        var.index = pd.Index(as_text(var[names]))
        obs.index = pd.Index(np.arange(n_cells).astype(str) if cells is None else as_text(obs[cells]))
        layers = {
            name: _cells_by_genes(values)
            for name, values in (file["layers"].items() if "layers" in file else ())
            if getattr(values, "shape", None) == (n_genes, n_cells)
        }
        x = _cells_by_genes(file["matrix"])
        return AnnData(x, obs=obs, var=var, obsm=obsm, varm=varm, layers=layers)


def _cells_by_genes(values: Any) -> sp.csr_matrix:
    """A dense dataset of genes x cells as cells x genes, CSR."""
    n_genes, n_cells = values.shape
    width = max(1, _BLOCK // max(n_genes, 1))
    if values.chunks and width > values.chunks[1]:
        width -= width % values.chunks[1]  # whole chunks, each of which is unpacked once
    parts = [sp.csr_matrix(values[:, start : start + width].T) for start in range(0, n_cells, width)]
    return sp.vstack(parts, format="csr").astype(np.float32) if parts else sp.csr_matrix((0, n_genes), dtype=np.float32)


def _attributes(group: Any, n: int) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Attributes with one value each, and those with several."""
    columns, tables = {}, {}
    for name, values in group.items():
        if getattr(values, "shape", ())[:1] != (n,):
            continue
        text = values.dtype.kind in "OS"
        array = values.asstr()[...].astype(object) if text else values[...]
        if array.ndim == 1:
            columns[name] = array
        elif array.ndim == 2 and not text:
            tables[name] = array
    return pd.DataFrame(columns, index=pd.RangeIndex(n)), tables
