"""Synonyms of genes: previous symbols, aliases and Ensembl ids, from the table of the package or that of HGNC."""

import hashlib
import http.client
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pandas as pd

from cellfm.errors import DownloadError, InputError
from cellfm.genes.vocabulary import FILE_NAME as VOCABULARY_FILE
from cellfm.genes.vocabulary import NAME_COLUMNS
from cellfm.io.atomic_file import atomic_file
from cellfm.io.logging import logger
from cellfm.io.messages import warn
from cellfm.io.safe_read import file_sha256
from cellfm.settings import model_folder, settings

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
    """Names shared by several genes, which are never mapped."""
    former: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Approved symbols of the genes that once had a name that is another gene's symbol now, or that several have."""
    sha256: str | None = None
    """Checksum of the table; None without a table."""

    def __hash__(self) -> int:
        return hash((self.sha256, len(self.names)))

    def __len__(self) -> int:
        return len(self.names)

    def stands_for(self, name: str, symbol: str) -> bool:
        """Whether a gene has or had another name than its symbol."""
        return self.names.get(name, ("", ""))[0] == symbol or symbol in self.former.get(name, ())


def load_synonyms(hgnc: str | Path | bool | None = None) -> Synonyms:
    """Other names of genes, from the table of the package or the HGNC complete set.

    An approved symbol is never a synonym. A previous symbol of one gene is, even if it is also an alias of another; a
    name that several genes had or have is ambiguous.

    Parameters
    ----------
    hgnc
        Path of the HGNC complete set (tab separated, with the columns `symbol`, `alias_symbol` and `prev_symbol`, and
        where there are `ensembl_gene_id` and `status`); ``"download"`` fetches it into `cf.settings.cache_dir`; None
        takes the downloaded table if there is one, otherwise the table of the package; False uses no synonyms.

    Raises
    ------
    InputError
        The file does not exist, is not such a table, or was changed after the download.
    DownloadError
        The table could not be downloaded; the message says how to do without.
    """
    if hgnc is False:
        return Synonyms()
    if hgnc is True:
        raise InputError("hgnc must be a path, 'download', None or False, not True.")
    if hgnc == "download":
        return read_synonyms(_download())
    if hgnc is not None:
        return read_synonyms(Path(hgnc).expanduser())
    cached = _cached()
    if not cached.exists():
        return package_synonyms()
    found, remembered = file_sha256(cached), _remembered(cached)
    if found != remembered:
        raise InputError(
            f"{cached} was changed after it was downloaded: its SHA-256 is {found[:12]}..., that of the download was "
            f"{(remembered or 'not kept')[:12]}.... Pass hgnc='download' to fetch it again, or hgnc= with its path."
        )
    return read_synonyms(cached)


@lru_cache(maxsize=1)
def package_synonyms() -> Synonyms:
    """Other names of the genes of `mini`, from the vocabulary in the package; read once."""
    path = model_folder("mini") / VOCABULARY_FILE
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    if tuple(header.split("\t")[-3:]) != NAME_COLUMNS:
        return Synonyms()
    symbols = set()
    names: dict[str, tuple[str, str]] = {}
    shared: dict[str, set[str]] = {}
    for line in lines:
        symbol = line[: line.index("\t")]
        symbols.add(symbol)
        if line.endswith("\t\t\t"):
            continue
        _, previous, aliases, several = line.rsplit("\t", 3)
        if aliases:
            names.update(dict.fromkeys(aliases.split("|"), (symbol, "alias")))
        if previous:
            names.update(dict.fromkeys(previous.split("|"), (symbol, "previous")))
        if several:
            for name in several.split("|"):
                shared.setdefault(name, set()).add(symbol)
    ambiguous = shared.keys() - symbols
    for name in symbols & names.keys():
        shared.setdefault(name, set()).add(names.pop(name)[0])
    former = {name: frozenset(owners) for name, owners in shared.items()}
    return Synonyms(names, frozenset(ambiguous), former, file_sha256(path))


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
    previous, alias = (_spread(table, column) for column in ("prev_symbol", "alias_symbol"))
    former = {name: frozenset(previous.get(name, set()) | alias.get(name, set())) for name in previous | alias}
    previous, alias = (
        {name: symbols for name, symbols in known.items() if name not in approved} for known in (previous, alias)
    )

    ambiguous = {name for name, symbols in previous.items() if len(symbols) > 1}
    ambiguous |= {name for name, symbols in alias.items() if len(symbols) > 1 and name not in previous}
    names = {}
    for kind, table_of in (("alias", alias), ("previous", previous)):  # previous symbols overwrite aliases
        names.update({name: (min(symbols), kind) for name, symbols in table_of.items() if name not in ambiguous})
    if "ensembl_gene_id" in table:
        ids = table[table["ensembl_gene_id"] != ""].drop_duplicates("ensembl_gene_id", keep=False)
        names.update({i: (s, "ensembl") for i, s in zip(ids["ensembl_gene_id"], ids["symbol"], strict=True)})
    former = {name: symbols for name, symbols in former.items() if name in approved or name in ambiguous}
    return Synonyms(names, frozenset(ambiguous), former, file_sha256(path))


def _spread(table: pd.DataFrame, column: str) -> dict[str, set[str]]:
    """Each name of a ``|``-separated column to the approved symbols it stands for."""
    symbols: dict[str, set[str]] = {}
    for symbol, joined in zip(table["symbol"], table[column], strict=True):
        for name in filter(None, map(str.strip, joined.split("|"))):
            symbols.setdefault(name, set()).add(symbol)
    return symbols


def _download() -> Path:
    """Download the table into the cache, with its checksum; warn if it differs from the previous one."""
    path = _cached()
    logger.info("fetching the HGNC table from %s", URL)
    try:
        with urllib.request.urlopen(URL, timeout=PATIENCE) as answer:
            content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"The HGNC table could not be downloaded from {URL} ({reason}). {_BY_HAND}") from None
    header = content.partition(b"\n")[0].decode(errors="replace").split()
    if not set(_REQUIRED) <= set(header):
        shown = " ".join(header)[:60]
        raise DownloadError(f"The answer of {URL} is not a table of genes: it begins with {shown!r}. {_BY_HAND}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Could not write {path}: {error.strerror}. Set cf.settings.cache_dir.") from None
    before, now = _remembered(path), hashlib.sha256(content).hexdigest()
    with atomic_file(path) as partial:
        partial.write_bytes(content)
    with atomic_file(_beside(path)) as partial:
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
