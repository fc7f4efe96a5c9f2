"""Configuration as data: frozen, validated when made, JSON both ways."""

import dataclasses
import difflib
import json
from dataclasses import dataclass
from typing import Any, Literal, Self

from cellfm.errors import InputError


class _Config:
    """JSON both ways and errors that name the field; shared by every configuration."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Make a configuration from a dict; an unknown name is an error that suggests the nearest one."""
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in fields:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise InputError(f"{cls.__name__} has no field {name!r}.{hint} Fields: {', '.join(known)}.")
        try:
            return cls(**fields)
        except TypeError as error:
            raise InputError(f"{cls.__name__}: {error}.") from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{cls.__name__}: not valid JSON ({error}).") from None
        if not isinstance(fields, dict):
            raise InputError(f"{cls.__name__}: expected a JSON object, found {type(fields).__name__}.")
        return cls.from_dict(fields)

    def _check(self, condition: bool, field: str, expected: str) -> None:
        if not condition:
            raise InputError(f"{type(self).__name__}: {field} must be {expected}, not {getattr(self, field)!r}.")


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(frozen=True)
class ModelConfig(_Config):
    """Shape of the network (Zeng 2025, Methods, "CellFM architecture").

    Parameters
    ----------
    n_layers
        ERetNet layers, L.
    d_model
        Width of the embeddings, d.
    n_heads
        Heads of the gated attention, h; divides `d_model`.
    n_genes
        Genes of the vocabulary, V.
    d_value
        Width of the inner table of the value embedding, w.
    max_genes
        Most genes of a cell that become tokens; more are sampled.
    lora_rank
        Rank of the low-rank adapters, 0 for none.
    feed_forward
        ``"sglu"`` as published, or ``"ffn"``: a plain feed-forward network of as many parameters (an ablation).
    norm
        ``"deepnorm"`` as published, or ``"prenorm"``: LayerNorm before each sublayer (an ablation).
    retention
        ``"linear"`` as published, or ``"decay"``: RetNet's parallel form, in which what a token reads fades with the
        distance in gene ids; its cost grows with the square of the genes (an ablation).
    depth_tokens
        Two more tokens after CLS that tell the depth before and after thinning (pretraining option).
    zero_modelling
        Heads that say whether a gene is expressed at all (pretraining option).
    """

    n_layers: int
    d_model: int
    n_heads: int
    n_genes: int
    d_value: int = 256
    max_genes: int = 2048
    lora_rank: int = 0
    feed_forward: Literal["sglu", "ffn"] = "sglu"
    norm: Literal["deepnorm", "prenorm"] = "deepnorm"
    retention: Literal["linear", "decay"] = "linear"
    depth_tokens: bool = False
    zero_modelling: bool = False

    def __post_init__(self) -> None:
        for field in ("n_layers", "d_model", "n_heads", "n_genes", "d_value", "max_genes"):
            self._check(_is_count(getattr(self, field)), field, "a whole number above 0")
        self._check(_is_count(self.lora_rank, least=0), "lora_rank", "a whole number, 0 or more")
        for field, choices in (
            ("feed_forward", ("sglu", "ffn")),
            ("norm", ("deepnorm", "prenorm")),
            ("retention", ("linear", "decay")),
            ("depth_tokens", (False, True)),
            ("zero_modelling", (False, True)),
        ):
            self._check(getattr(self, field) in choices, field, f"one of {choices}")
        self._check(self.d_model % self.n_heads == 0, "n_heads", f"a divisor of d_model = {self.d_model}")

    @property
    def n_gene_rows(self) -> int:
        """Rows of the gene table: the genes and the padding, rounded up to a multiple of 8."""
        return -(-(self.n_genes + 1) // 8) * 8

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @property
    def d_inner(self) -> int:
        """Inner width of the plain feed-forward network: as many parameters as the SGLU's three matrices."""
        return 3 * self.d_model // 2

    @property
    def n_special(self) -> int:
        """Tokens of a cell that are no genes: CLS and, if asked for, two for depth."""
        return 3 if self.depth_tokens else 1

    @property
    def is_published_form(self) -> bool:
        """Whether the layers are those of the published network, for which there are shorter ways."""
        return self.norm == "deepnorm" and self.retention == "linear"


PUBLISHED = {
    "80M": ModelConfig(n_layers=2, d_model=1536, n_heads=48, n_genes=27855),
    "800M": ModelConfig(n_layers=40, d_model=1536, n_heads=48, n_genes=24078),
}
"""The published checkpoints, by name."""
