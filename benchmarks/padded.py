"""CellFM as one writes it first: cells padded to one length, every token through every layer.

The stand-in for the published network in comparisons of speed, in use and in training: the same function of the same
weights, in MindSpore's graph mode, straight from the formulas of `docs/architecture.md`.
"""

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from cellfm.cells.tokenize import TokenBatch
from cellfm.config import ModelConfig


class PaddedCellFM(nn.Cell):
    """(b, n) padded cells to (b, d)."""

    def __init__(self, config: ModelConfig, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.config = config
        self.alpha = (2 * config.n_layers) ** 0.25
        self.w = ms.ParameterTuple([ms.Parameter(ms.Tensor(array), name=name) for name, array in weights.items()])
        self.at = {name: i for i, name in enumerate(weights)}
        self.norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=1e-7)

    def get(self, name):
        return self.w[self.at[name]]

    def dense(self, x, name):
        return ops.matmul(x, self.get(name + ".weight").T)

    def construct(self, gene_ids, values, mask):
        return self.tokens(gene_ids, self.embedded_values(values), mask, mask)[:, 0]

    def embedded_values(self, values):
        v = ops.leaky_relu(self.dense(values.expand_dims(-1), "embed.value.expand"), 0.2)
        v = ops.softmax(self.dense(v, "embed.value.mix") + self.get("embed.value.skip") * v, -1)
        return self.dense(v, "embed.value.table")

    def tokens(self, gene_ids, embedded_values, mask, visible):
        b = gene_ids.shape[0]
        x = ops.gather(self.get("embed.gene"), gene_ids, 0) + embedded_values
        x = x * mask.expand_dims(-1)
        x = ops.concat((ops.broadcast_to(self.get("embed.cls"), (b, 1, self.config.d_model)), x), 1)
        for i in range(self.config.n_layers):
            read = mask * visible if i < self.config.n_layers // 2 else mask
            keys = ops.concat((ops.ones((b, 1), ms.float32), read), 1).expand_dims(-1)
            x = self.layer(x, keys, ops.sqrt(mask.sum(-1)).reshape((b, 1, 1)), f"backbone.layers.{i}")
        return x

    def layer(self, x, keys, root, name):
        y = self.layer_norm(self.alpha * x + self.attention(x, keys, root, name + ".attention"), name + ".norm1")
        glu = self.dense(y, name + ".glu.gate") * self.dense(y, name + ".glu.value")
        return self.layer_norm(self.alpha * y + self.dense(glu, name + ".glu.output"), name + ".norm2")

    def attention(self, x, keys, root, name):
        scale = self.config.d_head**-0.5
        q = self.heads(ops.relu(self.dense(x, name + ".query")) * scale)
        k = self.heads(ops.relu(self.dense(x, name + ".key")) * scale * keys)
        v = self.heads(self.dense(x, name + ".value") / root)
        o = ops.matmul(q, ops.matmul(k.swapaxes(2, 3), v))
        o = o * ops.rsqrt(ops.maximum((o * o).mean(-1, keep_dims=True), 1e-24))
        o = o.swapaxes(1, 2).reshape(x.shape)
        return self.dense(o * ops.silu(self.dense(x, name + ".gate")), name + ".output")

    def heads(self, x):
        b, n, _ = x.shape
        return x.reshape((b, n, self.config.n_heads, self.config.d_head)).swapaxes(1, 2)

    def layer_norm(self, x, name):
        return self.norm(x, self.get(name + ".gamma"), self.get(name + ".beta"))[0]


class PaddedObjective(PaddedCellFM):
    """Both reconstruction losses of masked values, (b, n) padded cells to a number."""

    def construct(self, gene_ids, values, visible, mask, target):
        shown = visible.expand_dims(-1)
        embedded = self.embedded_values(values) * shown + self.get("embed.hidden") * (1 - shown)
        x = self.tokens(gene_ids, embedded, mask, visible)
        cell, tokens = x[:, :1], x[:, 1:]
        hidden = ops.leaky_relu(self.dense(tokens, "gene_decoder.inner"), 0.2)
        gene_wise = self.dense(hidden, "gene_decoder.output").squeeze(-1)
        genes = ops.gather(self.get("embed.gene"), gene_ids, 0)
        cell_wise = (ops.sigmoid(self.dense(genes, "cell_decoder.inner")) * cell).sum(-1)
        return (((gene_wise - values) ** 2 + (cell_wise - values) ** 2) * target).sum()


class PaddedEncoder:
    """Embeds cells in the order they come, `batch_size` at once, all padded to `length`."""

    def __init__(self, config: ModelConfig, weights: dict[str, np.ndarray], *, batch_size: int, length: int = 2048):
        self.network = PaddedCellFM(config, weights)
        self.network.construct = ms.jit(self.network.construct)
        self.batch_size, self.length = batch_size, length

    def encode(self, batch: TokenBatch) -> np.ndarray:
        parts = []
        for start in range(0, batch.n_cells, self.batch_size):
            cells = np.arange(start, min(start + self.batch_size, batch.n_cells))
            lengths = batch.lengths[cells]
            filled = np.arange(self.length) < lengths[:, None]
            filled = np.concatenate((filled, np.zeros((self.batch_size - len(cells), self.length), bool)))
            gene_ids, values = np.zeros(filled.shape, np.int32), np.zeros(filled.shape, np.float32)
            span = slice(batch.indptr[cells[0]], batch.indptr[cells[-1] + 1])
            gene_ids[filled], values[filled] = batch.gene_ids[span], batch.values[span]
            arrays = (gene_ids, values, filled.astype(np.float32))
            parts.append(self.network(*map(ms.Tensor, arrays)).asnumpy()[: len(cells)])
        return np.concatenate(parts)
