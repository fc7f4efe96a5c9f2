"""Classification of cells: the loss of a head on CLS, or on all tokens, with the network below it."""

from cellfm.config import ModelConfig
from cellfm.engines import Array, Operations, Weights
from cellfm.nn.heads import mlp_head, query_head, query_head_config
from cellfm.nn.network import embed_cells, network
from cellfm.nn.objectives import Loss, cross_entropy


def classification(config: ModelConfig, *, with_queries: bool) -> Loss:
    """The loss of a micro-batch and its terms (1,); the arrays are those of `LabelledTokens`, in its order.

    The head is ``head`` of the weights, the mean and scale of CLS that an MLP takes ``fixed``. That of a query head
    is the sum of the losses of both its logits.
    """
    cross = query_head_config(config)

    def on_cls(xp: Operations, p: Weights, arrays: tuple[Array, ...], keys: Array | None) -> tuple[Array, Array]:
        gene_ids, values, _, mask, chunk_cell, cls_row, label, weight = arrays
        cell = embed_cells(xp, config, p, values, (gene_ids, mask, chunk_cell, cls_row))
        logits = mlp_head(xp, p["head"], cell, p["fixed"]["mean"], p["fixed"]["inv_scale"])
        total = cross_entropy(xp, logits, label, weight)
        return total, total.reshape((1,))

    def on_tokens(xp: Operations, p: Weights, arrays: tuple[Array, ...], keys: Array | None) -> tuple[Array, Array]:
        gene_ids, values, visible, mask, chunk_cell, cls_row, label, weight = arrays
        layout = (gene_ids, mask, chunk_cell, cls_row)
        cell, tokens, _, _ = network(xp, config, p, values, visible, layout)
        of_queries, of_cls = query_head(xp, cross, p["head"], cell, tokens, layout)
        total = cross_entropy(xp, of_queries, label, weight) + cross_entropy(xp, of_cls, label, weight)
        return total, total.reshape((1,))

    return on_tokens if with_queries else on_cls
