"""Read the perturbed genes from the label of a condition: pairs, guides, words for control, rules of the user."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cellfm.errors import InputError

Condition = tuple[str, ...]
"""Perturbed genes, sorted; empty for control."""

CONTROL: Condition = ()
MAX_GENES = 2
"""Maximum number of genes that are perturbed at once."""
CONTROL_WORDS = ("ctrl", "control", "non-targeting", "NT", "NegCtrl", "safe-targeting", "scramble", "unperturbed")
"""Common labels of control, for messages; `is_control_word` knows more."""
LabelRule = str | Mapping[str, Any] | Callable[[str], Any]
"""How to read labels: a separator, a mapping of labels to genes, or a function of a label."""

_NUMBERED = (
    "non?target(?:t?ing)?(?:control)?|neg(?:ative)?(?:ctrl|control)|safe(?:target(?:t?ing)?|harbou?r)|scrambled?|"
    "ctrl|ctl|control|ntctrl|ntc|nt"
)
_WHOLE = "unperturbed|untransduced|unedited|wildtype|wt|mock"
_CONTROL = re.compile(rf"(?:(?:sgrna|grna|sg|sh|si)?(?:{_NUMBERED})(?:sgrna|grna|guide|sg|g)?s?\d*)+|{_WHOLE}")
_STRONG = re.compile(r"[+|,;&]|__+")
"""Separators of two genes that no gene name contains."""
_WEAK = re.compile(r"[_ /:]")
"""Characters that may separate two genes, or be part of a gene name. A hyphen never separates: readthrough genes are
named A-B."""
_PREFIX = re.compile(
    r"(?:(?:sgRNA|gRNA|shRNA|siRNA|crRNA|sg|sh|si|cr)[\s_.:-]*"
    r"|(?:sg|sh|si|cr|guide|KO|KD|OE|CRISPR(?:i|a|n|ko)?)[\s_.:-]+)"
)
_REST = re.compile(r"[\s_.:#(/-]")
_TOKEN = re.compile(
    r"\d+|[A-Za-z]|[ACGT]{12,}|[+-]|(?-i:p[A-Z]{2,4})\d{2,5}|ENST\d+|(?:P\d)+"
    r"|(?:sgRNA|gRNA|shRNA|siRNA|crRNA|sg|sh|si|cr|g|guide|gd|KO|KD|OE|KI|knockout|knockdown|overexpression|activation"
    r"|CRISPR(?:i|a|n|ko)?|exon|ex|clone|cl|rep|v|only)(?:\d+[a-d]?)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reading:
    """What a label means."""

    genes: Condition
    unknown: tuple[str, ...] = ()
    """Those of `genes` that are not known genes."""
    guide: bool = False
    """Whether the label also names a guide or a way of perturbing."""


def is_control_word(text: str) -> bool:
    """Whether a label is a common word for control, with any case and number: ``NT-1``, ``NegCtrl0_NegCtrl3``."""
    return bool(_CONTROL.fullmatch(re.sub(r"[\s_.:+|-]", "", text.lower())))


def is_guide_word(text: str) -> bool:
    """Whether a text names a guide of a gene, or how the gene was perturbed: ``1``, ``sg2``, ``KO``, ``P1P2``."""
    tokens = [token for token in re.split(r"[\s_.:#()/-]+", text) if token]
    return bool(tokens) and all(map(_TOKEN.fullmatch, tokens))


def name_parts(labels: Iterable[str]) -> list[str]:
    """All parts of labels that may be gene names, whatever separates them."""
    names: set[str] = set()
    for label in labels:
        for part in (label.strip(), *_parts(label)):
            bare = part[match.end() :] if (match := _PREFIX.match(part)) else part
            for text in (part, bare):
                ends = [len(text), *(match.start() for match in _REST.finditer(text))]
                starts = [0, *(match.end() for match in _WEAK.finditer(text))]
                names |= {text[start:end] for start in starts for end in ends if start < end}
    return sorted(part for part in names if not is_guide_word(part) and not is_control_word(part))


def read_label(label: str, known: Collection[str], control: Collection[str] = ()) -> Reading:
    """The genes that a label names: ``A``, ``A+B``, ``A_B``, ``A+ctrl``, or guides such as ``A_1``, ``sgA``, ``A KO``.

    Parameters
    ----------
    known
        Names of genes. A label is split at an underscore, space, slash or colon only if both parts are known genes
        and the whole label is not.
    control
        Labels of control, in addition to the common words.

    Raises
    ------
    InputError
        The label names more than two genes, or has an empty part.
    """
    label = label.strip()
    if label in control or (label not in known and is_control_word(label)) or label.lower() in ("ctrl", "control"):
        return Reading(CONTROL)
    parts = _parts(label)
    readings = [_gene_or_pair(part, known, control) for part in parts]
    if len(parts) > 1 and any(reading.unknown for reading in readings):  # "+" before the number of a guide
        whole = _gene_or_pair(label, known, control)
        readings = readings if whole.unknown else [whole]
    together = _together(readings)
    if not all(parts) or len(together.genes) > MAX_GENES:
        raise InputError(
            f"The condition {label!r} names no one or two genes. Expected control ('ctrl', 'control' or control=), "
            "'A', 'A+ctrl', 'A+B' or 'A_B', or a rule: parse_labels=."
        )
    return together


def apply_rule(rule: LabelRule, label: str, control: Collection[str] = ()) -> Reading | bool | None:
    """Read a label by the user's rule; None for cells to leave out, False if the rule does not cover the label.

    Labels in `control` mean control whatever the rule is, and add no gene when they occur beside one.

    Raises
    ------
    InputError
        The rule returns something other than names of genes.
    """
    if label in control:
        return Reading(CONTROL)
    if isinstance(rule, str):
        return Reading(_condition(label, _without_control(label.split(rule), control)))
    if isinstance(rule, Mapping):
        if label not in rule:
            return False
        given = rule[label]
    else:
        given = rule(label)
    if given is None:
        return None
    if isinstance(given, str):
        given = _without_control(given.split("+"), control) if given else []
    if not isinstance(given, Collection) or not all(isinstance(gene, str) for gene in given):
        raise InputError(
            f"parse_labels= gives {given!r} for the label {label!r}; expected the names of one or two genes such as "
            "'A', 'A+B' or ['A', 'B'], 'ctrl' for control, or None to leave its cells out."
        )
    return Reading(_condition(label, given))


def require_rule(rule: LabelRule | None) -> None:
    """Check the type of a rule.

    Raises
    ------
    InputError
        The rule is not a separator, mapping or function.
    """
    if rule == "" or not (rule is None or isinstance(rule, str | Mapping) or callable(rule)):
        raise InputError(
            f"parse_labels must be a separator such as '_', a mapping of labels to genes, or a function, not {rule!r}."
        )


def _condition(label: str, genes: Collection[str]) -> Condition:
    condition = tuple(sorted(set(genes)))
    if len(condition) > MAX_GENES or not all(condition):
        raise InputError(
            f"parse_labels= reads {label!r} as {', '.join(map(repr, condition))}; expected one or two genes."
        )
    return condition


def _without_control(parts: Iterable[str], control: Collection[str]) -> list[str]:
    return [part for part in map(str.strip, parts) if part not in control and not is_control_word(part)]


def _parts(label: str) -> list[str]:
    return [part.strip() for part in _STRONG.split(label)]


def _gene_or_pair(text: str, known: Collection[str], control: Collection[str]) -> Reading:
    """Read a part of a label that has no strong separator; unknown if it is neither a gene nor a pair."""
    if text in known:
        return Reading((text,))
    return _pair(text, known, control) or _gene(text, known, control) or Reading((text,), (text,))


def _gene(text: str, known: Collection[str], control: Collection[str]) -> Reading | None:
    """A gene, control, or a guide of a gene; None if the text is none of these."""
    if text in known:
        return Reading((text,))
    if text in control or is_control_word(text):
        return Reading(CONTROL)
    if prefix := _PREFIX.match(text):
        gene = _gene(text[prefix.end() :], known, control) if text[prefix.end() :] else None
        return None if gene is None else Reading(gene.genes, guide=True)
    for match in reversed(list(_REST.finditer(text))):  # the longest name first
        if text[: match.start()] in known and is_guide_word(text[match.start() :]):
            return Reading((text[: match.start()],), guide=True)
    return None


def _pair(text: str, known: Collection[str], control: Collection[str]) -> Reading | None:
    """Two parts that are both genes or control; None if there is no such split, or more than one."""
    splits: list[Reading] = []
    for match in _WEAK.finditer(text):
        sides = [_gene(side.strip(" _"), known, control) for side in (text[: match.start()], text[match.end() :])]
        if all(side is not None for side in sides):
            splits.append(_together([side for side in sides if side is not None]))
    exact = [reading for reading in splits if not reading.guide] or splits
    return exact[0] if len({reading.genes for reading in exact}) == 1 else None


def _together(readings: Iterable[Reading]) -> Reading:
    readings = list(readings)
    genes = {gene for reading in readings for gene in reading.genes}
    unknown = {name for reading in readings for name in reading.unknown}
    return Reading(tuple(sorted(genes)), tuple(sorted(unknown)), any(reading.guide for reading in readings))
