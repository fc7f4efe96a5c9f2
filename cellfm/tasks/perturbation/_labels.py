"""Labels of conditions to perturbed genes: pairs, guides of a gene, words for control, and rules of the user."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cellfm.errors import InputError

Condition = tuple[str, ...]
"""Perturbed genes, sorted; none for control."""

CONTROL: Condition = ()
MOST_GENES = 2
"""Genes perturbed at once."""
CONTROL_WORDS = ("ctrl", "control", "non-targeting", "NT", "NegCtrl", "safe-targeting", "scramble", "unperturbed")
"""The usual labels of control, for messages; `is_control_word` has all."""
LabelRule = str | Mapping[str, Any] | Callable[[str], Any]
"""How the user reads labels: a separator, some labels and what they mean, or a function of a label."""

_NUMBERED = (
    "non?target(?:t?ing)?(?:control)?|neg(?:ative)?(?:ctrl|control)|safe(?:target(?:t?ing)?|harbou?r)|scrambled?|"
    "ctrl|ctl|control|ntctrl|ntc|nt"
)
_WHOLE = "unperturbed|untransduced|unedited|wildtype|wt|mock"
_CONTROL = re.compile(rf"(?:(?:sgrna|grna|sg|sh|si)?(?:{_NUMBERED})(?:sgrna|grna|guide|sg|g)?s?\d*)+|{_WHOLE}")
_STRONG = re.compile(r"[+|,;&]|__+")
"""What stands between two genes and is in the name of none."""
_WEAK = re.compile(r"[_ /:]")
"""What may stand between two genes, or within the name of one. A hyphen may not: readthrough genes are named A-B."""
_PREFIX = re.compile(
    r"(?:(?:sgRNA|gRNA|shRNA|siRNA|crRNA|sg|sh|si|cr)[\s_.:-]*"
    r"|(?:sg|sh|si|cr|guide|KO|KD|OE|CRISPR(?:i|a|n|ko)?)[\s_.:-]+)"
)
_REST = re.compile(r"[\s_.:#(/-]")
_TOKEN = re.compile(
    r"\d+|[A-Za-z]|[ACGT]{12,}|[+-]|p[A-Z]{2,4}\d{2,5}|ENST\d+|(?:P\d)+"
    r"|(?:sgRNA|gRNA|shRNA|siRNA|crRNA|sg|sh|si|cr|g|guide|gd|KO|KD|OE|KI|knockout|knockdown|overexpression|activation"
    r"|CRISPR(?:i|a|n|ko)?|exon|ex|clone|cl|rep|v|only)\d*[a-d]?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reading:
    """What a label means."""

    genes: Condition
    unknown: tuple[str, ...] = ()
    """Names among them that are no known genes."""
    guide: bool = False
    """The label has more than the names of the genes: the guide, or how they were perturbed."""


def is_control_word(text: str) -> bool:
    """Whether a label is a usual word for control, in any case and with any number: ``NT-1``, ``NegCtrl0_NegCtrl3``."""
    return bool(_CONTROL.fullmatch(re.sub(r"[\s_.:+|-]", "", text.lower())))


def is_guide_word(text: str) -> bool:
    """Whether a text says which guide of a gene, or how it was perturbed: ``1``, ``sg2``, ``KO``, ``P1P2``."""
    tokens = [token for token in re.split(r"[\s_.:#()/-]+", text) if token]
    return bool(tokens) and all(map(_TOKEN.fullmatch, tokens))


def name_parts(labels: Iterable[str]) -> list[str]:
    """All parts of labels that may be the name of a gene, whatever stands between them."""
    found: set[str] = set()
    for label in labels:
        for part in (label.strip(), *_parts(label)):
            bare = part[match.end() :] if (match := _PREFIX.match(part)) else part
            for text in (part, bare):
                ends = [len(text), *(match.start() for match in _REST.finditer(text))]
                starts = [0, *(match.end() for match in _WEAK.finditer(text))]
                found |= {text[start:end] for start in starts for end in ends if start < end}
    return sorted(part for part in found if not is_guide_word(part) and not is_control_word(part))


def read_label(label: str, known: Collection[str], control: Collection[str] = ()) -> Reading:
    """The genes that a label names: ``A``, ``A+B``, ``A_B``, ``A+ctrl``, or guides such as ``A_1``, ``sgA``, ``A KO``.

    Parameters
    ----------
    known
        Names of genes. A label is only taken apart at an underscore, space, slash or colon where both parts are among
        them, and only where it is not among them itself.
    control
        Labels of control beside the usual words.

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
    if len(parts) > 1 and any(reading.unknown for reading in readings):  # as +, in the place of a guide
        whole = _gene_or_pair(label, known, control)
        readings = readings if whole.unknown else [whole]
    together = _together(readings)
    if not all(parts) or len(together.genes) > MOST_GENES:
        raise InputError(
            f"The condition {label!r} names no one or two genes. Expected control ('ctrl', 'control' or control=), "
            "'A', 'A+ctrl', 'A+B' or 'A_B', or a rule: parse_labels=."
        )
    return together


