"""`cf.train.plan`: estimate the cost of a training from shapes alone."""

import math
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cellfm.cells.chunk import CHUNK
from cellfm.config import ModelConfig, TrainConfig
from cellfm.errors import DataWarning, InputError
from cellfm.io.messages import counted
from cellfm.nn.parameters import parameter_shapes, projections
from cellfm.train._recipes import Source, model_of, preset_genes, read_config

GB = 1e9
ASCEND = {"Ascend 910": (256.0, 32.0)}
"""Peak in TFLOP/s of half precision and memory in GB, by device (Huawei's data sheet)."""
_FLOAT, _HALF = 4, 2  # bytes
CPU_ACTIVATIONS = 5.4
"""Factor by which MindSpore on a CPU holds more than the backward pass needs (benchmarks/plan.py)."""


@dataclass(frozen=True)
class Plan:
    """The estimated cost of a training; see `plan`."""

    model: ModelConfig
    train: TrainConfig
    n_parameters: int
    devices: int
    device: str
    memory: Mapping[str, float]
    """Bytes on each device, by purpose."""
    capacity: float | None
    """Memory of a device in bytes; None if unknown."""
    flops_forward: float
    """Floating-point operations of one cell, forward; a multiply-add is two."""
    flops_training: float
    """The same of a training step: all views of the cell, forward and backward."""
    steps_per_epoch: int | None
    days_per_epoch: float | None
    days: float
    """Of all `train.steps`."""
    utilisation: float
    tflops: float
    """Peak of a device."""

    @property
    def total_memory(self) -> float:
        """Bytes on each device."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool | None:
        """Whether a device has the memory; None if that is unknown."""
        return None if self.capacity is None else self.total_memory <= self.capacity

    def __repr__(self) -> str:
        m, t = self.model, self.train
        total, of = self.total_memory / GB, "" if self.capacity is None else f" of {self.capacity / GB:,.0f} GB"
        least = "" if self.device == "CPU" else "at least "  # the overhead of MindSpore was measured only there
        lines = [
            f"Plan: {counted(m.n_layers, 'layer')} of width {m.d_model}, {m.n_genes:,} genes, on "
            f"{self.devices} x {self.device}",
            f"  parameters          {self.n_parameters:,}",
            f"  memory per device   {least}{total:,.2f} GB{of}{'' if self.fits in (True, None) else ': TOO MUCH'}",
            *(f"    {name:<18}{n_bytes / GB:>8,.2f} GB" for name, n_bytes in self.memory.items()),
            f"  operations          {_scaled(self.flops_forward)} a cell forward, "
            f"{_scaled(self.flops_training)} in training",
            f"  rate                {self.tflops:,.4g} TFLOP/s a device, used to {self.utilisation:.0%}",
            f"  all {counted(t.steps, 'step')} of {counted(t.batch_size, 'cell')}: {_time(self.days)}",
        ]
        if self.steps_per_epoch is not None and self.days_per_epoch is not None:
            lines.append(f"  one epoch: {counted(self.steps_per_epoch, 'step')}, {_time(self.days_per_epoch)}")
        return "\n".join(lines)


def plan(
    config: Source = "mini",
    *,
    devices: int = 1,
    cells: float | None = None,
    genes_per_cell: int = 1000,
    utilisation: float = 0.4,
    device: str | float = "Ascend 910",
    memory: float | None = None,
) -> Plan:
    """Estimate parameters, memory, operations and days of a training, without computing on the device.

    With width d, heads of k, L layers, inner width w of the value table and T tokens of a cell (its genes and CLS,
    filled up to whole chunks of 64), the matrix products of a cell take, forward and in multiply-adds,

        T (L (8 d^2 + 2 d k) + (w + w^2 + w d) + (2 d^2 + d))

    for the layers (eight projections, K^T V and Q (K^T V)), the value embedding and the two decoders; an operation is
    half a multiply-add. Training takes three times that (forward, and gradients of tokens and weights), four times in
    the layers if they are recomputed, for each view of a cell. Elementwise operations are ignored.

    Memory is that of float32 weights, gradients and Adam's two moments, and of what the backward pass needs of a
    micro-batch of `n_chunks` chunks: about 19 arrays of the tokens' size in a layer with its share of K^T V, one if the
    layer is recomputed (and one whole layer at a time), with 5 + 4 w / d for the embedding and 7 for the decoders. This
    is a lower bound. On a CPU, MindSpore was measured to hold 5.4 times as much, and the estimate for CPUs includes
    this factor.

    Parameters
    ----------
    config
        A preset, a TOML file or a dict, as for `pretrain`.
    devices
        Number of processes that train together, each with its own device.
    cells
        Number of cells of the corpus, for the estimates of an epoch.
    genes_per_cell
        Number of expressed known genes of a typical cell.
    utilisation
        Share of the peak performance that is reached.
    device
        ``"Ascend 910"`` (256 TFLOP/s in half precision, 32 GB), ``"CPU"`` (this machine: the rate of a NumPy matrix
        product, measured now, and its memory) or the peak of a device in TFLOP/s.
    memory
        Memory of a device in GB, if not that of `device`.

    Returns
    -------
    The plan; its repr is a table. A `DataWarning` says if the memory is not sufficient.

    Raises
    ------
    InputError
        The configuration is invalid, or a number is out of range.

    Examples
    --------
    >>> plan = cf.train.plan("800M", devices=32, cells=102e6)
    >>> plan.fits
    True
    """
    fields, train = read_config(config)
    model = model_of(fields, n_genes=preset_genes(config) or _mini_genes())
    for name, number in (("devices", devices), ("genes_per_cell", genes_per_cell)):
        if not isinstance(number, int) or number < 1:
            raise InputError(f"{name} must be a whole number above 0, not {number!r}.")
    if not 0 < utilisation <= 1:
        raise InputError(f"utilisation must be above 0 and at most 1, not {utilisation!r}.")
    if cells is not None and not cells >= 1:
        raise InputError(f"cells must be 1 or more, not {cells!r}.")
    name, tflops, capacity = _device(device)
    capacity = capacity if memory is None else memory * GB
    forward = 2 * sum(multiply_adds(model, train, genes_per_cell).values())
    training = 2 * train.n_views * _training(model, train, genes_per_cell)
    days_per_cell = training / (devices * tflops * 1e12 * utilisation) / 86_400
    per_epoch = None if cells is None else max(1, int(cells // train.batch_size))
    made = Plan(
        model=model,
        train=train,
        n_parameters=n_parameters(model),
        devices=devices,
        device=name,
        memory=memory_by_term(model, train, devices=devices, activations=CPU_ACTIVATIONS if name == "CPU" else 1.0),
        capacity=capacity,
        flops_forward=forward,
        flops_training=training,
        steps_per_epoch=per_epoch,
        days_per_epoch=None if per_epoch is None else per_epoch * train.batch_size * days_per_cell,
        days=train.steps * train.batch_size * days_per_cell,
        utilisation=utilisation,
        tflops=tflops,
    )
    if capacity is not None and not made.fits:
        warnings.warn(
            f"Too little memory: a device has {capacity / GB:,.1f} GB, and {made.total_memory / GB:,.1f} GB are "
            f"needed. Lower n_chunks ({train.n_chunks}){_other_fixes(train, devices)}.",
            DataWarning,
            stacklevel=2,
        )
    return made


def n_parameters(model: ModelConfig) -> int:
    return sum(math.prod(shape) for shape in parameter_shapes(model).values())


def multiply_adds(model: ModelConfig, train: TrainConfig, genes_per_cell: int) -> dict[str, float]:
    """Multiply-adds of one cell forward, by part: ``layers``, ``embedding``, ``decoders``."""
    d, w = model.d_model, model.d_value
    n_genes = min(genes_per_cell, train.train_genes or model.max_genes, model.max_genes)
    if train.zero_fraction:
        n_genes = min(int(n_genes * (1 + train.zero_fraction)), train.train_genes or model.max_genes)
    n_tokens = n_genes + model.n_special
    if model.retention == "linear":
        n_tokens = -(-n_tokens // CHUNK) * CHUNK
        reach = model.d_head  # K^T V and Q (K^T V)
    else:
        n_tokens = reach = (train.train_genes or model.max_genes) + model.n_special
    adapters = model.lora_rank * sum(map(sum, projections(model).values()))
    value = w + w * w + w * d
    return {
        "layers": n_tokens * model.n_layers * (8 * d * d + adapters + 2 * d * reach),
        "embedding": n_tokens * value * (2 if model.depth_tokens else 1),
        "decoders": n_tokens * (2 * d * d + d + (d * d + d if model.zero_modelling else 0)),
    }


def memory_by_term(
    model: ModelConfig, train: TrainConfig, *, devices: int = 1, activations: float = 1.0
) -> dict[str, float]:
    """Bytes on each device: ``weights``, ``gradients``, ``Adam moments``, ``activations``.

    `activations` is the memory held for the backward pass, as a multiple of the minimum. The whole weights of the
    current layer, where weights are sharded, are left out.
    """
    weights = _FLOAT * n_parameters(model)
    kept = weights / (devices if train.shard_weights else 1)
    half = 0 if train.precision == "float32" else 1
    if half:
        projections = [shape for name, shape in parameter_shapes(model).items() if name.endswith(".weight")]
        copies = _HALF * sum(map(math.prod, projections))
    return {
        "weights": kept,
        **({"half copies": copies} if half else {}),
        "gradients": kept,
        "Adam moments": 2 * (weights / devices if train.shard_optimizer else kept),
        "activations": activations * _activations(model, train, half_casts=half),
    }


def _activations(model: ModelConfig, train: TrainConfig, *, half_casts: int) -> float:
    """Bytes kept for the backward pass of a micro-batch."""
    d, w = model.d_model, model.d_value
    length = CHUNK if model.retention == "linear" else (train.train_genes or model.max_genes) + model.n_special
    array = train.n_chunks * length * d * _FLOAT
    memory = 2 * model.d_head / length if model.retention == "linear" else 3 * model.n_heads * length / d
    layer = array * (19 + memory + 4 * half_casts * _HALF / _FLOAT)
    layers = model.n_layers * array + layer if train.recompute else model.n_layers * layer
    return layers + array * (5 + 4 * w / d) + array * 7


def _training(model: ModelConfig, train: TrainConfig, genes_per_cell: int) -> float:
    """Multiply-adds of one view of a cell in a training step."""
    parts = multiply_adds(model, train, genes_per_cell)
    return 3 * sum(parts.values()) + (parts["layers"] if train.recompute else 0)


def _device(device: str | float) -> tuple[str, float, float | None]:
    """Name, peak in TFLOP/s and memory in bytes."""
    if isinstance(device, str):
        if device in ASCEND:
            tflops, memory = ASCEND[device]
            return device, tflops, memory * GB
        if device == "CPU":
            return "CPU", cpu_tflops(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        raise InputError(f"No device {device!r}: expected {', '.join(ASCEND)}, CPU or a peak in TFLOP/s.")
    if isinstance(device, bool) or not device > 0:
        raise InputError(f"The peak of a device must be above 0 TFLOP/s, not {device!r}.")
    return f"device of {device:g} TFLOP/s", float(device), None


def cpu_tflops(n: int = 1024, repeats: int = 5) -> float:
    """TFLOP/s of a float32 matrix product in NumPy, the best of a few."""
    a = np.ones((n, n), np.float32)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds) / 1e12


def _other_fixes(train: TrainConfig, devices: int) -> str:
    fixes = [] if train.recompute else ["set recompute = true (JAX)"]
    if devices > 1 and not train.shard_weights:
        fixes.append("set shard_weights = true (JAX)" if train.shard_optimizer else "set shard_optimizer = true")
    return "".join(f", or {fix}" for fix in fixes)


def _mini_genes() -> int:
    from cellfm.genes.vocabulary import Vocabulary
    from cellfm.settings import model_folder

    return len(Vocabulary.load(model_folder("mini")))


def _scaled(number: float) -> str:
    power = min(int(math.log10(max(number, 1)) // 3), 5)
    return f"{number / 1000**power:.3g} {('', 'kFLOP', 'MFLOP', 'GFLOP', 'TFLOP', 'PFLOP')[power]}"


def _time(days: float) -> str:
    for unit, length in (("days", 1.0), ("hours", 1 / 24), ("minutes", 1 / 1440)):
        if days >= length:
            return f"{days / length:,.1f} {unit}"
    return f"{days * 86_400:,.1f} seconds"
