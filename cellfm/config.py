"""Configuration as data: frozen, validated when made, JSON both ways."""

import dataclasses
import difflib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from cellfm.errors import InputError

MAX_LAYERS = 10_000
"""A file that says more is damaged; so many names alone take a while."""


class _Config:
    """Conversion from and to JSON, and errors that name the field, for every configuration."""

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
        except (ValueError, RecursionError) as error:  # no JSON, numbers of thousands of digits, endless nesting
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
        Maximum number of genes of a cell that become tokens; from larger cells a sample is drawn.
    lora_rank
        Rank of the low-rank adapters, 0 for none.
    feed_forward
        ``"sglu"`` as published, or ``"ffn"``: a plain feed-forward network of as many parameters (an ablation).
    norm
        ``"deepnorm"`` as published, or ``"prenorm"``: LayerNorm before each sublayer (an ablation).
    retention
        ``"linear"`` as published, or ``"decay"``: RetNet's parallel form, in which attention decays with the distance
        of gene ids; its cost grows with the square of the number of genes (an ablation).
    depth_tokens
        Two additional tokens after CLS, with the depth before and after thinning (pretraining option).
    zero_modelling
        Decoders that also predict whether a gene is expressed at all (pretraining option).
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
            self._check(getattr(self, field) < 2**31, field, "below 2**31")
        self._check(self.n_layers <= MAX_LAYERS, "n_layers", f"{MAX_LAYERS:,} or less")
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
        """Tokens of a cell that are not genes: CLS and, optionally, two for depth."""
        return 3 if self.depth_tokens else 1

    @property
    def is_published_form(self) -> bool:
        """Whether the layers are those of the published network, for which faster code exists."""
        return self.norm == "deepnorm" and self.retention == "linear"


PUBLISHED = {
    "80M": ModelConfig(n_layers=2, d_model=1536, n_heads=48, n_genes=27855),
    "800M": ModelConfig(n_layers=40, d_model=1536, n_heads=48, n_genes=24078),
}
"""The published checkpoints, by name."""


MODEL_PRESETS: dict[str, dict[str, int]] = {
    "mini": {"n_layers": 2, "d_model": 128, "n_heads": 8, "d_value": 64},
    **{
        name: {"n_layers": known.n_layers, "d_model": known.d_model, "n_heads": known.n_heads}
        for name, known in PUBLISHED.items()
    },
}
"""Shapes of networks by name; the number of genes comes from the corpus."""


