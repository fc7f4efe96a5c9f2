"""Batches of training: the cells of a step, and their views.

Everything follows from the seed, the step and the cell, so that a resumed run, or one on any number of processes, uses
the same data as an uninterrupted run in one process.
"""

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import scipy.sparse as sp

from cellfm.cells.augment import choose_panel, sample_unexpressed, thin
from cellfm.cells.chunk import CHUNK, Chunks, chunk_cells, chunks_of, depth_values
from cellfm.cells.mask import choose_targets
from cellfm.cells.tokenize import TokenBatch, tokenize
from cellfm.config import ModelConfig, TrainConfig
from cellfm.errors import InputError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.logging import logger


class Cells(Protocol):
    """The interface of a corpus for training."""

    @property
    def vocab(self) -> Vocabulary: ...
    @property
    def n_cells(self) -> int: ...
    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def validation(self) -> np.ndarray: ...
    @property
    def columns(self) -> list[str]: ...
    def counts(self, cells: np.ndarray) -> sp.csr_matrix: ...
    def depth(self, cells: np.ndarray) -> np.ndarray: ...
    def codes(self, column: str) -> np.ndarray: ...


class MicroBatch(NamedTuple):
    """Arrays of cells that are computed at once, in the order of the objective."""

    gene_ids: np.ndarray
    values: np.ndarray
    visible: np.ndarray
    mask: np.ndarray
    chunk_cell: np.ndarray
    cls_row: np.ndarray
    target: np.ndarray
    """(c, s) float32: 1 for targets."""
    partner: np.ndarray
    """(b,) int32: slot of the other view of a cell; -1 if there is none."""
    label: np.ndarray
    """(b,) int32: cell type within its source; -1 unknown, -2 no cell."""
    inv_targets: np.float32
    """One over the number of targets of the whole batch."""
    share: np.float32
    """Share of the batch's cells in this micro-batch."""

    @classmethod
    def of(
        cls,
        chunks: Chunks,
        visible: np.ndarray,
        target: np.ndarray,
        partner: np.ndarray,
        label: np.ndarray,
        n_targets: int,
        share: float,
    ) -> "MicroBatch":
        """From chunks, and from the visible and target tokens of their cells."""
        shown, asked = chunks.spread(visible, 1), chunks.spread(target, 0)
        layout = (chunks.gene_ids, chunks.values, shown, chunks.mask, chunks.chunk_cell, chunks.cls_row)
        return cls(*layout, asked, partner, label, np.float32(1 / max(1, n_targets)), np.float32(share))


Micro = TypeVar("Micro", bound=tuple[Any, ...])


@dataclass(frozen=True)
class Batch(Generic[Micro]):
    """A step: one or more micro-batches."""

    micro: list[Micro]
    n_cells: int
    n_targets: int


