"""Spellings of gene names: joined with ids, changed by R, Seurat or Excel, made unique."""

import re
from collections.abc import Collection

_ID = re.compile(r"(ENSG\d{11})(?:\.\d+)?(?:_PAR_Y)?(?![0-9A-Za-z])")
# SYMBOL|1234 of TCGA (an Entrez id) and SYMBOL__chr6 of RaceID.
_WITH_PLACE = re.compile(r"(.+?)(?:\|\d+|__chr\w+)")
_BETWEEN = " _|:;,/()[]-.~\t"
_TOKENS = re.compile(r"[|:;,\s()\[\]]+")
_AS_DOT = str.maketrans(dict.fromkeys("-_/:;|,+*()[]{} @'&~#", "."))
# Segments of immunoglobulins and T-cell receptors have such endings of their own: IGHV3-30-3.
_SEGMENT = re.compile(r"(?:IG[HKL]|TR[ABDG])[VDJC]")
_FEW_COPIES = 9
"""Names that occur more often than this are rare."""
_ORF = re.compile(r"(C(?:\d+|X|Y))ORF(\d+.*)")

_MONTHS = {
    "mar": ("MARCHF", "MTARC", "MARCH", "MARC"),
    "apr": ("APR",),
    "sep": ("SEPTIN", "SEPT", "SEP"),
    "oct": ("OCT",),
    "dec": ("DELEC", "DEC"),
}
"""What genes are called whose symbols Excel takes for days of a month: as HGNC has renamed them (2020), and before."""
_NUMBERS = {3: "mar", 4: "apr", 9: "sep", 10: "oct", 12: "dec"}
_MONTH = "(mar(?:ch)?|apr(?:il)?|sept?(?:ember)?|oct(?:ober)?|dec(?:ember)?)"
_DATES = (
    re.compile(rf"(?P<day>\d{{1,2}})\.{_MONTH.replace('(', '(?P<month>', 1)}(?:\.\d{{1,4}})?", re.IGNORECASE),
    re.compile(rf"{_MONTH.replace('(', '(?P<month>', 1)}\.(?P<day>\d{{1,2}})(?:\.\d{{1,4}})?", re.IGNORECASE),
    re.compile(r"\d{4}\.(?P<month>\d\d)\.(?P<day>\d\d)(?:[.T]00\.00(?:\.00)?)?(?:\.\d)?"),
    re.compile(r"(?P<month>\d{1,2})\.(?P<day>\d{1,2})(?:\.\d{4})?"),
)


def split_name(name: str) -> tuple[str, str]:
    """Symbol and human Ensembl id (without version) that a name holds; either may be empty.

    ``HLA-DRA_ENSG00000204287.13``, ``ENSG00000204287|HLA-DRA``, ``HLA-DRA|3122``, ``HLA-DRA``.
    """
    if "ENSG" in name and (match := _ID.search(name)):
        before, after = name[: match.start()].strip(_BETWEEN), name[match.end() :].strip(_BETWEEN)
        tokens = [token for token in _TOKENS.split(before or after) if token]
        return tokens[0] if tokens else "", match[1]
    if ("|" in name or "__" in name) and (match := _WITH_PLACE.fullmatch(name)):
        name = match[1]
    return name, ""


def spelling(name: str) -> str:
    """What R's make.names leaves of a name: names with the same spelling differ in their separators only."""
    dotted = name.translate(_AS_DOT)
    if dotted[:1] == "X" and (dotted[1:2].isdigit() or dotted[1:2] == "."):
        return dotted[1:]
    return f"{match[1]}orf{match[2]}" if (match := _ORF.fullmatch(dotted)) else dotted


def without_quotes(name: str) -> str:
    """The name without spaces and quotes around it, as careless tables leave them (``"CD3E "``, ``b'CD3E'``)."""
    inside = name[1:] if name[:2] in ("b'", 'b"') else name
    return inside.strip(" \t\r\n\"'\ufeff")


def is_plain(name: str) -> bool:
    """Whether a name surely is its own spelling; quick."""
    return name.isalnum() and name[0] != "X" and "ORF" not in name


def without_suffix(name: str) -> str | None:
    """The name before it was made unique (``TBCE.1`` of R, ``TBCE-1`` of anndata); None without such an ending."""
    end = max(name.rfind("."), name.rfind("-"))
    return name[:end] if end > 0 and name[end + 1 :].isdecimal() and not _SEGMENT.match(name) else None


def was_made_unique(name: str, names: Collection[str]) -> bool:
    """Whether the number at the end of a name counts names that were the same: a high one needs the one before it.

    ``CAND1.11`` is a gene, and not the eleventh copy of ``CAND1``, where there is no ``CAND1.10``.
    """
    base = without_suffix(name)
    if base is None:
        return False
    number = int(name[len(base) + 1 :])
    return number <= _FEW_COPIES or f"{name[: len(base) + 1]}{number - 1}" in names


def symbols_of_date(name: str) -> list[str]:
    """Symbols that a spreadsheet may have turned into this date (``1-Mar``, ``Sep-02``, ``2021-03-01``)."""
    if not (name[:1].isdigit() or name[:1] == "X" or name[:3].lower() in _MONTHS):
        return []
    dotted = spelling(name)
    for pattern in _DATES:
        if match := pattern.fullmatch(dotted):
            month = match["month"].lower()[:3]
            month = _NUMBERS.get(int(month), "") if month.isdigit() else month
            return [f"{prefix}{int(match['day'])}" for prefix in _MONTHS.get(month, ())]
    return []
