"""Write the cells of all inputs to shards of equal size, and leave out poor and duplicate cells."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from cellfm.cells.matrix import BLOCK_CELLS
from cellfm.cells.values import describe, rounded
from cellfm.corpus._pack import PackedCells, SeenHashes, in_validation, pack_cells
from cellfm.corpus._shard_files import FORMAT, shard_name, write_shard
from cellfm.corpus._sources import open_table
from cellfm.corpus._survey import SOURCE, Surveyed, column_codes
from cellfm.corpus._unfinished import Unfinished
from cellfm.errors import InputError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.atomic_file import whole_folder
from cellfm.io.logging import logger
from cellfm.io.messages import warn
from cellfm.io.progress import progress

KEPT, FEW, MANY, DUPLICATE = range(4)
FATES = ("kept", "few_genes", "many_genes", "duplicate")
"""Possible fates of a cell."""
_MUCH = 0.5  # share of dropped cells above which a warning is given


@dataclass
class Fates:
    """Fates of the cells of each input since the last finished shard."""

    counts: dict[int, list[int]]

    def add(self, source: int, fates: np.ndarray) -> None:
        total = np.bincount(fates, minlength=len(FATES))
        before = self.counts.get(source, [0] * len(FATES))
        self.counts[source] = [int(a + b) for a, b in zip(before, total, strict=True)]

    def take(self) -> dict[str, list[int]]:
        taken = {str(source): counts for source, counts in sorted(self.counts.items())}
        self.counts = {}
        return taken


class ShardWriter:
    """Collects cells from all inputs and writes a shard whenever there are enough."""

    def __init__(self, state: Unfinished, sources: Sequence[Surveyed], vocab: Vocabulary) -> None:
        self.state, self.sources, self.vocab = state, sources, vocab
        self.options: dict[str, Any] = state.plan["options"]
        self.columns: dict[str, list[str]] = state.plan["columns"]
        self.parts: list[PackedCells] = []
        self.codes: list[dict[str, np.ndarray]] = []
        self.fates = Fates({})
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
        """Read the cells of an input from a row on; yields how many were read."""
        one = self.sources[number]
        options = self.options
        chosen = {name: options[name] for name in ("layer", "modality", "genome")}
        with open_table(one.source, **chosen) as table:
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
                        "counts. Remove them or the input, and start again with overwrite=True."
                    )
                cells = pack_cells(rounded(block) if found.off else block, one.match.ids, len(self.vocab))
                fates = self._judge(cells)
                rows = np.flatnonzero(fates == KEPT)
                self._collect(number, first, fates, cells.take(fates == KEPT), rows, codes)
                yield last - first

    def _judge(self, cells: PackedCells) -> np.ndarray:
        """(n_cells,) fate of each cell."""
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
        """Add the kept `rows` of a block to the current shard, and write the shard when it is full."""
        judged = 0  # number of cells of the block whose fates are counted
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
        """Write the collected cells; `following` is the input and row to continue with."""
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
            raise InputError(
                f"No cells are left; the following were removed: {self._reasons(totals)}. Pass a smaller min_genes=."
            )
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
        logger.info(
            "kept %d cells in %d shards; left out: %s.", manifest["n_cells"], len(shards), self._reasons(totals)
        )
        for one, counts in zip(self.sources, totals, strict=True):
            if sum(counts[1:]) > _MUCH * sum(counts):
                dropped = f"{sum(counts[1:]):,} of {sum(counts):,} cells are left out"
                warn(f"{one.source.name}: {dropped} ({self._reasons([counts])}). min_genes= sets the limit of genes.")

    def _totals(self) -> list[list[int]]:
        """Fates of the cells of each input, over all shards and the cells read since."""
        totals = np.zeros((len(self.sources), len(FATES)), np.int64)
        for fates in (*(shard["fates"] for shard in self.state.shards), self.fates.counts):
            for source, counts in fates.items():
                totals[int(source)] += counts
        return totals.tolist()

    def _reasons(self, totals: Sequence[Sequence[int]]) -> str:
        """Why cells of some inputs were left out, with numbers."""
        few, many, duplicate = np.sum(totals, axis=0)[1:].tolist()
        reasons = {
            f"with fewer than {self.options['min_genes']} known genes": few,
            f"with more than {self.options['max_genes']}": many,
            "the same as an earlier one": duplicate,
        }
        return ", ".join(f"{n:,} {reason}" for reason, n in reasons.items() if n) or "none"
