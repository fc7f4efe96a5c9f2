"""`cf.train.export_mindrecord`: a corpus as MindRecord files, from which Ascend pipelines sink data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cellfm.corpus._corpus import Corpus
from cellfm.engines.installed import require_mindspore
from cellfm.errors import InputError
from cellfm.io.atomic_file import whole_folder
from cellfm.io.progress import progress

FILE_NAME = "cells.mindrecord"
_BLOCK_CELLS = 1024
_MAX_FILES = 1000  # of MindRecord


def export_mindrecord(
    corpus: Corpus | str | Path,
    out: str | Path,
    *,
    cells: Literal["all", "train", "validation"] = "all",
    columns: Sequence[str] = (),
    n_files: int = 1,
    overwrite: bool = False,
) -> list[Path]:
    """Write the cells of a corpus as MindRecord files, in their order.

    `cf.train.pretrain` reads a corpus as it is, which is faster on a CPU; these files are for your own pipelines of
    `mindspore.dataset.MindDataset`, such as data sinking on Ascend. Each row is a cell with the fields `gene_ids`
    (int32, ids of the vocabulary from 1), `counts` (int32, as many), `depth` (float32), `cell` (int64, its number in
    the corpus), and one int32 code for each of `columns`, -1 where missing.

    Parameters
    ----------
    corpus
        What `write_shards` returned, or its folder.
    out
        Folder to write. The corpus's ``vocabulary.tsv`` is copied into it.
    cells
        Which cells to write.
    columns
        Columns of `obs` to add, as codes.
    n_files
        Files to spread the cells over, at most 1,000; as many as processes read them, or a multiple.
    overwrite
        Replace a folder that is there.

    Returns
    -------
    The files, to pass to `MindDataset`.

    Raises
    ------
    InputError
        There are no such cells, an argument is none of those allowed, or `out` is there or cannot be written.
    MissingKeyError
        The corpus has no such column.

    Examples
    --------
    >>> files = cf.train.export_mindrecord("corpus", "records", n_files=2)
    >>> len(files)
    2
    """
    corpus = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    out = Path(out).expanduser()
    codes = {column: corpus.codes(column) for column in columns}
    reserved = {"gene_ids", "counts", "depth", "cell"} & codes.keys()
    if reserved or not all(column.isidentifier() and column.isascii() for column in codes):
        raise InputError(f"MindRecord takes names of letters, digits and _ that are not its own: {', '.join(codes)}.")
    if not 1 <= n_files <= _MAX_FILES:
        raise InputError(f"n_files must be between 1 and {_MAX_FILES:,}, not {n_files}.")
    chosen = _choose(corpus, cells)
    require_mindspore("cf.train.export_mindrecord")
    from mindspore.mindrecord import FileWriter

    with whole_folder(out, overwrite=overwrite) as folder:
        writer = FileWriter(str(folder / FILE_NAME), n_files)
        writer.add_schema(_schema(codes), "counts of cells")
        with progress(len(chosen), "exporting", "cells") as bar:
            for start in range(0, len(chosen), _BLOCK_CELLS):
                block = chosen[start : start + _BLOCK_CELLS]
                writer.write_raw_data(_rows(corpus, block, codes))
                bar.update(len(block))
        writer.commit()
        corpus.vocab.save(folder)
    names = [FILE_NAME] if n_files == 1 else [f"{FILE_NAME}{i:0{len(str(n_files - 1))}d}" for i in range(n_files)]
    return [out / name for name in names]


def _choose(corpus: Corpus, cells: str) -> np.ndarray:
    if cells not in ("all", "train", "validation"):
        raise InputError(f"cells must be 'all', 'train' or 'validation', not {cells!r}.")
    if cells == "all":
        return np.arange(corpus.n_cells)
    chosen = np.flatnonzero(corpus.validation == (cells == "validation"))
    if not len(chosen):
        raise InputError(f"The corpus holds no {cells} cells.")
    return chosen


def _schema(codes: dict[str, np.ndarray]) -> dict[str, Any]:
    many = {"type": "int32", "shape": [-1]}
    schema: dict[str, Any] = {"gene_ids": many, "counts": many, "depth": {"type": "float32"}, "cell": {"type": "int64"}}
    return schema | {column: {"type": "int32"} for column in codes}


def _rows(corpus: Corpus, cells: np.ndarray, codes: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    counts, depth = corpus.counts(cells), corpus.depth(cells)
    rows = []
    for i, cell in enumerate(cells.tolist()):
        span = slice(counts.indptr[i], counts.indptr[i + 1])
        row = {
            "gene_ids": counts.indices[span] + np.int32(1),
            "counts": counts.data[span].astype(np.int32),
            "depth": float(depth[i]),
            "cell": cell,
        }
        rows.append(row | {column: int(values[cell]) for column, values in codes.items()})
    return rows
