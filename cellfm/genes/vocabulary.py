"""The gene vocabulary of a model: symbols and Ensembl ids to rows of the gene table."""

import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from cellfm.errors import CheckpointError, InputError, InputTypeError
from cellfm.io.safe_read import require_file
from cellfm.settings import model_folder

FILE_NAME = "vocabulary.tsv"
NAME_COLUMNS = ("previous", "aliases", "ambiguous")
"""Columns of other names in the vocabulary of `mini`, made by `benchmarks/mini/names.py`; `genes.hgnc` reads them."""
_COLUMNS = ("symbol", "ensembl_id", "biotype")
_ENSEMBL = re.compile(r"^(ENSG\d{11})(\.\d+)?$")
# What the published vocabulary tables call the columns that we need.
_PUBLISHED_COLUMNS = {"HGNC_gene": "symbol", "biotype": "biotype"}


class Vocabulary:
    """Genes in the order of a model's gene table; a gene's id is its position plus 1, and 0 is padding.

    Parameters
    ----------
    genes
        One row a gene: `symbol` (unique), and where known `ensembl_id` (without version) and `biotype`.
    """

    def __init__(self, genes: pd.DataFrame) -> None:
        if "symbol" not in genes:
            raise InputError(f"A vocabulary needs a column 'symbol'; found {', '.join(map(str, genes.columns))}.")
        table = genes.reindex(columns=list(_COLUMNS)).astype(object).fillna("").astype(str).reset_index(drop=True)
        if not len(table):
            raise InputError("The vocabulary contains no genes.")
        twice = table["symbol"][table["symbol"].duplicated() | (table["symbol"] == "")]
        if len(twice):
            raise InputError(
                f"Gene symbols of a vocabulary must be unique and not empty; found {twice.iloc[0]!r} again."
            )
        self.genes = table

    def __len__(self) -> int:
        return len(self.genes)

    def __repr__(self) -> str:
        known = int((self.genes["ensembl_id"] != "").sum())
        return f"Vocabulary of {len(self):,} genes, {known:,} with an Ensembl id (hash {self.hash[:12]})"

    @property
    def symbols(self) -> np.ndarray:
        """Symbols in the order of the ids, from id 1."""
        return self.genes["symbol"].to_numpy()

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the symbols in their order, which decides whether weights fit."""
        return hashlib.sha256("\n".join(self.symbols).encode()).hexdigest()

    @cached_property
    def _id_of_symbol(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols, start=1)}

    @cached_property
    def _id_of_ensembl(self) -> dict[str, int]:
        ids = enumerate(self.genes["ensembl_id"], start=1)
        return {ensembl: i for i, ensembl in ids if ensembl}

    def id_of(self, symbol: str) -> int:
        """Gene id of a symbol, 0 if unknown."""
        return self._id_of_symbol.get(symbol, 0)

    def find_symbols(self, names: np.ndarray) -> np.ndarray:
        """Gene ids of symbols, int32; 0 if unknown."""
        return np.fromiter((self._id_of_symbol.get(name, 0) for name in names), np.int32, len(names))

    def find_ensembl(self, names: np.ndarray) -> np.ndarray:
        """Gene ids of human Ensembl ids, with or without version, int32; 0 where unknown."""
        known = self._id_of_ensembl
        ids = (known.get(name, 0) or (known.get(strip_version(name), 0) if "." in name else 0) for name in names)
        return np.fromiter(ids, np.int32, len(names))

    def save(self, folder: Path) -> None:
        self.genes.to_csv(folder / FILE_NAME, sep="\t", index=False)

    @classmethod
    def load(cls, path: str | Path) -> "Vocabulary":
        """Read a vocabulary: ours (a model directory or its TSV file) or a published CSV table."""
        path = Path(path)
        path = path / FILE_NAME if path.is_dir() else path
        if not path.exists():
            raise InputError(f"No vocabulary at {path}: expected a file {FILE_NAME} or a published gene table (.csv).")
        require_file(path)
        try:
            table = pd.read_csv(
                path,
                sep="\t" if path.suffix == ".tsv" else ",",
                usecols=lambda column: column not in NAME_COLUMNS,
                dtype=str,
                keep_default_na=False,
                na_values=[""],
            )
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} is not a table of genes: {error}.") from None
        return cls(table.rename(columns=_PUBLISHED_COLUMNS))


class HasVocabulary(Protocol):
    """Anything that has a vocabulary, such as a model."""

    vocab: Vocabulary


def resolve_vocabulary(model: str | Path | Vocabulary | HasVocabulary) -> Vocabulary:
    """The vocabulary of a model, without loading its weights.

    Parameters
    ----------
    model
        A name (``"mini"``, or ``"80M"`` and ``"800M"`` once they are in the cache), the path of a model folder or of
        a vocabulary table, a `Vocabulary`, or anything with a `vocab`.

    Raises
    ------
    InputError
        No such model or table.
    """
    if isinstance(model, Vocabulary):
        return model
    if not isinstance(model, str | Path):
        vocab = getattr(model, "vocab", None)
        if not isinstance(vocab, Vocabulary):
            raise InputTypeError(f"Expected a model, its name, its path or a Vocabulary, found {type(model).__name__}.")
        return vocab
    if str(model) in ("mini", "80M", "800M"):
        folder = model_folder(str(model))
        if not (folder / FILE_NAME).is_file():
            raise InputError(
                f"The model {str(model)!r} has not been downloaded yet: there is no {folder / FILE_NAME}. Call "
                f"cf.load_model({str(model)!r}) once, or pass the path of a model folder or of a vocabulary table."
            )
        return Vocabulary.load(folder)
    path = Path(model).expanduser()
    if path.suffix == ".ckpt":
        raise InputError(f"{path.name} contains weights without gene names: pass the .csv table that belongs to it.")
    if not path.exists():
        raise InputError(
            f"No model {str(model)!r}: expected 'mini', '80M', '800M', a model folder or a vocabulary table."
        )
    return Vocabulary.load(path)


def strip_version(name: str) -> str:
    """``ENSG00000141510.18`` to ``ENSG00000141510``; anything else unchanged."""
    match = _ENSEMBL.match(name) if name.startswith("ENSG") else None
    return match.group(1) if match else name
