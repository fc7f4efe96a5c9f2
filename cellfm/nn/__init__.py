"""The network, in MindSpore: mathematics only, no AnnData, no files."""

# ruff: noqa: E402 (what is missing is said before it is imported)
from cellfm._extras import require_mindspore

require_mindspore()

from cellfm.nn._attention import QueriesAndKeys
from cellfm.nn._build import build_network, name_parameters, network_weights
from cellfm.nn._device import computing, has_npu, use_device
from cellfm.nn._dropout import Dropout, draw_dropout, dropouts
from cellfm.nn._heads import MLPHead, QueryHead, draw_head, head_weights, set_head
from cellfm.nn._inference import CellEncoder
from cellfm.nn._linear import Linear
from cellfm.nn._lora import add_lora, merge_lora
from cellfm.nn._network import CellFMNetwork, Outputs
from cellfm.nn._perturbation import PerturbationNetwork, set_spread, silence
from cellfm.nn._precision import recompute_layers, set_precision
from cellfm.nn._reversal import GradientReversal

__all__ = [
    "CellEncoder",
    "CellFMNetwork",
    "Dropout",
    "GradientReversal",
    "Linear",
    "MLPHead",
    "Outputs",
    "PerturbationNetwork",
    "QueriesAndKeys",
    "QueryHead",
    "add_lora",
    "build_network",
    "computing",
    "draw_dropout",
    "draw_head",
    "dropouts",
    "has_npu",
    "head_weights",
    "merge_lora",
    "name_parameters",
    "network_weights",
    "recompute_layers",
    "set_head",
    "set_precision",
    "set_spread",
    "silence",
    "use_device",
]
