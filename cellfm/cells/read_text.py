"""Read tables of counts as text; gene names show whether rows or columns are genes.

anndata's readers of text take rows as cells and make the table dense; this one reads it in pieces, by pandas.
"""

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm.cells.compressed import UNREADABLE, opened
from cellfm.cells.not_cells import decoded
from cellfm.errors import InputError
from cellfm.genes.features import without_genome
from cellfm.io.messages import counted, reason_of
from cellfm.settings import MISSING_LABELS, means_missing

if TYPE_CHECKING:
    from anndata import AnnData

_SEPARATORS = ("\t", ",", ";", " ")
_SAMPLE_LINES = 50
_CHUNK_VALUES = 4_000_000
_MOSTLY = 0.8
_FEW = 10  # known genes that settle which side they are on
_INDEX = ("", "index", "unnamed: 0", "cell", "cell_id")
_ABSENT = sorted({form for word in MISSING_LABELS for form in (word, word.upper(), word.capitalize())})
"""Text that means a missing number, for pandas."""
_ENSEMBL = re.compile(r"ENS[A-Z]{0,4}G\d{11}")
_OF_GENES = re.compile(r"^(length|start|end|chr|chrom|chromosome|strand|gene_?length|entrez(_?id)?)$", re.IGNORECASE)
_OF_CELLS = re.compile(
    r"^(n_?(counts?|genes?|umis?|features?)(_.*)?|total_counts.*|percent.*|pct_.*|ncount_.*|nfeature_.*|clusters?|louvain|"
    r"leiden|batch|sample|donor|size_?factors?|labels?|cell_?type.*|age|day|time)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Layout:
    """How a table is laid out."""

    separator: str
    n_skipped: int
    """Lines before the data: comments, empty ones and the header."""
    header: list[str] | None
    """A name for each column; None where the first line holds data already."""
    width: int
    is_number: np.ndarray
    """(width,) bool: columns of numbers."""
    encoding: str


def is_table(head: bytes) -> bool:
    """Whether the first bytes of a file look like those of a table with numbers."""
    text = decoded(head)
    if text is None:
        return False
    lines = [line for line in text.splitlines()[: _SAMPLE_LINES + 1] if line.strip() and not line.startswith("#")]
    if not lines or lines[0].startswith(("%%MatrixMarket", "<")):
        return False
    if len(lines) < 2:  # a first line that is longer than what was read
        return len(head) >= 1 << 16 and any(lines[0].count(sign) > 20 for sign in _SEPARATORS)
    separator = _separator(lines[:-1] if len(lines) > 2 and not text.endswith("\n") else lines)
    return separator is not None and any(_is_number(field) for field in _fields(lines[1], separator)[1:])


def read_table(path: Path) -> "AnnData":
    """Read a table of counts, compressed or not, in pieces, as cells x genes, sparse.

    Columns of text beside the names become columns of `obs` or `var`.

    Raises
    ------
    InputError
        Neither rows nor columns (or both) have gene names, or it is not a table of numbers.
    """
    try:
        layout = _layout(path)
        table, texts = _read(path, layout)
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read: {error}. It may be cut short or damaged; get a new copy.") from error
    columns = np.arange(layout.width).astype(str) if layout.header is None else np.array(layout.header, dtype=object)
    numbers = columns[layout.is_number]
    if not len(numbers):
        raise InputError(
            f"{path} is a table without a column of numbers; expected counts (with a decimal point, if any)."
        )
    known = _known(numbers)
    n_known = {place: int(_known(values).sum()) for place, values in texts.items()}
    genes = max(n_known, key=lambda place: n_known[place], default=-1)
    in_rows, in_columns = n_known.get(genes, 0), int(known.sum())
    if _settled(in_rows, table.shape[0]) and in_rows > 2 * in_columns:
        if len(texts) > 1 and len(numbers) <= 2 and len(set(texts[genes])) < table.shape[0] / 2:
            raise InputError(
                f"{path} has a gene and a cell on each line (a long table). Convert it to a table of genes x cells, "
                "for instance with pandas.DataFrame.pivot, or a 10x folder with matrix.mtx."
            )
        is_index = _is_index(numbers[0], table)
        named = {place: values for place, values in texts.items() if place != genes}
        return _of_genes_in_rows(table, numbers, texts[genes], _titled(named, columns), is_index=is_index)
    if _settled(in_columns, len(numbers)) and in_columns > 2 * in_rows:
        is_index = bool(layout.is_number[0]) and columns[0].strip().lower() in _INDEX
        cells = next((place for place, values in texts.items() if len(set(values)) == len(values)), None)
        names = None if cells is None else texts[cells]
        if cells is not None and not str(columns[cells]).strip():
            del texts[cells]
        return _of_cells_in_rows(table, numbers, known, _titled(texts, columns), names, is_index=is_index)
    rows = [str(value) for values in texts.values() for value in values[:3]][:3] or ["no text"]
    carry = "both of them carry" if min(in_rows, in_columns) >= _FEW else "neither carries"
    raise InputError(
        f"{path} is a table of {table.shape[0]:,} rows (such as {', '.join(rows)}) and {len(numbers):,} columns of "
        f"numbers (such as {', '.join(map(str, numbers[:3]))}), and {carry} names of human genes: expected symbols or "
        "Ensembl ids in the first column or the first line, and counts in the rest."
    )


def _of_genes_in_rows(
    table: sp.csr_matrix, columns: np.ndarray, genes: np.ndarray, named: dict[str, np.ndarray], *, is_index: bool
) -> "AnnData":
    """`is_index`: the first column of numbers counts the genes."""
    from anndata import AnnData

    kept = np.array([not _OF_GENES.match(name) for name in columns], bool)
    if is_index:
        table, columns, kept = table[:, 1:], columns[1:], kept[1:]
    var = pd.DataFrame(named | _dense_columns(table, columns, ~kept), index=pd.RangeIndex(len(genes)))
    var.index = pd.Index(genes)
    obs = pd.DataFrame(index=pd.Index(columns[kept].astype(str).astype(object)))
    return AnnData(table[:, np.flatnonzero(kept)].T.tocsr(), obs=obs, var=var)


def _of_cells_in_rows(
    table: sp.csr_matrix,
    columns: np.ndarray,
    known: np.ndarray,
    named: dict[str, np.ndarray],
    names: np.ndarray | None,
    *,
    is_index: bool,
) -> "AnnData":
    """`is_index`: the first column numbers the cells."""
    from anndata import AnnData

    beside = ~known & np.array([bool(_OF_CELLS.match(name)) for name in columns], bool)
    kept = ~beside
    if is_index:
        kept[0] = beside[0] = False
    obs = pd.DataFrame(named | _dense_columns(table, columns, beside), index=pd.RangeIndex(table.shape[0]))
    numbers = table[:, [0]].toarray().ravel().astype(int) if is_index else np.arange(table.shape[0])
    obs.index = pd.Index(np.asarray(numbers.astype(str) if names is None else names, dtype=object))
    return AnnData(table[:, np.flatnonzero(kept)], obs=obs, var=pd.DataFrame(index=pd.Index(columns[kept])))


def _titled(texts: dict[int, np.ndarray], columns: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of text by name, or by position if the first line has no names."""
    return {str(columns[place]).strip() or f"column {place + 1}": values for place, values in texts.items()}


def _is_index(name: str, table: sp.csr_matrix) -> bool:
    """Whether the first column of numbers only counts the rows, as pandas writes it."""
    if str(name).strip().lower() not in _INDEX:
        return False
    first = table[:, [0]].toarray().ravel()
    return bool((np.diff(first) == 1).all() and first[0] in (0, 1))


def _dense_columns(table: sp.csr_matrix, columns: np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
    return {str(columns[place]): table[:, [place]].toarray().ravel() for place in np.flatnonzero(chosen)}


def _layout(path: Path) -> Layout:
    with opened(path) as file:
        head = file.read(4)
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    with opened(path) as raw, io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline=None) as file:
        n_skipped = 0
        lines: list[str] = []
        for line in file:
            if not lines and (not line.strip() or line.startswith("#")):
                n_skipped += 1
                continue
            lines.append(line.rstrip("\n"))
            if len(lines) > _SAMPLE_LINES:
                break
    separator = _separator(lines)
    if separator is None:
        raise InputError(
            f"{path} is text, but not a table: its lines have no common separator (tab, comma, semicolon)."
        )
    rows = [_fields(line, separator) for line in lines]
    width = len(rows[-1])
    first = rows[0]
    if len(first) == width and all(map(_is_number, first[1:])) and _known(np.array([first[0]], dtype=object)).all():
        header, data = None, rows
    else:
        header = ["", *first] if len(first) == width - 1 else first
        data, n_skipped = rows[1:], n_skipped + 1
    if not data or len(header or first) != width:
        raise InputError(
            f"{path} is text, but not a table: its first line has {counted(len(first), 'field')}, the others {width}."
        )
    is_number = np.array(
        [
            all(_is_number(row[i]) for row in data if len(row) > i) and any(_is_value(row[i]) for row in data)
            for i in range(width)
        ],
        bool,
    )
    for i in np.flatnonzero(~is_number)[1:]:
        fields = [row[i] for row in data if len(row) > i]
        if sum(map(_is_number, fields)) > _MOSTLY * len(fields):
            text = next(field for field in fields if not _is_number(field))
            raise InputError(f"{path}: column {i + 1} contains {text!r} among numbers; expected counts.")
    return Layout(separator, n_skipped, header, width, is_number, encoding)


def _read(path: Path, layout: Layout) -> tuple[sp.csr_matrix, dict[int, np.ndarray]]:
    """The numbers, and the columns of text by their place."""
    n_lines = max(1, _CHUNK_VALUES // layout.width)
    dtypes = {i: np.float32 if number else str for i, number in enumerate(layout.is_number)}
    texts: dict[int, list[np.ndarray]] = {int(i): [] for i in np.flatnonzero(~layout.is_number)}
    parts = []
    with opened(path) as raw, io.TextIOWrapper(raw, encoding=layout.encoding, errors="replace", newline=None) as file:
        for _ in range(layout.n_skipped):
            file.readline()
        try:
            chunks = pd.read_csv(
                file,
                sep=r"\s+" if layout.separator == " " else layout.separator,
                header=None,
                names=range(layout.width),
                index_col=False,
                dtype=dtypes,
                chunksize=n_lines,
                na_values={int(i): _ABSENT for i in np.flatnonzero(layout.is_number)},  # type: ignore[misc]
            )
            for chunk in chunks:
                parts.append(sp.csr_matrix(chunk.loc[:, layout.is_number].to_numpy(np.float32)))
                for i, values in texts.items():
                    values.append(chunk[i].fillna("").to_numpy(dtype=object))
        except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise InputError(f"{path} is not a table of numbers with names: {reason_of(error)}.") from error
    return sp.vstack(parts, format="csr"), {i: np.concatenate(values) for i, values in texts.items()}


def _separator(lines: list[str]) -> str | None:
    """The separator that splits all lines into the same number of fields, at least two; the largest number wins."""
    widths = {}
    for sign in _SEPARATORS:
        counted = Counter(len(_fields(line, sign)) for line in lines[1:] or lines)
        width, n = counted.most_common(1)[0]
        if width > 1 and n == counted.total() and len(_fields(lines[0], sign)) in (width, width - 1):
            widths[sign] = width
    return max(widths, key=lambda sign: widths[sign], default=None)


def _fields(line: str, separator: str) -> list[str]:
    if separator == " ":
        return [field.strip('"') for field in line.split()]
    return next(csv.reader([line], delimiter=separator), [])


def _is_number(field: str) -> bool:
    return means_missing(field) or _is_value(field)


def _is_value(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _known(names: np.ndarray) -> np.ndarray:
    """(n,) bool: names of genes, by symbol (mouse ones, too) or Ensembl id."""
    from cellfm.genes.vocabulary import resolve_vocabulary

    names = without_genome(np.array([str(name).strip() for name in names], dtype=object))
    known = resolve_vocabulary("mini").find_symbols(np.array([name.upper() for name in names], dtype=object)) > 0
    return known | np.array([bool(_ENSEMBL.search(name)) for name in names], bool)


def _settled(n_known: int, n: int) -> bool:
    return n_known >= min(_FEW, max(1, n / 2)) and n_known >= 0.02 * n