class Feed:
    """Batches of a corpus by step.

    Parameters
    ----------
    labels
        (n_cells,) int32: the field `label` of each cell; by default its type, if the configuration uses types.
    rank, size
        Number of this process and of all processes; each takes its part of every batch.
    n_parts
        Minimum number of micro-batches of a batch: one for each device of this process.
    """

    def __init__(
        self,
        corpus: Cells,
        model: ModelConfig,
        config: TrainConfig,
        *,
        labels: np.ndarray | None = None,
        rank: int = 0,
        size: int = 1,
        n_parts: int = 1,
    ) -> None:
        self.n_parts = n_parts
        self.corpus, self.model, self.config = corpus, model, config
        self.rank, self.size = rank, size
        self.train = np.flatnonzero(~corpus.validation)
        self.max_genes = min(config.train_genes or model.max_genes, model.max_genes, model.n_genes)
        self.length = CHUNK if model.retention == "linear" else self.max_genes + model.n_special
        self._labels = self._types() if labels is None else labels.astype(np.int32)
        self._groups = self._split(config.batch_by)
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self._check()

    @property
    def steps_per_epoch(self) -> int:
        return max(1, sum(len(group) // self.config.batch_size for group in self._groups))

    @property
    def min_chunks(self) -> int:
        """Number of chunks of the largest possible cell, in all its views."""
        return int(chunks_of(np.array(self.max_genes), self.length, self.model.n_special)) * self.config.n_views

    def batch(self, step: int) -> Batch[MicroBatch]:
        """The part of this process in step `step`, counted from 0."""
        return self._assemble(self.cells_of(step)[self.rank :: self.size], key=step)

    def cells_of(self, step: int) -> np.ndarray:
        """Cells of a step over all processes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        return self._epoch[1][place]

    def validation(self) -> list[Batch[MicroBatch]]:
        """The validation cells, the same at every call."""
        cells = np.flatnonzero(self.corpus.validation)[: self.config.n_validation][self.rank :: self.size]
        size = self.config.batch_size
        parts = [cells[start : start + size] for start in range(0, len(cells), size)]
        return [self._assemble(part, key=2**31 - 1) for part in parts]

    def _check(self) -> None:
        if not len(self.train):
            raise InputError("The corpus contains no training cells.")
        largest = self.min_chunks
        if self.config.n_chunks < largest:
            raise InputError(
                f"n_chunks = {self.config.n_chunks} is too small: a cell of {self.max_genes:,} genes alone needs "
                f"{largest} chunks. Raise n_chunks or lower train_genes."
            )
        if self.config.batch_size < self.size:
            raise InputError(f"A batch of {self.config.batch_size} cells cannot be split over {self.size} processes.")

    def _types(self) -> np.ndarray:
        if not self.config.type_weight:
            return np.full(self.corpus.n_cells, -1, np.int32)
        types, sources = self.corpus.codes(self.config.type_column), self.corpus.codes("source")
        return np.where(types >= 0, types + sources * (types.max(initial=0) + 1), -1).astype(np.int32)

    def _split(self, column: str | None) -> list[np.ndarray]:
        if column is None:
            return [self.train]
        codes = self.corpus.codes(column)[self.train]
        groups = [self.train[codes == code] for code in np.unique(codes)]
        large = [group for group in groups if len(group) >= self.config.batch_size]
        if not large:
            raise InputError(
                f"No value of batch_by = {column!r} has the {self.config.batch_size} training cells of a batch: the "
                f"largest has {max(map(len, groups), default=0):,}. Lower batch_size or leave batch_by out."
            )
        left_out = len(self.train) - sum(map(len, large))
        if left_out:
            logger.warning(
                "%d of %d training cells are never seen: their value of %r has fewer cells than a batch (%d).",
                left_out,
                len(self.train),
                column,
                self.config.batch_size,
            )
        return large

    def _order(self, epoch: int) -> np.ndarray:
        """(steps_per_epoch, batch_size) cells, shuffled."""
        generator = np.random.default_rng((self.config.random_state, epoch))
        size = self.config.batch_size
        batches = []
        for group in self._groups:
            cells = generator.permutation(group)
            if len(cells) < size:
                return cells[None]  # a corpus smaller than a batch is one batch
            batches.append(cells[: len(cells) // size * size].reshape(-1, size))
        return generator.permutation(np.concatenate(batches))

    def _assemble(self, cells: np.ndarray, key: int) -> Batch[MicroBatch]:
        views = [self._view(cells, key, view) for view in range(self.config.n_views)]
        parts = list(zip(*views, strict=True))
        tokens, (target, visible, depths) = _join(parts[0]), map(np.concatenate, parts[1:])
        n_targets = int(target.sum())
        groups = self._fit(tokens, len(cells))
        micro = [self._lay_out(tokens, group, cells, target, visible, depths, n_targets) for group in groups]
        return Batch(micro, len(cells), n_targets)

    def _view(self, cells: np.ndarray, key: int, view: int) -> tuple[TokenBatch, np.ndarray, np.ndarray, np.ndarray]:
        """Tokens of the cells in one view, their targets, their visible values, and depth before and after thinning."""
        config = self.config
        generators = [self._generator(key, cell, view) for cell in cells]
        counts = expressed = self.corpus.counts(cells)
        before, known = self.corpus.depth(cells), np.asarray(counts.sum(1)).ravel()
        altered = [
            self._alter(counts.data[start:stop], counts.indices[start:stop], generator)
            for start, stop, generator in zip(counts.indptr[:-1], counts.indptr[1:], generators, strict=True)
        ]
        counts = _rows([ids for ids, _ in altered], [data for _, data in altered], counts.shape[1])
        tokens = tokenize(
            counts,
            np.arange(1, counts.shape[1] + 1, dtype=np.int32),
            max_genes=self.max_genes,
            random_state=config.random_state + key,
        )
        if config.zero_fraction:
            tokens = self._with_zeros(tokens, expressed, generators)
        fractions = {"target_fraction": config.target_fraction, "hide_fraction": config.hide_fraction}
        asked = [
            choose_targets(n, generator, **fractions) for n, generator in zip(tokens.lengths, generators, strict=True)
        ]
        # The same share of the counts of unknown genes is kept as of known genes.
        after = before * np.asarray(counts.sum(1)).ravel() / np.maximum(known, 1)
        target = np.concatenate([chosen for chosen, _ in asked])
        hidden = np.concatenate([chosen for _, chosen in asked])
        return tokens, target, ~hidden, depth_values(before, after)

    def _generator(self, key: int, cell: int, view: int) -> np.random.Generator:
        seed = (self.config.random_state << 32) | key
        return np.random.Generator(np.random.Philox(key=np.array([seed, (int(cell) << 2) | view], np.uint64)))

    def _alter(
        self, data: np.ndarray, ids: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        if generator.random() < self.config.panel_probability:
            measured = choose_panel(ids, generator, least=self.config.panel_least)
            data, ids = data[measured], ids[measured]
        if generator.random() < self.config.thin_probability:
            data = thin(data, generator)
        return ids, data

    def _with_zeros(
        self, tokens: TokenBatch, expressed: sp.csr_matrix, generators: list[np.random.Generator]
    ) -> TokenBatch:
        """Unexpressed genes in addition to the tokens; genes that are not in the panel do not count."""
        ids, values, lengths = [], [], []
        for i, generator in enumerate(generators):
            span = slice(tokens.indptr[i], tokens.indptr[i + 1])
            n = int(tokens.lengths[i])
            wanted = min(int(self.config.zero_fraction * n), self.max_genes - n)
            known = expressed.indices[expressed.indptr[i] : expressed.indptr[i + 1]] + 1
            zeros = sample_unexpressed(known, len(self.corpus.vocab), wanted, generator)
            ids += [tokens.gene_ids[span], zeros]
            values += [tokens.values[span], np.zeros(len(zeros), np.float32)]
            lengths.append(n + len(zeros))
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        return TokenBatch(indptr, np.concatenate(ids), np.concatenate(values), tokens.depth)

    def _fit(self, tokens: TokenBatch, n_cells: int) -> list[np.ndarray]:
        """Cells of each micro-batch: each cell in the first with room for it, all views of a cell together.

        With several devices, the cells are distributed among their micro-batches.
        """
        needed = chunks_of(tokens.lengths, self.length, self.model.n_special).reshape(-1, n_cells).sum(0)
        n_parts = min(self.n_parts, n_cells)
        groups: list[list[int]] = [[] for _ in range(n_parts if n_parts > 1 else 0)]
        room = [self.config.n_chunks] * len(groups)
        for i, size in enumerate(needed):
            order = range(len(room)) if n_parts == 1 else np.argsort([-left for left in room], kind="stable")
            place = next((int(k) for k in order if room[k] >= size), len(room))
            if place == len(room):
                groups.append([])
                room.append(self.config.n_chunks)
            groups[place].append(i)
            room[place] -= size
        return list(map(np.array, groups))

    def _lay_out(
        self,
        tokens: TokenBatch,
        group: np.ndarray,
        cells: np.ndarray,
        target: np.ndarray,
        visible: np.ndarray,
        depths: np.ndarray,
        n_targets: int,
    ) -> MicroBatch:
        n, n_views, n_slots = len(group), self.config.n_views, self.config.n_chunks
        rows = np.concatenate([group + view * len(cells) for view in range(n_views)])
        chunks = chunk_cells(
            tokens,
            rows,
            n_chunks=self.config.n_chunks,
            n_slots=n_slots,
            length=self.length,
            specials=depths[rows] if self.model.depth_tokens else None,
        )
        label = np.full(n_slots, -2, np.int32)
        label[: len(rows)] = np.tile(self._labels[cells[group]], n_views)
        partner = np.full(n_slots, -1, np.int32)
        if n_views == 2:
            partner[: 2 * n] = np.concatenate((np.arange(n, 2 * n), np.arange(n)))
        return MicroBatch.of(chunks, visible, target, partner, label, n_targets, n / len(cells))


def _join(batches: tuple[TokenBatch, ...]) -> TokenBatch:
    """The batches in order."""
    ends = np.cumsum([0, *(batch.indptr[-1] for batch in batches)])
    indptr = [batch.indptr[1:] + end for batch, end in zip(batches, ends[:-1], strict=True)]
    return TokenBatch(
        np.concatenate(([0], *indptr)),
        np.concatenate([batch.gene_ids for batch in batches]),
        np.concatenate([batch.values for batch in batches]),
        np.concatenate([batch.depth for batch in batches]),
    )


def _rows(indices: list[np.ndarray], data: list[np.ndarray], n_columns: int) -> sp.csr_matrix:
    indptr = np.concatenate(([0], np.cumsum([len(row) for row in indices])))
    return sp.csr_matrix((np.concatenate(data), np.concatenate(indices), indptr), (len(indices), n_columns))
