"""CellFM: a configuration, a vocabulary and a network that turn tokens into embeddings."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cellfm.cells.tokenize import TokenBatch
from cellfm.config import ModelConfig
from cellfm.engines import Backend, Precision, start_engine
from cellfm.engines.fork import require_threads
from cellfm.errors import InputError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.arguments import checked
from cellfm.io.messages import counted
from cellfm.model._checkpoint import check_model_folder, weights_sha256, write_model
from cellfm.model._encoder import Encoder
from cellfm.model._network import CompiledNetwork
from cellfm.nn.parameters import NEGLIGIBLE, Weights, active_heads, attention_strengths, initial_weights

Output = Literal["cell", "tokens", "gene_wise", "cell_wise"]


@dataclass(frozen=True)
class Encoded:
    """Outputs of the network for cells; outputs that were not requested are None.

    Examples
    --------
    >>> from cellfm.cells import tokenize
    >>> cells = tokenize(counts, gene_ids, max_genes=model.config.max_genes)
    >>> encoded = model.encode(cells, outputs=["cell", "tokens"])
    >>> encoded.cell.shape
    (200, 256)
    """

    cell: np.ndarray | None = None
    """(n_cells, d_model) float32: the CLS token; NaN for cells without tokens."""
    tokens: np.ndarray | None = None
    """(n_tokens, d_model) float32: the genes in their context, in the order of the batch."""
    gene_wise: np.ndarray | None = None
    """(n_tokens,) float32: expression predicted from each gene's token."""
    cell_wise: np.ndarray | None = None
    """(n_tokens,) float32: expression predicted from the cell's embedding."""


@dataclass(frozen=True)
class Attended:
    """Queries and keys of a layer: the attention score from i to j is the product of i's query and j's key, by head.

    Both are at least 0. Linear attention has no softmax: scores of one reader are comparable, those of two readers are
    not.

    Examples
    --------
    >>> from cellfm.cells import tokenize
    >>> cells = tokenize(counts, gene_ids, max_genes=model.config.max_genes)
    >>> model.attend(cells).cls_query.shape
    (200, 2, 128)
    """

    cls_query: np.ndarray
    """(n_cells, n_heads, d_head) float32: queries of CLS."""
    query: np.ndarray
    """(n_tokens, n_heads, d_head) float32: queries of genes."""
    key: np.ndarray
    """(n_tokens, n_heads, d_head) float32: keys of genes."""


@dataclass(frozen=True)
class Contributions:
    """Contributions of tokens to the attention output of CLS in a layer, along directions; they add up to this output.

    Examples
    --------
    >>> from cellfm.cells import tokenize
    >>> cells = tokenize(counts, gene_ids, max_genes=model.config.max_genes)
    >>> embedding = model.encode(cells).cell
    >>> model.contributions(cells, embedding[:1] - embedding[1:2]).cls.shape
    (200, 1)
    """

    genes: np.ndarray
    """(n_tokens, n_directions) float32: contributions of genes, in the order of the batch."""
    cls: np.ndarray
    """(n_cells, n_directions) float32: contribution of CLS itself."""


