"""Networks from arrays and back: every parameter carries the name it is stored under."""

import mindspore as ms
import numpy as np

from cellfm.config import ModelConfig
from cellfm.nn._lora import add_lora
from cellfm.nn._network import CellFMNetwork


def build_network(config: ModelConfig, weights: dict[str, np.ndarray], *, dropout: float = 0.1) -> CellFMNetwork:
    """The network of a configuration with the given weights, adapters included."""
    network = CellFMNetwork(config, dropout=dropout)
    if config.lora_rank:
        add_lora(network, config.lora_rank)
    for name, parameter in name_parameters(network).items():
        parameter.set_data(ms.Tensor(weights[name]))
    return network.set_train(False)


def name_parameters(network: CellFMNetwork) -> dict[str, ms.Parameter]:
    """Parameters by their place in the network, which becomes their name.

    Wrapping and merging layers leaves the names that parameters were made with behind.
    """
    parameters = dict(network.parameters_and_names())
    for name, parameter in parameters.items():
        parameter.name = name
    return parameters


def network_weights(network: CellFMNetwork) -> dict[str, np.ndarray]:
    """Arrays by parameter name."""
    return {name: parameter.asnumpy() for name, parameter in name_parameters(network).items()}