@dataclass(frozen=True)
class TrainConfig(_Config):
    """How a network is trained; the defaults are the paper's objective with a recipe for one machine.

    Parameters
    ----------
    steps
        Updates of the weights.
    batch_size
        Cells per update, over all processes.
    n_chunks
        Chunks of 64 tokens computed at once, which limits the memory. A batch that needs more is accumulated.
    learning_rate, warmup_steps, schedule, final_rate
        The rate rises over `warmup_steps`, then stays (``"constant"``) or falls as a cosine to
        ``final_rate * learning_rate`` at the last step.
    optimizer, beta1, beta2, epsilon, weight_decay
        ``"adam"`` (decay added to the gradient, as in the paper) or ``"adamw"`` (decoupled). Embeddings, norms and
        scalars do not decay.
    clip, clip_norm
        Gradients are clipped to `clip_norm` each (``"tensor"``, as in the paper), together (``"global"``) or not.
    dropout
        Dropout rate in the last layer.
    precision, loss_scale, loss_scale_window
        Type of the matrix products. With float16 the loss is scaled, initially by `loss_scale`; the scale is doubled
        after each `loss_scale_window` steps without overflow, and halved at an overflow, whose step is skipped.
    recompute
        Compute the activations of each layer again in the backward pass instead of keeping them (JAX only).
    target_fraction, hide_fraction
        Fraction of a cell's genes that are targets, and fraction of the targets whose values are hidden.
    gene_weight, cell_weight
        Weights of the masked losses of the gene-wise and the cell-wise decoder; 0 turns one off (an ablation).
    zero_fraction
        Zero modelling: number of unexpressed genes shown for each expressed gene, 0 for none.
    thin_probability
        Fraction of the cells whose counts are thinned.
    panel_probability, panel_least
        Fraction of the cells that are restricted to a random gene panel, and the minimum fraction of genes in a panel.
    train_genes
        Maximum number of genes of a cell in training, sampled as for `max_genes`; None for `max_genes`.
    contrast_weight, contrast_temperature
        Contrastive loss (InfoNCE): a second view of each cell is drawn, and CLS of the two views must be recognised
        among the batch.
    type_weight, type_column
        Cell-type loss: CLS of labelled cells of the same source and type must be similar (supervised contrast).
    batch_by
        Column of the corpus: each batch comes from one of its values, so that cells are contrasted with similar cells.
    start
        Weights at the start: ``"random"``, or ``"coexpression"``: CLS starts as the principal components of the
        corpus (see `cellfm.train._start`).
    refine_steps
        Steps by which that start is refined: gene vectors and the way of CLS through the first layer, by contrast.
    profile_dims
        Dimensions of the gene vectors of that start that say in which cell types and sources a gene is expressed.
    gene_rate, decoder_rate, head_rate, other_rate
        Learning rates of the gene table, of the decoders, of weights that an objective adds, and of all other weights,
        as multiples of `learning_rate`; 0 keeps them fixed.
    validate_every, n_validation, checkpoint_every, keep_checkpoints, log_every
        Steps between validations, cells per validation, steps between checkpoints, number of checkpoints kept, steps
        between lines of the log.
    random_state
        Seed of everything.
    shard_optimizer, shard_weights
        Distribute Adam's moments over the devices, and with `shard_weights` also the weights and their gradients, which
        are gathered layer by layer (JAX only). This changes memory, not numbers.
    """

    steps: int = 1000
    batch_size: int = 128
    n_chunks: int = 96
    learning_rate: float = 3e-4
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "cosine"
    final_rate: float = 0.1
    optimizer: Literal["adam", "adamw"] = "adam"
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 1e-5
    clip: Literal["tensor", "global", "none"] = "tensor"
    clip_norm: float = 1.0
    dropout: float = 0.1
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    loss_scale: float = 1.0
    loss_scale_window: int = 1000
    recompute: bool = False
    target_fraction: float = 0.2
    hide_fraction: float = 0.8
    gene_weight: float = 1.0
    cell_weight: float = 1.0
    zero_fraction: float = 0.0
    thin_probability: float = 0.0
    panel_probability: float = 0.0
    panel_least: float = 0.3
    train_genes: int | None = None
    contrast_weight: float = 0.0
    contrast_temperature: float = 0.1
    type_weight: float = 0.0
    type_column: str = "cell_type"
    batch_by: str | None = None
    start: Literal["random", "coexpression"] = "random"
    refine_steps: int = 0
    profile_dims: int = 0
    gene_rate: float = 1.0
    decoder_rate: float = 1.0
    head_rate: float = 1.0
    other_rate: float = 1.0
    validate_every: int = 500
    n_validation: int = 1000
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 10
    random_state: int = 0
    shard_optimizer: bool = False
    shard_weights: bool = False

    def __post_init__(self) -> None:
        counts = (
            "steps",
            "batch_size",
            "n_chunks",
            "loss_scale_window",
            "n_validation",
            "keep_checkpoints",
            "log_every",
        )
        for field in (*counts, "validate_every", "checkpoint_every"):
            self._check(_is_count(getattr(self, field)), field, "a whole number above 0")
        for field in ("warmup_steps", "refine_steps", "profile_dims"):
            self._check(_is_count(getattr(self, field), least=0), field, "a whole number, 0 or more")
        seed = self.random_state
        self._check(_is_count(seed, least=0) and seed < 2**32, "random_state", "a whole number from 0 to 2**32 - 1")
        self._check(self.train_genes is None or _is_count(self.train_genes), "train_genes", "a whole number above 0")
        shares = ("final_rate", "target_fraction", "hide_fraction", "thin_probability")
        for field in (*shares, "panel_probability", "panel_least"):
            self._check(_is_number(getattr(self, field)) and 0 <= getattr(self, field) <= 1, field, "between 0 and 1")
        for field in ("dropout", "beta1", "beta2"):
            self._check(_is_number(getattr(self, field)) and 0 <= getattr(self, field) < 1, field, "from 0 to below 1")
        weights = ("gene_weight", "cell_weight", "contrast_weight", "type_weight", "zero_fraction", "weight_decay")
        for field in (*weights, "gene_rate", "decoder_rate", "head_rate", "other_rate"):
            self._check(_is_number(getattr(self, field)) and getattr(self, field) >= 0, field, "a number, 0 or more")
        for field in ("learning_rate", "epsilon", "clip_norm", "loss_scale", "contrast_temperature"):
            self._check(_is_number(getattr(self, field)) and getattr(self, field) > 0, field, "a number above 0")
        for field, choices in (
            ("schedule", ("constant", "cosine")),
            ("optimizer", ("adam", "adamw")),
            ("clip", ("tensor", "global", "none")),
            ("precision", ("float32", "float16", "bfloat16")),
            ("start", ("random", "coexpression")),
            ("recompute", (False, True)),
            ("shard_optimizer", (False, True)),
            ("shard_weights", (False, True)),
        ):
            self._check(getattr(self, field) in choices, field, f"one of {choices}")
        self._check(_is_name(self.type_column), "type_column", "the name of a column")
        self._check(self.batch_by is None or _is_name(self.batch_by), "batch_by", "the name of a column, or None")
        losses = (self.gene_weight, self.cell_weight, self.contrast_weight, self.type_weight)
        self._check(any(losses), "gene_weight", "above 0 unless another loss is")
        for field in ("refine_steps", "profile_dims"):
            allowed = not getattr(self, field) or self.start == "coexpression"
            self._check(allowed, field, "0 unless start is 'coexpression'")

    @property
    def n_views(self) -> int:
        """Views of a cell in a batch."""
        return 2 if self.contrast_weight else 1


@dataclass(frozen=True)
class ClusterConfig(_Config):
    """Machines that train together.

    Parameters
    ----------
    nodes
        Host names or addresses, the same list on all machines. The processes connect to the first one.
    workers_per_node
        Number of processes on each machine: one for each NPU.
    port
        Free port of the first machine.
    """

    nodes: list[str]
    workers_per_node: int = 8
    port: int = 8118

    def __post_init__(self) -> None:
        named = isinstance(self.nodes, list) and all(isinstance(node, str) and node for node in self.nodes)
        self._check(named and len(self.nodes) > 0, "nodes", "a list of host names or addresses")
        self._check(len(set(self.nodes)) == len(self.nodes), "nodes", "a list that names each machine once")
        self._check(_is_count(self.workers_per_node), "workers_per_node", "a whole number above 0")
        self._check(_is_count(self.port) and self.port < 65536, "port", "a whole number from 1 to 65535")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)
