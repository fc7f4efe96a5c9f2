"""The HGNC table of gene names: previous symbols, aliases and Ensembl ids to approved symbols."""

import hashlib
import http.client
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cellfm._adata import warn
from cellfm._atomic import whole_file
from cellfm._logging import logger
from cellfm._outside import file_sha256
from cellfm.errors import DownloadError, InputError
from cellfm.settings import settings

URL = "https://storage.googleapis.com/public-download-files/hgnc/tsv/tsv/hgnc_complete_set.txt"
"""The complete set, renewed by HGNC twice a week; see https://www.genenames.org/download."""
FILE_NAME = "hgnc_complete_set.txt"
PATIENCE = 15.0
"""Seconds to wait for the server."""
_REQUIRED = ("symbol", "alias_symbol", "prev_symbol")


@dataclass(frozen=True)
class Synonyms:
    """Other names of genes."""

    names: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Name to approved symbol and kind: ``"previous"``, ``"alias"`` or ``"ensembl"``."""
    ambiguous: frozenset[str] = frozenset()
    """Names that several genes go by: never mapped."""
    sha256: str | None = None
    """Checksum of the table, None without one."""

    def __len__(self) -> int:
        return len(self.names)


def load_synonyms(hgnc: str | Path | None = None) -> Synonyms:
    """Other names of genes, from the HGNC complete set.

    An approved symbol is never taken for another name of a gene. A previous symbol of one gene is, whatever it is an
    alias of; a name that several genes had or have is ambiguous.

    Parameters
    ----------
    hgnc
        Path of the HGNC complete set (tab separated, with the columns `symbol`, `alias_symbol` and `prev_symbol`, and
        where there are `ensembl_gene_id` and `status`); ``"download"`` fetches it into `cf.settings.cache_dir`; None
        takes the one that was fetched before, or no other names at all.

    Raises
    ------
    InputError
        No such file, not such a table, or the fetched table was changed since.
    DownloadError
        The table could not be fetched; the message says how to do without.
    """
    if hgnc == "download":
        return read_synonyms(_download())
    if hgnc is not None:
        return read_synonyms(Path(hgnc).expanduser())
    cached = _cached()
    if not cached.exists():
        return Synonyms()
    found, remembered = file_sha256(cached), _remembered(cached)
    if found != remembered:
        raise InputError(
            f"{cached} was changed after it was downloaded: its SHA-256 is {found[:12]}..., that of the download was "
            f"{(remembered or 'not kept')[:12]}.... Pass hgnc='download' to fetch it again, or hgnc= with its path."
        )
    return read_synonyms(cached)


def read_synonyms(path: Path) -> Synonyms:
    """Read an HGNC table."""
    if not path.is_file():
        raise InputError(f"No HGNC table at {path}. Pass the path of {FILE_NAME}, or hgnc='download'.")
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a table of genes: {error}. {_BY_HAND}") from None
    missing = [column for column in _REQUIRED if column not in table]
    if missing:
        shown = ", ".join(map(str, table.columns[:8]))
        raise InputError(f"{path} has no column {' and no '.join(missing)}; its columns are {shown}. {_BY_HAND}")
    if "status" in table:
        table = table[table["status"].isin(["Approved", ""])]
    approved = set(table["symbol"])
    previous, alias = (_spread(table, column, approved) for column in ("prev_symbol", "alias_symbol"))

    ambiguous = {name for name, symbols in previous.items() if len(symbols) > 1}
    ambiguous |= {name for name, symbols in alias.items() if len(symbols) > 1 and name not in previous}
    names = {}
    for kind, table_of in (("alias", alias), ("previous", previous)):  # previous symbols overwrite aliases
        names.update({name: (min(symbols), kind) for name, symbols in table_of.items() if name not in ambiguous})
    if "ensembl_gene_id" in table:
        ids = table[table["ensembl_gene_id"] != ""].drop_duplicates("ensembl_gene_id", keep=False)
        names.update({i: (s, "ensembl") for i, s in zip(ids["ensembl_gene_id"], ids["symbol"], strict=True)})
    return Synonyms(names, frozenset(ambiguous), file_sha256(path))


def _spread(table: pd.DataFrame, column: str, approved: set[str]) -> dict[str, set[str]]:
    """Each name of a ``|``-separated column to the approved symbols it stands for."""
    symbols: dict[str, set[str]] = {}
    for symbol, joined in zip(table["symbol"], table[column], strict=True):
        for name in filter(None, map(str.strip, joined.split("|"))):
            if name not in approved:
                symbols.setdefault(name, set()).add(symbol)
    return symbols


def _download() -> Path:
    """Fetch the table into the cache, with its checksum beside it; say so when it is not the one from before."""
    path = _cached()
    logger.info("fetching the HGNC table from %s", URL)
    try:
        with urllib.request.urlopen(URL, timeout=PATIENCE) as answer:
            content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"The HGNC table could not be fetched from {URL} ({reason}). {_BY_HAND}") from None
    header = content.partition(b"\n")[0].decode(errors="replace").split()
    if not set(_REQUIRED) <= set(header):
        shown = " ".join(header)[:60]
        raise DownloadError(f"What came from {URL} is no table of genes: it begins with {shown!r}. {_BY_HAND}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Could not write {path}: {error.strerror}. Set cf.settings.cache_dir.") from None
    before, now = _remembered(path), hashlib.sha256(content).hexdigest()
    with whole_file(path) as partial:
        partial.write_bytes(content)
    with whole_file(_beside(path)) as partial:
        partial.write_text(f"{now}  {FILE_NAME}\n")
    if before not in (None, now):
        warn(f"HGNC has renewed its table since the last download: SHA-256 {before[:12]}... is now {now[:12]}....")
    return path


def _cached() -> Path:
    return settings.cache_dir / "hgnc" / FILE_NAME


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _remembered(path: Path) -> str | None:
    beside = _beside(path)
    words = beside.read_text().split() if beside.is_file() else []
    return words[0] if words else None


_BY_HAND = (
    f"Get {FILE_NAME} by hand from https://www.genenames.org/download (complete HGNC data set, tab separated) and pass "
    "hgnc= with its path; without it, symbols and Ensembl ids that the model knows still match."
)
