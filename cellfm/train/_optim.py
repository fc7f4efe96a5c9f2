"""The optimizer: Adam with groups that do not decay, clipping and a schedule."""

import math

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from cellfm.config import TrainConfig

# Embeddings, norms, and vectors and scalars in general do not decay.
_NO_DECAY = ("embed.gene", "embed.cls", "embed.hidden", "embed.zero", "embed.depth", "gamma", "beta", "skip")

HEAD = "head."
"""What the names of the parameters begin with that an objective adds to the network."""


def decays(name: str) -> bool:
    """Whether weight decay applies to a parameter."""
    return not name.endswith(_NO_DECAY)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of step `step`, counted from 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * fall)


def relative_rate(name: str, config: TrainConfig) -> float:
    """What the learning rate is multiplied with for a parameter."""
    if name == "embed.gene":
        return config.gene_rate
    if name.startswith(HEAD):
        return config.head_rate
    return config.decoder_rate if "decoder" in name else config.other_rate


class Adam(nn.Cell):
    """Adam (Kingma 2015) or AdamW (Loshchilov 2019) over named parameters; its state is named after them.

    With `shard_optimizer`, each of the processes keeps the moments of its own parameters, updates these, and gets the
    others from the processes that own them (Rajbhandari 2020, stage 1).
    """

    def __init__(
        self, parameters: dict[str, ms.Parameter], config: TrainConfig, *, rank: int = 0, n_processes: int = 1
    ) -> None:
        super().__init__(auto_prefix=False)
        self.sharded = config.shard_optimizer and n_processes > 1
        sizes = [parameter.size for parameter in parameters.values()]
        self.owners = owners(sizes, n_processes) if self.sharded else [rank] * len(sizes)
        self.own = tuple(owner == rank for owner in self.owners)
        self.broadcast = [ops.Broadcast(owner) for owner in self.owners] if self.sharded else []
        self.trained = ms.ParameterTuple(list(parameters.values()))
        self.moment1 = self._zeros(parameters, "moment1")
        self.moment2 = self._zeros(parameters, "moment2")
        self.factor = tuple(relative_rate(name, config) for name in parameters)
        self.decay = tuple(config.weight_decay if decays(name) else 0.0 for name in parameters)
        self.decoupled = config.optimizer == "adamw"
        self.beta1, self.beta2, self.epsilon = config.beta1, config.beta2, config.epsilon
        self.clip, self.clip_norm = config.clip, config.clip_norm
        self.adam = ops.Adam()
        self.each = ops.HyperMap()

    def construct(
        self,
        gradients: tuple[ms.Tensor, ...],
        norms: tuple[ms.Tensor, ...],
        rate: ms.Tensor,
        power1: ms.Tensor,
        power2: ms.Tensor,
    ) -> ms.Tensor:
        """Update the parameters; `norms` are those of the gradients, `power1` and `power2` the betas to the power of
        the step, counted from 1.
        """
        shrink = rate
        if self.clip == "global":
            shrink = ops.minimum(1.0, self.clip_norm / (ops.sqrt(sum_of_squares(norms)) + 1e-12))
        # A map and no loop, which would not compile for the tensors of a deep network.
        update = ops.partial(self.update, shrink, rate, power1, power2)
        return self.each(
            update, gradients, norms, self.trained, self.moment1, self.moment2, self.own, self.decay, self.factor
        )

    def update(
        self, shrink, rate, power1, power2, gradient, norm, weight, moment1, moment2, own, decay, factor
    ) -> ms.Tensor:
        """Update one parameter."""
        if not own:
            return rate
        rate = rate * factor
        if self.clip == "tensor":
            gradient = gradient * ops.minimum(1.0, self.clip_norm / (norm + 1e-12))
        if self.clip == "global":
            gradient = gradient * shrink
        if decay and self.decoupled:
            ops.assign(weight, weight * (1 - rate * decay))
        if decay and not self.decoupled:
            gradient = gradient + decay * weight
        self.adam(weight, moment1, moment2, power1, power2, rate, self.beta1, self.beta2, self.epsilon, gradient)
        return rate

    def exchange(self) -> None:
        """Give each process the parameters that others have updated."""
        for i in range(len(self.broadcast)):
            (weight,) = self.broadcast[i]((self.trained[i],))
            ops.assign(self.trained[i], weight)

    def state(self) -> dict[str, ms.Parameter]:
        """The moments that this process keeps, by name."""
        moments = (*zip(self.moment1, self.own, strict=True), *zip(self.moment2, self.own, strict=True))
        return {parameter.name: parameter for parameter, own in moments if own}

    def whole_state(self) -> dict[str, np.ndarray]:
        """All moments by name; where they are sharded, all processes must ask at once."""
        if not self.sharded:
            return {name: parameter.asnumpy() for name, parameter in self.state().items()}
        arrays = {}
        for moments in (self.moment1, self.moment2):
            for moment, weight, own, broadcast in zip(moments, self.trained, self.own, self.broadcast, strict=True):
                mine = moment.value() if own else ms.Tensor(np.zeros(weight.shape, np.float32))
                arrays[moment.name] = broadcast((mine,))[0].asnumpy()
        return arrays

    def _zeros(self, parameters: dict[str, ms.Parameter], prefix: str) -> ms.ParameterTuple:
        whole = [parameter.shape for parameter in parameters.values()]
        shapes = [shape if own else (1,) for shape, own in zip(whole, self.own, strict=True)]
        return ms.ParameterTuple(
            [
                ms.Parameter(ms.Tensor(np.zeros(shape, np.float32)), name=f"{prefix}.{name}", requires_grad=False)
                for name, shape in zip(parameters, shapes, strict=True)
            ]
        )


def owners(sizes: list[int], n_processes: int) -> list[int]:
    """Which process owns each of some tensors: the largest first, each to the process that has least."""
    load = [0] * n_processes
    chosen = [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        chosen[i] = load.index(min(load))
        load[chosen[i]] += sizes[i]
    return chosen


def sum_of_squares(norms: tuple[ms.Tensor, ...]) -> ms.Tensor:
    stacked = ops.stack(norms)
    return (stacked * stacked).sum()
