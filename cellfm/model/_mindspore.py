"""The network in MindSpore, compiled for use. The only user of MindSpore outside `nn` and `train`."""

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from cellfm.config import ModelConfig
from cellfm.data import Chunks
from cellfm.nn import CellEncoder, CellFMNetwork, Outputs, QueriesAndKeys, computing, use_device


class MindSporeNetwork:
    """A network on the device of `cf.settings.device`; it may be one that is being trained."""

    def __init__(self, config: ModelConfig, network: CellFMNetwork) -> None:
        self.on_cpu = use_device() == "CPU"
        self._cells = network
        self._network = _compiled(network)
        self._encoder = _compiled(CellEncoder(network)) if config.is_published_form else None
        self._attention: dict[int, Callable[..., Any]] = {}

    def expect(self, n_tokens: int) -> None:
        """Nothing is prepared."""

    @computing()
    def cell(self, chunks: Chunks) -> np.ndarray:
        """CLS alone, (b, d)."""
        return self.all(chunks)["cell"] if self._encoder is None else self._encoder(*_tensors(chunks)).asnumpy()

    @computing()
    def all(self, chunks: Chunks) -> dict[str, np.ndarray]:
        """What `Outputs` holds, by name."""
        gene_ids, values, mask, *rest = _tensors(chunks)
        visible = ms.Tensor(np.ones_like(chunks.mask))
        computed = Outputs(*self._network(gene_ids, values, visible, mask, *rest))
        return {name: array.asnumpy() for name, array in computed._asdict().items()}

    @computing()
    def attend(self, chunks: Chunks, layer: int) -> tuple[np.ndarray, ...]:
        """Queries of CLS (b, d), queries and keys of tokens (c, s, d)."""
        if layer not in self._attention:
            self._attention[layer] = _compiled(QueriesAndKeys(self._cells, layer))
        return tuple(array.asnumpy() for array in self._attention[layer](*_tensors(chunks)))


def _tensors(chunks: Chunks) -> list[ms.Tensor]:
    arrays = (chunks.gene_ids, chunks.values, chunks.mask, chunks.chunk_cell, chunks.cls_row)
    return [ms.Tensor(array) for array in arrays]


def _compiled(cell: nn.Cell) -> Callable[..., Any]:
    """The compiled function of a cell, which itself stays as it is."""

    def forward(*arrays: ms.Tensor) -> Any:
        return cell(*arrays)

    return ms.jit(forward)