def apply_rule(rule: LabelRule, label: str, control: Collection[str] = ()) -> Reading | bool | None:
    """What a label means by the rule of the user; None for cells to leave out, False where the rule says nothing.

    Labels of `control` are control whatever the rule is, and name no gene where they stand beside one.

    Raises
    ------
    InputError
        The rule gives something else than names of genes.
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
    """Check what the user reads labels by.

    Raises
    ------
    InputError
        It is no separator, no mapping and no function.
    """
    if rule == "" or not (rule is None or isinstance(rule, str | Mapping) or callable(rule)):
        raise InputError(
            f"parse_labels must be a separator such as '_', a mapping of labels to genes, or a function, not {rule!r}."
        )


def _condition(label: str, genes: Collection[str]) -> Condition:
    found = tuple(sorted(set(genes)))
    if len(found) > MOST_GENES or not all(found):
        raise InputError(f"parse_labels= reads {label!r} as {', '.join(map(repr, found))}; expected one or two genes.")
    return found


def _without_control(parts: Iterable[str], control: Collection[str]) -> list[str]:
    return [part for part in map(str.strip, parts) if part not in control and not is_control_word(part)]


def _parts(label: str) -> list[str]:
    return [part.strip() for part in _STRONG.split(label)]


def _gene_or_pair(text: str, known: Collection[str], control: Collection[str]) -> Reading:
    """What stands between stronger separators; unknown where it is neither a gene nor a pair."""
    if text in known:
        return Reading((text,))
    return _pair(text, known, control) or _gene(text, known, control) or Reading((text,), (text,))


def _gene(text: str, known: Collection[str], control: Collection[str]) -> Reading | None:
    """One gene, or control, or a guide of a gene; None where the text is neither."""
    if text in known:
        return Reading((text,))
    if text in control or is_control_word(text):
        return Reading(CONTROL)
    if prefix := _PREFIX.match(text):
        found = _gene(text[prefix.end() :], known, control) if text[prefix.end() :] else None
        return None if found is None else Reading(found.genes, guide=True)
    for match in reversed(list(_REST.finditer(text))):  # the longest name first
        if text[: match.start()] in known and is_guide_word(text[match.start() :]):
            return Reading((text[: match.start()],), guide=True)
    return None


def _pair(text: str, known: Collection[str], control: Collection[str]) -> Reading | None:
    """Two parts that are both genes or control; None where there is no such split, or more than one."""
    found: list[Reading] = []
    for match in _WEAK.finditer(text):
        sides = [_gene(side.strip(" _"), known, control) for side in (text[: match.start()], text[match.end() :])]
        if all(side is not None for side in sides):
            found.append(_together([side for side in sides if side is not None]))
    exact = [reading for reading in found if not reading.guide] or found
    return exact[0] if len({reading.genes for reading in exact}) == 1 else None


def _together(readings: Iterable[Reading]) -> Reading:
    readings = list(readings)
    genes = {gene for reading in readings for gene in reading.genes}
    unknown = {name for reading in readings for name in reading.unknown}
    return Reading(tuple(sorted(genes)), tuple(sorted(unknown)), any(reading.guide for reading in readings))
