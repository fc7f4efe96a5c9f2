"""Learning to tell classes of cells, with the network below the head or on top of it as it is."""

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pandas as pd
from mindspore import nn, ops

from cellfm.config import TrainConfig
from cellfm.data import TokenBatch
from cellfm.model import CellFM
from cellfm.nn import CellEncoder, CellFMNetwork, MLPHead, QueryHead, draw_head, head_weights, set_head
from cellfm.train._classify_feed import TokenBatches, chunks_needed, default_chunks
from cellfm.train._finetune import Method, finetune

VALIDATIONS_PER_EPOCH = 2


class OfCls(nn.Cell):
    """The loss of a head on CLS, with the network that gives it."""

    def __init__(self, network: CellFMNetwork, head: MLPHead) -> None:
        super().__init__(auto_prefix=False)
        self.encoder = CellEncoder(network)
        self.head = head

    def construct(
        self, gene_ids, values, visible, mask, chunk_cell, cls_row, kind, weight
    ) -> tuple[ms.Tensor, ms.Tensor]:
        cell = self.encoder(gene_ids, values, mask, chunk_cell, cls_row)
        return _with_terms(cross_entropy(self.head(cell), kind, weight))


class OfNetwork(nn.Cell):
    """The same for networks whose CLS has no short cut (the ablations)."""

    def __init__(self, network: CellFMNetwork, head: MLPHead) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.head = head

    def construct(
        self, gene_ids, values, visible, mask, chunk_cell, cls_row, kind, weight
    ) -> tuple[ms.Tensor, ms.Tensor]:
        cell, _, _, _ = self.network(gene_ids, values, visible, mask, chunk_cell, cls_row)
        return _with_terms(cross_entropy(self.head(cell), kind, weight))


class OfTokens(nn.Cell):
    """The loss of a `QueryHead`: that of both its logits."""

    def __init__(self, network: CellFMNetwork, head: QueryHead) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.head = head

    def construct(
        self, gene_ids, values, visible, mask, chunk_cell, cls_row, kind, weight
    ) -> tuple[ms.Tensor, ms.Tensor]:
        cell, tokens, _, _ = self.network(gene_ids, values, visible, mask, chunk_cell, cls_row)
        of_queries, of_cls = self.head(cell, tokens, (gene_ids, mask, chunk_cell, cls_row))
        return _with_terms(cross_entropy(of_queries, kind, weight) + cross_entropy(of_cls, kind, weight))


def cross_entropy(logits: ms.Tensor, kind: ms.Tensor, weight: ms.Tensor) -> ms.Tensor:
    """The weighted sum over cells of ``-log p(kind)``; `kind` (b,) is of no meaning where `weight` (b,) is 0."""
    own = ops.gather_elements(logits, 1, kind.expand_dims(-1)).squeeze(-1)
    return ((ops.logsumexp(logits, 1) - own) * weight).sum()


def train_classifier(
    model: CellFM,
    tokens: TokenBatch,
    kind: np.ndarray,
    weight: np.ndarray,
    held_out: np.ndarray,
    n_classes: int,
    *,
    head: dict[str, np.ndarray] | None,
    method: Method,
    lora_rank: int,
    n_epochs: int,
    batch_size: int,
    learning_rate: float,
    patience: int,
    random_state: int,
) -> tuple[CellFM, dict[str, np.ndarray], pd.DataFrame]:
    """Train a head, and by `method` the model below it; the best weights by validation loss are kept.

    Parameters
    ----------
    tokens
        Of the labelled cells.
    kind, weight, held_out
        (n_cells,) their class, how much each counts (1 on average), and whether it is for validation.
    head
        Arrays of an MLP head to start from (`mean` and `scale` of CLS among them); None for a query head, drawn anew.
    patience
        Validations without improvement after which training stops; there are two an epoch.

    Returns
    -------
    The model, the parameters of the head, and one line a validation: step, training loss, validation loss.
    """
    n_chunks = max(default_chunks(model.config), chunks_needed(tokens, model.config))
    feed = TokenBatches(tokens, model.config, kind, weight, held_out, batch_size, n_chunks, random_state)
    config = TrainConfig(
        steps=n_epochs * feed.steps_per_epoch,
        batch_size=batch_size,
        n_chunks=n_chunks,
        learning_rate=learning_rate,
        warmup_steps=min(10, feed.steps_per_epoch),
        final_rate=0.1,
        optimizer="adamw",
        weight_decay=0.01,
        clip="global",
        dropout=0.0,  # standardised, what it moves CLS by can be more than what cells differ by
        validate_every=max(1, feed.steps_per_epoch // VALIDATIONS_PER_EPOCH),
        random_state=random_state,
    )
    cell = _head(model, head, n_classes, random_state)
    tuned = finetune(
        model,
        feed,
        objective_of(cell, short_cut=model.config.is_published_form),
        method=method,
        config=config,
        lora_rank=lora_rank,
        patience=patience,
    )
    weights = head_weights(cell) | ({} if head is None else {name: head[name] for name in ("mean", "scale")})
    return model if method == "frozen" else tuned.model, weights, tuned.history


def objective_of(head: nn.Cell, *, short_cut: bool) -> Callable[[CellFMNetwork], nn.Cell]:
    """What `cf.train.finetune` takes to train a head with a network, or on one.

    `short_cut`: the network has the published form, of which CLS alone can be computed (`CellEncoder`).
    """
    if isinstance(head, QueryHead):
        return lambda network: OfTokens(network, head)
    return lambda network: OfCls(network, head) if short_cut else OfNetwork(network, head)


def _head(model: CellFM, arrays: dict[str, np.ndarray] | None, n_classes: int, random_state: int) -> nn.Cell:
    if arrays is None:
        cell = QueryHead(model.config, n_classes)
        draw_head(cell, random_state=random_state)
        return cell
    n_layers = 1 + sum(name.startswith("hidden.") for name in arrays) // 2
    cell = MLPHead(arrays["mean"], arrays["scale"], n_classes, n_layers=n_layers)
    set_head(cell, arrays)
    return cell


def _with_terms(loss: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
    return loss, loss.reshape((1,))
