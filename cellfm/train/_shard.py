"""`cf.train.write_shards`: files of cells to the shards that training reads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cellfm._adata import BLOCK_CELLS, warn
from cellfm._atomic import whole_folder
from cellfm._genes import MIN_KNOWN_GENES
from cellfm._hgnc import load_synonyms
from cellfm._logging import logger
from cellfm._progress import progress
from cellfm.data import Corpus, describe
from cellfm.data._pack import PackedCells, SeenHashes, in_validation, pack_cells
from cellfm.data._shard_files import FORMAT, shard_name, write_shard
from cellfm.errors import InputError
from cellfm.train._lock import locked
from cellfm.train._sources import Input, name_sources, open_table
from cellfm.train._survey import SOURCE, Surveyed, column_codes, survey
from cellfm.train._unfinished import Unfinished
from cellfm.vocab import HasVocabulary, Vocabulary, resolve_vocabulary

KEPT, FEW, MANY, DUPLICATE = range(4)
FATES = ("kept", "few_genes", "many_genes", "duplicate")
"""What becomes of a cell."""
_MUCH = 0.5  # share of dropped cells that is worth a warning


def write_shards(
    inputs: Input | Sequence[Input],
    out: str | Path,
    *,
    model: str | Path | Vocabulary | HasVocabulary = "mini",
    layer: str | None = None,
    gene_key: str | None = None,
    hgnc: str | Path | None = None,
    min_genes: int = MIN_KNOWN_GENES,
    max_genes: int | None = None,
    columns: Sequence[str] | None = None,
    validation_fraction: float = 0.01,
    deduplicate: bool = True,
    cells_per_shard: int = 16_384,
    overwrite: bool = False,
    modality: str = "rna",
) -> Corpus:
    """Write cells of any number of files as a corpus, which training reads at random.

    All inputs are looked at before anything is written. Then they are read in blocks, one after the other; genes are
    matched by symbol, Ensembl id and, with an HGNC table, by previous symbol and alias, columns of one gene are added
    up, poor cells and repeated ones are left out, and the rest goes to shards of equal size. A run that was stopped,
    in whatever way, is continued by the same call, to the same bytes as one that was not.

    Parameters
    ----------
    inputs
        Paths of ``.h5ad``, ``.h5mu``, ``.zarr``, 10x ``.h5`` files and 10x folders with ``matrix.mtx``, or AnnData and
        MuData objects. They hold counts of human cells. A zarr or h5ad whose matrix is stored by columns (CSC) is read
        whole, all others block by block.
    out
        Folder to write.
    model
        Whose genes the ids stand for: a model, its name, its folder, or a vocabulary (table).
    layer
        Layer with the counts; ``"raw"`` means `adata.raw`; by default X.
    gene_key
        Column of `var` with the gene names, where the automatic choice is wrong.
    hgnc
        Table of previous symbols and aliases: path of the HGNC complete set, ``"download"``, or None for the one that
        was fetched before, if any.
    min_genes
        Known genes that a cell must express (the paper: 200); at least 1.
    max_genes
        Most known genes that a cell may express; by default there is no limit.
    columns
        Columns of `obs` to keep, as text. By default those of ``cell_type``, ``batch``, ``donor``, ``tissue``,
        ``platform``, ``assay``, ``condition`` and ``disease`` that exist. ``source``, the name of the input, is always
        added.
    validation_fraction
        Share of cells that are left out of training, chosen by their content: a cell is on the same side wherever it
        comes from.
    deduplicate
        Leave out cells with the same genes and counts as one before, in whichever input.
    cells_per_shard
        Cells of a shard. A shard is held in memory while it is collected: 4 bytes a count.
    overwrite
        Remove what an earlier run left in `out` and begin anew.
    modality
        Table of MuData inputs.

    Returns
    -------
    The corpus, opened. The folder holds ``manifest.json``, ``vocabulary.tsv`` and one folder a shard.

    Raises
    ------
    InputError
        An input has no counts, too few known genes, genes of two species, or cannot be read (all such inputs are
        named); no cell is left; `out` cannot be written, is being written by another process, holds something else, or
        was begun with other inputs or options.
    MissingKeyError
        A layer, modality or column is not there; the message lists those that are.
    DownloadError
        The HGNC table could not be fetched.

    Warns
    -----
    DataWarning
        More than half of the cells of an input were left out.

    Examples
    --------
    >>> import cellfm as cf
    >>> corpus = cf.train.write_shards(["lung.h5ad", "blood.zarr"], "corpus", hgnc="download")  # doctest: +SKIP
    >>> cf.pl.corpus(corpus)  # doctest: +SKIP
    """
    _check_options(min_genes, max_genes, validation_fraction, cells_per_shard)
    out = Path(out).expanduser()
    vocab = resolve_vocabulary(model)
    synonyms = load_synonyms(hgnc)
    sources, kept = survey(
        name_sources(inputs),
        vocab,
        synonyms,
        layer=layer,
        gene_key=gene_key,
        min_genes=min_genes,
        columns=columns,
        modality=modality,
    )
    plan = {
        "options": {
            "layer": layer,
            "gene_key": gene_key,
            "hgnc_sha256": synonyms.sha256,
            "min_genes": min_genes,
            "max_genes": max_genes,
            "validation_fraction": validation_fraction,
            "deduplicate": deduplicate,
            "cells_per_shard": cells_per_shard,
            "modality": modality,
            "vocabulary_sha256": vocab.hash,
        },
        "inputs": [one.facts for one in sources],
        "columns": kept,
    }
    with _folder_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with locked(out):
            state = Unfinished(out, plan)
            if overwrite:
                state.clear()
            if not state.begin_or_continue(vocab):
                _Writer(state, sources, vocab).write_all()
    return Corpus.open(out)


def _check_options(min_genes: int, max_genes: int | None, validation_fraction: float, cells_per_shard: int) -> None:
    if min_genes < 1:
        raise InputError(f"min_genes must be at least 1, not {min_genes}: a cell without known genes says nothing.")
    if max_genes is not None and max_genes < min_genes:
        raise InputError(f"max_genes must be at least min_genes ({min_genes}), not {max_genes}.")
    if not 0 <= validation_fraction < 1:
        raise InputError(f"validation_fraction must be at least 0 and below 1, not {validation_fraction}.")
    if cells_per_shard < 1:
        raise InputError(f"cells_per_shard must be at least 1, not {cells_per_shard}.")


@contextmanager
def _folder_errors(out: Path) -> Iterator[None]:
    """Say of errors of the disk that the work can go on."""
    try:
        yield
    except OSError as error:
        raise InputError(f"Could not write {out}: {error.strerror or error}. {_GO_ON}") from error
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise InputError(f"{error} {_GO_ON}") from error.__cause__
        raise


_GO_ON = "Mend that and run the same again: shards that are finished stay, and the work continues after them."


@dataclass
class _Fates:
    """What became of the cells of each input since the last finished shard."""

    counts: dict[int, list[int]]

    def add(self, source: int, fates: np.ndarray) -> None:
        total = np.bincount(fates, minlength=len(FATES))
        before = self.counts.get(source, [0] * len(FATES))
        self.counts[source] = [int(a + b) for a, b in zip(before, total, strict=True)]

    def take(self) -> dict[str, list[int]]:
        taken = {str(source): counts for source, counts in sorted(self.counts.items())}
        self.counts = {}
        return taken


class _Writer:
    """Collects cells from all inputs and writes a shard whenever there are enough."""

    def __init__(self, state: Unfinished, sources: Sequence[Surveyed], vocab: Vocabulary) -> None:
        self.state, self.sources, self.vocab = state, sources, vocab
        self.options: dict[str, Any] = state.plan["options"]
        self.columns: dict[str, list[str]] = state.plan["columns"]
        self.parts: list[PackedCells] = []
        self.codes: list[dict[str, np.ndarray]] = []
        self.fates = _Fates({})
        self.seen = SeenHashes()
        for hashes in state.hashes():
            self.seen.add(hashes)

    def write_all(self) -> None:
        source, row = self.state.shards[-1]["next"] if self.state.shards else (0, 0)
        n_cells = sum(one.n_cells for one in self.sources)
        done = sum(one.n_cells for one in self.sources[:source]) + row
        if done:
            logger.info("continuing after %d of %d cells, with %d shards.", done, n_cells, len(self.state.shards))
        with progress(n_cells, "writing shards", "cells") as bar:
            bar.update(done)
            for number in range(source, len(self.sources)):
                for n_read in self._read_source(number, row if number == source else 0):
                    bar.update(n_read)
        if self.parts:
            self._write_shard((len(self.sources), 0))
        self._finish()

    def _read_source(self, number: int, start: int) -> Iterator[int]:
        """Take the cells of an input from a row on; yields how many were read."""
        one = self.sources[number]
        options = self.options
        with open_table(one.source, layer=options["layer"], modality=options["modality"]) as table:
            codes = {name: column_codes(table.obs, name, values) for name, values in self.columns.items()}
            codes[SOURCE][:] = number
            for first in range(start, one.n_cells, BLOCK_CELLS):
                last = min(first + BLOCK_CELLS, one.n_cells)
                try:
                    block = table.matrix.rows(first, last)
                except (OSError, RuntimeError) as error:
                    raise InputError(
                        f"{one.source.name}: cells {first:,} to {last - 1:,} cannot be read: {error}."
                    ) from None
                found = describe(block.data)
                if found.kind not in ("counts", "empty"):
                    raise InputError(
                        f"{one.source.name}: cells {first:,} to {last - 1:,} of {table.matrix.name} have {found}, not "
                        "counts. Remove them or the input, and begin anew with overwrite=True."
                    )
                cells = pack_cells(block, one.match.ids, len(self.vocab))
                fates = self._judge(cells)
                rows = np.flatnonzero(fates == KEPT)
                self._collect(number, first, fates, cells.take(fates == KEPT), rows, codes)
                yield last - first

    def _judge(self, cells: PackedCells) -> np.ndarray:
        """(n_cells,) what becomes of each cell."""
        n_genes = cells.lengths
        fates = np.full(cells.n_cells, KEPT)
        fates[n_genes < self.options["min_genes"]] = FEW
        if self.options["max_genes"] is not None:
            fates[n_genes > self.options["max_genes"]] = MANY
        if self.options["deduplicate"]:
            good = np.flatnonzero(fates == KEPT)
            fates[good[~self.seen.add(cells.hashes[good])]] = DUPLICATE
        return fates

    def _collect(
        self,
        number: int,
        first: int,
        fates: np.ndarray,
        cells: PackedCells,
        rows: np.ndarray,
        codes: dict[str, np.ndarray],
    ) -> None:
        """Put the kept cells of a block, its `rows`, to the shard at hand, and write it each time it is full."""
        judged = 0  # cells of the block whose fate is booked
        while (free := self.options["cells_per_shard"] - self._n_collected()) <= len(rows):
            head, cells = cells.split(free)
            last = int(rows[free - 1]) + 1
            self._add(head, rows[:free] + first, codes)
            self.fates.add(number, fates[judged:last])
            self._write_shard((number, first + last))
            judged, rows = last, rows[free:]
        self._add(cells, rows + first, codes)
        self.fates.add(number, fates[judged:])

    def _n_collected(self) -> int:
        return sum(part.n_cells for part in self.parts)

    def _add(self, cells: PackedCells, rows: np.ndarray, codes: dict[str, np.ndarray]) -> None:
        if cells.n_cells:
            self.parts.append(cells)
            self.codes.append({column: values[rows] for column, values in codes.items()})

    def _write_shard(self, following: tuple[int, int]) -> None:
        """Write what was collected; `following` is the input and row to go on with."""
        name = shard_name(len(self.state.shards))
        codes = {column: np.concatenate([part[column] for part in self.codes]) for column in self.columns}
        hashes = np.concatenate([part.hashes for part in self.parts])
        validation = in_validation(hashes, self.options["validation_fraction"])
        with whole_folder(self.state.folder / name, overwrite=True) as folder:
            facts = write_shard(folder, self.parts, validation, codes)
        facts |= {"name": name, "n_validation": int(validation.sum()), "next": following, "fates": self.fates.take()}
        self.state.record(facts)
        self.parts, self.codes = [], []

    def _finish(self) -> None:
        shards = self.state.shards
        totals = self._totals()
        if not shards:
            self.state.clear()
            raise InputError(f"No cell is left: {self._dropped(totals)}. Pass a smaller min_genes=.")
        inputs = [
            one.facts | {"n_kept": counts[KEPT], "dropped": dict(zip(FATES[1:], counts[1:], strict=True))}
            for one, counts in zip(self.sources, totals, strict=True)
        ]
        manifest = {
            "format": FORMAT,
            "cellfm_version": version("cellfm"),
            "vocabulary_sha256": self.vocab.hash,
            "n_genes": len(self.vocab),
            "n_cells": sum(shard["n_cells"] for shard in shards),
            "n_tokens": sum(shard["n_tokens"] for shard in shards),
            "n_validation": sum(shard["n_validation"] for shard in shards),
            "options": self.options,
            "sources": inputs,
            "columns": self.columns,
            "shards": [{k: v for k, v in shard.items() if k not in ("next", "fates")} for shard in shards],
        }
        self.state.finish(manifest)
        logger.info("kept %d cells in %d shards; %s.", manifest["n_cells"], len(shards), self._dropped(totals))
        for one, counts in zip(self.sources, totals, strict=True):
            if sum(counts[1:]) > _MUCH * sum(counts):
                warn(f"{one.source.name}: {sum(counts[1:]):,} of {sum(counts):,} cells: {self._dropped([counts])}.")

    def _totals(self) -> list[list[int]]:
        """Fates of the cells of each input, over all shards and what was read after them."""
        totals = np.zeros((len(self.sources), len(FATES)), np.int64)
        for fates in (*(shard["fates"] for shard in self.state.shards), self.fates.counts):
            for source, counts in fates.items():
                totals[int(source)] += counts
        return totals.tolist()

    def _dropped(self, totals: Sequence[Sequence[int]]) -> str:
        few, many, duplicate = np.sum(totals, axis=0)[1:].tolist()
        text = f"left out {few:,} with fewer than {self.options['min_genes']} known genes"
        if self.options["max_genes"] is not None:
            text += f", {many:,} with more than {self.options['max_genes']}"
        return f"{text} and {duplicate:,} repeated ones"
