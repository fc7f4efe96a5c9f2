"""`Corpus`: counts of many cells in shards on disk, read at random through memory maps."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from cellfm.corpus._manifest import ANEW, read_manifest
from cellfm.corpus._shard_files import MISSING, codes_name
from cellfm.errors import CheckpointError, InputError, MissingKeyError
from cellfm.genes.vocabulary import FILE_NAME, Vocabulary
from cellfm.io.messages import counted
from cellfm.io.safe_read import file_sha256, read_npy

_FILES_A_SHARD = 3  # that stay open while a shard is mapped
_KINDS = {"gene_ids.npy": "ui", "counts.npy": "uif", "depth.npy": "f", "hash.npy": "u", "validation.npy": "ub"}
"""Types of the files, as NumPy's letters; the other files hold signed integers."""


class Corpus:
    """Counts of many cells, written by `cf.train.write_shards`; open one with `Corpus.open`.

    At first only the manifest is read. Shards are mapped into memory when one of their cells is read, and forked
    processes share the maps.
    """

    path: Path
    """The folder."""
    vocab: Vocabulary
    """The genes of the ids."""
    manifest: dict[str, Any]
    """The content of ``manifest.json``: sources with the cells read, kept and dropped, options, shards with
    checksums."""
    n_cells: int
    n_tokens: int
    """Number of stored counts: expressed genes of all cells together."""

    def __init__(self, path: Path, vocab: Vocabulary, manifest: dict[str, Any]) -> None:
        self.path, self.vocab, self.manifest = path, vocab, manifest
        self.n_cells, self.n_tokens = manifest["n_cells"], manifest["n_tokens"]
        self._shards: list[dict[str, Any]] = manifest["shards"]
        self._ends = np.cumsum([shard["n_cells"] for shard in self._shards])
        self._maps: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._max_maps = max(16, _max_open_files() // 2 // _FILES_A_SHARD)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> "Corpus":
        """Open a corpus; existence and size of every file are always checked.

        Parameters
        ----------
        path
            The folder written by `cf.train.write_shards`.
        verify
            Also compare the SHA-256 of every file, which reads all of them.

        Raises
        ------
        CheckpointError
            There is no corpus, it is unfinished, or a shard is damaged, missing or foreign; the message names it.
        """
        path = Path(path).expanduser()
        manifest = read_manifest(path)
        try:
            vocab = Vocabulary.load(path / FILE_NAME)
        except InputError as error:
            raise CheckpointError(f"{path} has no readable vocabulary: {error} {ANEW}") from None
        if vocab.hash != manifest["vocabulary_sha256"]:
            raise CheckpointError(
                f"{path / FILE_NAME} is not the vocabulary that the shards were written with: its hash is "
                f"{vocab.hash[:12]}, that in the manifest {manifest['vocabulary_sha256'][:12]}. {ANEW}"
            )
        corpus = cls(path, vocab, manifest)
        for shard in manifest["shards"]:
            check_shard(path, shard, verify=verify)
        foreign = {file.name for file in path.glob("shard-*")} - {shard["name"] for shard in manifest["shards"]}
        if foreign:
            raise CheckpointError(
                f"{path / min(foreign)} is a foreign shard: the manifest does not list it. Remove it, if it got there "
                "by mistake."
            )
        return corpus

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # another process maps the files itself

    def __len__(self) -> int:
        return self.n_cells

    def __repr__(self) -> str:
        return (
            f"Corpus of {self.n_cells:,} cells x {len(self.vocab):,} genes, {counted(self.n_tokens, 'count')} in "
            f"{counted(len(self._shards), 'shard')} at {self.path}"
        )

    @property
    def columns(self) -> list[str]:
        """Columns of `obs` that were kept; ``"source"`` always exists."""
        return list(self.manifest["columns"])

    @property
    def shard_ends(self) -> np.ndarray:
        """(n_shards,) int64: the number of the cell after each shard. Cells of one shard are contiguous on disk."""
        return self._ends

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n_cells,) uint16 or int32: expressed known genes of each cell."""
        dtype = np.uint16 if len(self.vocab) <= np.iinfo(np.uint16).max else np.int32
        return self._read("indptr.npy", dtype, lambda indptr: np.diff(indptr))

    @cached_property
    def validation(self) -> np.ndarray:
        """(n_cells,) bool: cells left out of training, chosen by their content."""
        return self._read("validation.npy", np.bool_)

    @cached_property
    def hashes(self) -> np.ndarray:
        """(n_cells,) uint64: hash of each cell's genes and counts."""
        return self._read("hash.npy", np.uint64)

    @cached_property
    def _depth(self) -> np.ndarray:
        return self._read("depth.npy", np.float32)

    def categories(self, column: str) -> list[str]:
        """Values of a column of `obs`, in the order of the codes.

        Raises
        ------
        MissingKeyError
            The corpus has no such column; the message lists the available ones.
        """
        if column not in self.manifest["columns"]:
            raise MissingKeyError(f"The corpus has no column {column!r}; available: {', '.join(self.columns)}.")
        return list(self.manifest["columns"][column])

    def codes(self, column: str) -> np.ndarray:
        """(n_cells,) int32: category of each cell in a column of `obs`, -1 for missing values."""
        n_categories = len(self.categories(column))
        codes = self._read(codes_name(column), np.int32)
        if len(codes) and not (codes.min() >= MISSING and codes.max() < n_categories):
            raise CheckpointError(f"The codes of {column!r} in {self.path} are damaged: they name no category. {ANEW}")
        return codes

    def depth(self, cells: np.ndarray) -> np.ndarray:
        """(len(cells),) float32: counts over all measured genes, before the cap of the depth."""
        return self._depth[self._checked(cells)]

    def counts(self, cells: np.ndarray) -> sp.csr_matrix:
        """Counts of some cells after the cap of the depth, (len(cells), len(vocab)) float32.

        Parameters
        ----------
        cells
            Numbers of the cells, in any order, also more than once.

        Returns
        -------
        A matrix with the rows in the order asked for, whose column `j` is gene id `j` + 1, sorted.
        """
        cells = self._checked(cells)
        lengths = self.lengths[cells].astype(np.int64)
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        indices = np.empty(indptr[-1], np.int32)
        data = np.empty(indptr[-1], np.float32)
        shard_of = np.searchsorted(self._ends, cells, side="right")
        order = np.argsort(shard_of, kind="stable")
        shards, first = np.unique(shard_of[order], return_index=True)
        for shard, rows in zip(shards.tolist(), np.split(order, first)[1:], strict=True):
            starts, gene_ids, values = self._mapped(shard)
            begins = starts[cells[rows] - (self._ends[shard] - self._shards[shard]["n_cells"])]
            # One copy per cell: with hundreds of genes per cell this is faster than one index of all tokens.
            places = zip(begins.tolist(), indptr[rows].tolist(), lengths[rows].tolist(), strict=True)
            for begin, place, length in places:
                indices[place : place + length] = gene_ids[begin : begin + length]
                data[place : place + length] = values[begin : begin + length]
        indices -= 1
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self.vocab)):
            raise CheckpointError(f"A shard of {self.path} is damaged: it names genes that are not there. {ANEW}")
        matrix = sp.csr_matrix((data, indices, indptr), shape=(len(cells), len(self.vocab)))
        matrix.has_canonical_format = True
        return matrix

    def require_vocabulary(self, vocab: Vocabulary) -> None:
        """Refuse a model whose genes differ from those of the shards.

        Raises
        ------
        InputError
            The vocabularies differ; the message says how to get shards that fit.
        """
        if vocab.hash != self.vocab.hash:
            raise InputError(
                f"{self.path} was written for another vocabulary: {len(self.vocab):,} genes (hash "
                f"{self.vocab.hash[:12]}), and the model has {len(vocab):,} (hash {vocab.hash[:12]}). Write shards "
                f"with model= set to that model, or start the model with {self.path / FILE_NAME}."
            )

    def _checked(self, cells: np.ndarray) -> np.ndarray:
        cells = np.asarray(cells, np.int64)
        if cells.size and not (cells.min() >= 0 and cells.max() < self.n_cells):
            raise InputError(
                f"The corpus contains cells 0 to {self.n_cells - 1:,}, not {cells.min():,} to {cells.max():,}."
            )
        return cells

    def _read(self, name: str, dtype: Any, change: Any = None) -> np.ndarray:
        """One array over all shards, in memory."""
        joined = np.empty(self.n_cells, dtype)
        for shard, end in zip(self._shards, self._ends, strict=True):
            values = self._load(shard, name)
            joined[end - shard["n_cells"] : end] = values if change is None else change(values)
        return joined

    def _mapped(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts of the cells, gene ids and counts of a shard; those used first are closed when there are too many."""
        found = self._maps.get(number)
        if found is None:
            names = ("indptr.npy", "gene_ids.npy", "counts.npy")
            indptr, gene_ids, counts = (self._load(self._shards[number], name) for name in names)
            while len(self._maps) >= self._max_maps:
                self._maps.pop(next(iter(self._maps)), None)
            self._maps[number] = found = (indptr, gene_ids, counts)
        return found

    def _load(self, shard: dict[str, Any], name: str) -> np.ndarray:
        path = self.path / shard["name"] / name
        try:
            array = read_npy(path, mapped=True)
        except CheckpointError as error:
            raise CheckpointError(f"{error} It is a part of {shard['name']}. {ANEW}") from None
        n_cells, n_tokens = shard["n_cells"], shard["n_tokens"]
        length = {"indptr.npy": n_cells + 1, "gene_ids.npy": n_tokens, "counts.npy": n_tokens}.get(name, n_cells)
        if array.shape != (length,) or array.dtype.kind not in _KINDS.get(name, "i"):
            raise CheckpointError(
                f"{path} is damaged: it contains {array.dtype} of shape {array.shape}, which are not the {length:,} "
                f"numbers that belong there. {ANEW}"
            )
        if name == "indptr.npy" and (array[0] or array[-1] != shard["n_tokens"] or (np.diff(array) < 0).any()):
            raise CheckpointError(f"{path} is damaged: its cells do not follow one another. {ANEW}")
        return array


def _max_open_files() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 512
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def check_shard(path: Path, shard: dict[str, Any], *, verify: bool) -> None:
    """Compare the files of a shard with the manifest.

    Raises
    ------
    CheckpointError
        A file is missing or differs; the message names the shard.
    """
    folder = path / shard["name"]
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is missing: the manifest lists it. {ANEW}")
    for name, facts in shard["files"].items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{folder} is damaged: {name} is missing. {ANEW}")
        if file.stat().st_size != facts["bytes"]:
            raise CheckpointError(
                f"{folder} is damaged or belongs to another corpus: {name} has {file.stat().st_size:,} bytes, not "
                f"{facts['bytes']:,}. {ANEW}"
            )
        if verify and file_sha256(file) != facts["sha256"]:
            raise CheckpointError(
                f"{folder} is damaged or belongs to another corpus: the SHA-256 of {name} is not that in "
                f"the manifest. {ANEW}"
            )