class CellFM:
    """A CellFM model.

    Parameters
    ----------
    config
        Shape of the network.
    vocab
        Its genes.
    weights
        Arrays by parameter name; by default initialised at random with `random_state`.
    name
        Name of the model in the records of runs.
    backend
        Engine; see `cf.load_model`.
    precision
        Precision of the products; see `cf.load_model`.

    Examples
    --------
    >>> model = cf.load_model("mini")
    >>> model.config.d_model, len(model.vocab)
    (256, 34354)
    >>> model.save("my-model")
    """

    def __init__(
        self,
        config: ModelConfig,
        vocab: Vocabulary,
        weights: Weights | None = None,
        *,
        name: str = "unnamed",
        weights_hash: str = "",
        random_state: int = 0,
        backend: Backend = "auto",
        precision: Precision = "float32",
    ) -> None:
        if config.n_genes != len(vocab):
            raise InputError(f"The configuration has {config.n_genes:,} genes, the vocabulary {len(vocab):,}.")
        self.config = config
        self.vocab = vocab
        self.name = name
        self.backend = backend
        self.precision = precision
        self._weights_hash = weights_hash
        self._weights = initial_weights(config, random_state) if weights is None else weights
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Everything except the lock and the compiled network, which a copy compiles again."""
        return {name: value for name, value in vars(self).items() if name not in ("_encoder", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        c = self.config
        adapters = f", adapters of rank {c.lora_rank}" if c.lora_rank else ""
        return (
            f"CellFM {self.name!r}: {counted(c.n_layers, 'layer')}, width {c.d_model}, {counted(c.n_heads, 'head')}"
            f"{adapters}, {self.n_parameters / 1e6:.1f} M parameters\n  {self.vocab!r}"
        )

    @property
    def n_parameters(self) -> int:
        return sum(array.size for array in self._weights.values())

    @property
    def weights(self) -> Weights:
        """Arrays by parameter name."""
        return self._weights

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the weights as stored in a model folder."""
        if not self._weights_hash:
            self._weights_hash = weights_sha256(self._weights)
        return self._weights_hash

    @cached_property
    def _encoder(self) -> Encoder:
        engine = start_engine(self.backend, self.precision)
        return Encoder(self.config, CompiledNetwork(self.config, self._weights, engine))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """The compiled network serves one thread at a time, and no process that was forked after its first use."""
        require_threads()
        with self._lock, self._encoder.clear_memory_errors():
            yield

    def prepare(self, n_tokens: int) -> None:
        """Prepare for a number of tokens, if this makes their embedding faster; without it, `encode` decides later."""
        with self._computing():
            self._encoder.prepare(n_tokens)

    @checked
    def encode(
        self,
        batch: TokenBatch,
        *,
        outputs: Sequence[Output] = ("cell",),
        batch_size: int | None = None,
    ) -> Encoded:
        """Run the network over cells.

        Parameters
        ----------
        batch
            Tokens of the cells.
        outputs
            Fields of `Encoded` to compute; `"cell"` alone needs much less work than the others.
        batch_size
            Cells computed at once; by default the fastest number. It does not change the result.

        Raises
        ------
        DeviceMemoryError
            The device has too little memory; the message says which `batch_size` should fit. It is an `InputError`.
        """
        with self._computing():
            return Encoded(**self._encoder.run(batch, tuple(outputs), batch_size))

    @cached_property
    def active_heads(self) -> np.ndarray:
        """(n_layers, n_heads) bool: heads whose attention can change a token.

        The others add exactly zero, because some of their weights are zero (usually the gates), so their attention is
        meaningless.
        """
        return active_heads(self.config, self._weights)

    @property
    def active_layers(self) -> tuple[int, ...]:
        """Layers with active heads, from 0: those whose attention can be read."""
        return tuple(np.flatnonzero(self.active_heads.any(1)).tolist())

    @cached_property
    def attention_strengths(self) -> np.ndarray:
        """(n_layers,) float, from 0 to 1: how much the attention of a layer adds, relative to the layer that adds most.

        Estimated from the weights (norms of gate and output). 0 for inactive layers; close to 0 for layers that
        training has barely activated, whose queries and keys are mostly noise.
        """
        return attention_strengths(self.config, self._weights)

    def attention_layer(self, layer: int | None = None) -> int:
        """Number of a layer whose attention can be read, counted from 0.

        Parameters
        ----------
        layer
            Counted from 0; negative numbers count from the last. None for the last active layer that adds at least 1 %
            of what the strongest layer adds (`attention_strengths`).

        Raises
        ------
        InputError
            No such layer, an inactive one (the message lists the active ones), a model without active layers, or
            attention that is not linear.
        """
        n_layers, active = self.config.n_layers, self.active_layers
        if layer is not None and not -n_layers <= layer < n_layers:
            raise InputError(f"The layer of attention must be from {-n_layers} to {n_layers - 1}, not {layer}.")
        if self.config.retention != "linear":
            raise InputError("Attention scores need linear attention, which this model does not have.")
        if not active:
            raise InputError(
                f"Attention of {self.name!r} cannot be read: all of its {n_layers} layers are inactive. Their "
                "attention adds nothing to any token, because gates or other weights are zero."
            )
        if layer is None:
            return int(np.flatnonzero(self.attention_strengths >= NEGLIGIBLE)[-1])
        chosen = layer % n_layers
        if chosen not in active:
            raise InputError(
                f"Layer {chosen} of {self.name!r} is inactive: its attention adds nothing to any token, because gates "
                "or other weights are zero, and its queries and keys have no meaning. Active layers: "
                f"{', '.join(map(str, active))} (of 0 to {n_layers - 1})."
            )
        return chosen

    def attend(self, batch: TokenBatch, *, layer: int | None = None, batch_size: int | None = None) -> Attended:
        """Queries and keys of an active layer.

        Parameters
        ----------
        batch
            Tokens of the cells.
        layer
            Layer, counted from 0; negative numbers count from the last. By default the last active one.
        batch_size
            Cells computed at once; it does not change the result.

        Raises
        ------
        InputError
            No such layer, or an inactive one; no layer is active; the model's attention is not the linear one.
        """
        chosen = self.attention_layer(layer)
        with self._computing():
            return Attended(**self._encoder.attend(batch, chosen, batch_size))

    def contributions(
        self, batch: TokenBatch, directions: np.ndarray, *, layer: int | None = None, batch_size: int | None = None
    ) -> Contributions:
        """Contribution of each gene to the attention output of CLS in an active layer, along directions.

        Linear attention is a sum over tokens. With norm and gate held fixed, the contributions of all tokens therefore
        add up exactly to the attention output of the layer. Later norms and layers are ignored.

        Parameters
        ----------
        batch
            Tokens of the cells.
        directions
            (n_directions, d_model): vectors in the space of CLS.
        layer
            Layer, counted from 0; negative numbers count from the last. By default the last active one.
        batch_size
            Cells computed at once; it does not change the result.

        Raises
        ------
        InputError
            Directions of another shape; no such layer, or an inactive one; no layer is active; the model's attention is
            not the linear one.
        """
        chosen, directions = self.attention_layer(layer), np.asarray(directions, np.float32)
        if directions.ndim != 2 or directions.shape[1] != self.config.d_model:
            raise InputError(
                f"directions must have the shape (n_directions, {self.config.d_model}), not {directions.shape}."
            )
        with self._computing():
            return Contributions(**self._encoder.contributions(batch, directions, chosen, batch_size))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a model folder: ``config.json``, ``vocabulary.tsv`` and ``model.safetensors``.

        Raises
        ------
        InputError
            The folder exists and `overwrite` is false, it exists and is not a model folder, or it cannot be written.
        """
        check_model_folder(path, overwrite=overwrite)
        self._weights_hash = write_model(
            Path(path), self.config, self.vocab, self._weights, name=self.name, overwrite=overwrite
        )
