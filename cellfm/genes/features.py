"""Find the rows of `var` that are human genes, and not antibodies, guides, peaks or genes of other species."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellfm.genes.text import as_text
from cellfm.io.messages import counted
from cellfm.settings import means_missing

TYPE_COLUMNS = (
    "featuretypes", "featuretype", "modality", "modalities", "gem", "gems", "gemtype", "datatype", "librarytype",
    "featureclass",
)  # fmt: skip
"""Columns of `var` that hold feature types, in the order of trust, without capitals and signs."""
GENOME_COLUMNS = ("genome", "genomes", "referencegenome", "featurereference", "species", "organism")
"""Columns of `var` that may hold the genome of a row."""

_GENES = {
    "gene expression", "geneexpression", "gex", "rna", "mrna", "cdna", "scrna", "snrna", "gene", "genes", "expression",
    "rna expression", "transcript", "transcripts", "transcriptome", "transcriptomics", "rna seq", "scrna seq",
}  # fmt: skip
_BIOTYPE = re.compile(r"protein coding|gene$|^([a-z]{0,5} )?[a-z]{0,5}rna$|antisense|^sense |^tec$|^ribozyme$")
_OTHERS = {
    "antibody", "antibodies", "antibody derived tag", "antibody derived tags", "adt", "adts", "ab", "abs", "protein",
    "proteins", "prot", "surface protein", "surface proteins", "protein expression", "cite", "cite seq", "citeseq",
    "epitope", "epitopes", "isotype", "isotype control", "nanobody",
    "crispr", "guide", "guides", "grna", "grnas", "sgrna", "sgrnas", "guide rna", "guide rnas", "crispr guide",
    "hto", "htos", "hashtag", "hashtags", "hashing", "cell hashing", "hashtag oligo", "hashtag oligos", "cmo", "cmos",
    "multiplexing", "multiplexing tag", "sample tag", "sample tags", "barcode", "barcodes", "lineage barcode",
    "peak", "peaks", "atac", "atac peak", "scatac", "chromatin accessibility", "accessibility", "tile", "tiles",
    "custom", "custom feature", "antigen", "antigens", "dextramer", "tetramer", "bead",
    "vdj", "vdj t", "vdj b", "vdj t gd", "tcr", "bcr", "spike in", "spikein", "ercc", "methylation",
    "unassigned codeword", "deprecated codeword", "genomic control",
}  # fmt: skip
_OTHER = re.compile(r"(^| )(capture|codeword|control (probe|codeword)|negative (control|probe)s?|blank|vdj)($| )")
_SIGN = r"[-_.:| ]"
_ONE_SIGN = str.maketrans("_.:| ", "-----")
_COPY = r"(?:[-.]\d{1,3})?"  # as names are made unique
_NAMES = (
    ("Antibody Capture", ("\nadt-", "\nabseq-", "\ncite-", "\nciteseq-", "\nantibod", "\nprot-", "\nprotein-",
     "\nepitope-", "\nisotype-", "\nab-"),
     rf"^(?:(?:adt|abseq|cite(?:-?seq)?|antibod(?:y|ies)|prot(?:ein)?|epitope|isotype){_SIGN}+"
     rf"|ab(?:[_:]|{_SIGN}+(?=CD\d|HLA|Ig))).+$"),
    ("Antibody Capture", ("\nanti", "-anti-", "\nhu-", "\nhums", "\nhurt"),
     rf"^(?:anti(?:{_SIGN}+|(?=CD\d|HLA|Ig[AGM]|(?:human|mouse|hu|ms)(?:CD\d|HLA)))"
     r"|(?-i:Hu(?:Ms)?(?:Rt)?)[-_. ]).+$|^.*[-_. ]anti[-_. ](?:human|mouse|hu|ms|rat)[-_./ ].*$"),
    ("Antibody Capture", ("total", "-adt\n", "-adt-", "-ab\n", "-ab-", "-abseq", "-pabo", "-prot\n", "-prot-",
     "-protein", "-antibody", "-isotype"),
     rf"^total-?seq.*$|^.{{2,}}{_SIGN}(?:adt|ab|abseq|pabo|prot(?:ein)?|antibody|total-?seq.*|total[-_.]?[abcd]"
     rf"|isotype(?:[-_. ]?(?:control|ctrl|cntrl))?){_COPY}$"),
    ("Multiplexing Capture", ("\nhto", "-hto", "hashtag", "\ncmo-", "\ncmo3", "sample-tag", "sampletag", "-stabo"),
     rf"^(?:(?:hto|cmo)[_:-].*|hto\d+|hashtag[-_ ]?\w{{0,3}}\d.*|cmo3\d\d|sample{_SIGN}?tag{_SIGN}?\d.*"
     rf"|.+{_SIGN}(?:(?:hto|hashtag){_SIGN}?\d*{_COPY}|stabo))$"),
    ("CRISPR Guide Capture", ("\nsgrna-", "\ngrna-", "\nguide-", "\nsg-", "-sg-", "-sg0", "-sg1", "-sgrna",
     "-grna", "target"),
     rf"^(?:(?:sgrna|grna|guide|sg)[_:.-].*|non{_SIGN}?target(?:ing)?{_SIGN}?\w*"
     rf"|.+{_SIGN}(?:sg|sgrna|grna)[-_.]?\d*{_COPY})$"),
    ("Peaks", ("\nchr",), r"^chr(?:[0-9]{1,2}|[XYM]|MT|Un)\w*[:_-]\d{3,}[_-]\d{3,}$"),
)  # fmt: skip
"""Names that cannot be those of genes: what they are, what one of them has in it (quick to look for in names in small
letters, on lines of their own, with one sign for all of `_SIGN`), and how they look."""
_PREFIX = re.compile(
    r"^(?:refdata[-_.](?:gex|cellranger)[-_.])?"
    r"(GRCh3[678](?:\.p\d+)?|GRCm3[89](?:\.p\d+)?|hg(?:1[6-9]|38)|mm(?:8|9|10|39)|hs37(?:d5)?|b37|T2T(?:-CHM13)?|CHM13"
    r"|Rnor_?6(?:\.0)?|mRatBN7(?:\.2)?|rn[4-7](?![-_.]8S)|GRCz1[01]|danRer\d+|rheMac\d+|Mmul_?\d+|susScr\d+|galGal\d"
    r"|dm[36]|human|mouse|rat|homo[-_.]?sapiens|mus[-_.]?musculus)"
    r"(?:[-_.]\d{4}[-_.][A-Z])?(?:[-_.]pre-?mrna)?[-_.:|]+(?=\w)",
    re.IGNORECASE | re.MULTILINE,
)
"""``GRCh38_``, ``mm10___``, and with other signs, as R and Seurat change them: ``hg19-``, ``mm9.``."""
_HUMAN = re.compile(r"^(grch|hg\d\d|hs\d|homo|human|h[. _]?sapiens|t2t|chm13|b37|ncbi36|9606$|ncbitaxon:9606$)", re.I)
_MOUSE = re.compile(r"^(grcm|mm\d|mus|mouse|m[. _]?musculus|10090$|ncbitaxon:10090$)", re.I)
_MANY = 200  # more different values make no type
_SAMPLE = 100  # names that are looked at for a prefix, which all have or none
_MOUSE_NOTE = " (mouse)"


@dataclass(frozen=True)
class Features:
    """Types of the rows of `var`."""

    is_gene: np.ndarray
    """(n_vars,) bool: human gene expression, according to the table."""
    left_out: dict[str, int]
    """Types of the other rows, as named in the table, and their numbers."""
    genomes: tuple[str, ...] = ()
    """The genomes if none could be chosen; empty if there is no choice to make."""
    genome_column: str | None = None
    """Column of the genomes; None for prefixes of the names."""

    @property
    def all_genes(self) -> bool:
        return not self.left_out

    @property
    def note(self) -> str | None:
        """A message about omitted rows; None if there are none."""
        if self.all_genes:
            return None
        n = int((~self.is_gene).sum())
        rows = counted(n, "row of var is", "rows of var are")
        return f"Only human gene expression is read; {rows} left out: {self._listed()}."

    def problem(self, where: str) -> str | None:
        """The error if the rows cannot be read as genes; None if they can. `where` is the name of the table."""
        if self.genomes:
            first = self.genomes[0]
            rows = f"adata.var_names.str.startswith({first!r})"
            rows = f"adata.var[{self.genome_column!r}] == {first!r}" if self.genome_column is not None else rows
            return (
                f"{where} contains genes of several genomes ({', '.join(self.genomes)}), and it is unclear which one "
                "to read. Choose one with genome= when the file is read (in Python by cf.cells.read_cells), or "
                f"in memory with adata = adata[:, {rows}].copy()."
            )
        if len(self.is_gene) and not self.is_gene.any():
            head = f"{where} contains no human gene expression, only {self._listed()}. "
            if any(name.endswith(_MOUSE_NOTE) for name in self.left_out):
                return head + "The model knows human genes: map the genes to their human orthologues first."
            return head + "CellFM reads gene expression: pass the data, or the modality, that contains it."
        return None

    def _listed(self) -> str:
        return ", ".join(f"{n:,} {name}" for name, n in sorted(self.left_out.items(), key=lambda item: -item[1]))


def read_features(var: pd.DataFrame) -> Features:
    """Distinguish genes from other rows by feature types, genomes and unmistakable names."""
    names = as_text(var.index)
    kinds = _types(var)
    kinds = np.full(len(var), None, object) if kinds is None else kinds
    _add_named_otherwise(kinds, names)
    is_gene = np.asarray(pd.isna(kinds))
    genomes, column = genomes_of(var, names)
    chosen: tuple[str, ...] = ()
    if genomes is not None:
        present = _ordered(genomes[is_gene])
        human = [name for name in present if is_human(name)]
        if len(present) > 1 and len(human) != 1:
            chosen = tuple(present)
        elif human or (present and all(_species(name) for name in present)):
            foreign = is_gene & ~np.isin(genomes.astype(str), [*human, "None"])
            kinds[foreign] = [f"{name}{_species(name)}" for name in genomes[foreign]]
            is_gene &= ~foreign
    left_out = pd.Series(kinds[~is_gene], dtype=object).value_counts()
    return Features(is_gene, {str(kind): int(number) for kind, number in left_out.items()}, chosen, column)


def is_human(genome: str) -> bool:
    """Whether a genome is human, by its name."""
    return bool(_HUMAN.match(genome)) and "_and_" not in genome


def genomes_of(var: pd.DataFrame, names: np.ndarray | None = None) -> tuple[np.ndarray | None, str | None]:
    """(n_vars,) the genome of each row, None if unknown, and its column, None for prefixes of names. None and None if
    the table has no genomes.
    """
    names = as_text(var.index) if names is None else names
    for place in _columns(var, GENOME_COLUMNS):
        values = np.array([_text(value) for value in var.iloc[:, place]], object)
        different = set(values) - {value for value in values if means_missing(value)}
        if not different or len(different) > _MANY or any("_and_" in value for value in different):
            continue
        if len(different) > 1 or any(_HUMAN.match(value) or _MOUSE.match(value) for value in different):
            return np.array([value if value in different else None for value in values], object), str(
                var.columns[place]
            )
    if not _PREFIX.search(_lines(names[:: max(1, len(names) // _SAMPLE)])):
        return None, None
    found = [_PREFIX.match(name) for name in names]
    if sum(match is not None for match in found) <= len(names) / 2:
        return None, None
    return np.array([None if match is None else match[1] for match in found], object), None


def without_genome(names: np.ndarray) -> np.ndarray:
    """Names without the prefixes of their genomes: ``GRCh38_CD3E`` to ``CD3E``; others as they are."""
    if not _PREFIX.search(_lines(names[:: max(1, len(names) // _SAMPLE)])):
        return names
    return np.array([_PREFIX.sub("", str(name)) for name in names], object)


def _types(var: pd.DataFrame) -> np.ndarray | None:
    """(n_vars,) the type of each row that is not a gene, else None; None if no column gives types."""
    known = _columns(var, TYPE_COLUMNS)
    for place in [*known, *(place for place in range(var.shape[1]) if place not in known)]:
        values = var.iloc[:, place]
        if pd.api.types.is_numeric_dtype(values.dtype) or _is_diverse(values.iloc[: 5 * _MANY]):
            continue
        texts = np.array([_text(value) for value in values], object)
        different = sorted(set(texts))
        found = _judged(different, trusted=place in known) if len(different) <= _MANY else None
        if found is not None:
            return np.array([found[text] for text in texts], object)
    return None


def _is_diverse(values: pd.Series) -> bool:
    """Whether there are too many different values for types, or none that can be compared."""
    try:
        return values.nunique() > _MANY
    except TypeError:  # lists and the like
        return True


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _judged(different: Sequence[str], *, trusted: bool) -> dict[str, str | None] | None:
    """Each value to what to call it if it is no gene, else None; None where these are no feature types.

    A column that goes by the name of feature types may also hold values that are unknown; any other one is believed
    only if it names both genes and something else, and nothing unknown.
    """
    plain = {value: re.sub(r"[\W_]+", " ", value).strip().lower() for value in different}
    genes = {value for value, text in plain.items() if text in _GENES}
    others = {value for value, text in plain.items() if text in _OTHERS or _OTHER.search(text)}
    biotypes = {value for value, text in plain.items() if value not in genes and _BIOTYPE.search(text)}
    others -= biotypes
    unknown = plain.keys() - genes - others - biotypes - {value for value in plain if means_missing(value)}
    if not others and not (genes and unknown):
        return None
    if biotypes and {plain[value] for value in others} <= {"protein", "proteins", "prot"}:
        return None  # protein for protein-coding
    if not trusted and (unknown or not (genes and others)):
        return None
    if not others and not any(plain[value] in ("gene expression", "gex") for value in genes):
        return None  # such as gene, pseudogene, segment: kinds of genes
    left_out = others | (unknown if genes else set())
    return {value: value if value in left_out else None for value in different}


def _add_named_otherwise(kinds: np.ndarray, names: np.ndarray) -> None:
    """Set, in place, the type of rows whose names cannot be gene names."""
    lines = _lines(names)
    small = f"\n{lines.lower()}\n".translate(_ONE_SIGN)
    for kind, parts, pattern in _NAMES:
        if not any(part in small for part in parts):
            continue
        found = {match[0] for match in re.finditer(pattern, lines, re.IGNORECASE | re.MULTILINE)}
        if found:
            kinds[np.asarray(pd.isna(kinds)) & np.isin(names.astype(str), list(found))] = kind


def _lines(names: np.ndarray) -> str:
    """One text to search, which is many times faster than names one by one."""
    return "\n".join(map(str, names))


def _species(genome: str) -> str:
    if is_human(genome):
        return " (human)"
    return _MOUSE_NOTE if _MOUSE.match(genome) else ""


def _ordered(values: np.ndarray) -> list[str]:
    """The different values, the most frequent first."""
    return [str(value) for value in pd.Series(values, dtype=object).dropna().value_counts().index]


def _columns(var: pd.DataFrame, names: tuple[str, ...]) -> list[int]:
    """Places of columns with one of the names, in the order of the names, whatever their capitals and signs."""
    plain = [re.sub(r"[\W_]+", "", str(column)).lower() for column in var.columns]
    return sorted((i for i, name in enumerate(plain) if name in names), key=lambda i: names.index(plain[i]))
