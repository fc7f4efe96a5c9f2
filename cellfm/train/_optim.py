"""The optimizer: Adam with groups that do not decay, clipping and a schedule."""

import math

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from cellfm.config import TrainConfig

# Embeddings, norms, and vectors and scalars in general do not decay.
_NO_DECAY = ("embed.gene", "embed.cls", "embed.hidden", "embed.zero", "embed.depth", "gamma", "beta", "skip")


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
    return config.decoder_rate if "decoder" in name else 1.0


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
        self.mine = tuple(i for i, own in enumerate(self.own) if own)
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
        total = rate
        if self.clip == "global":
            total = self.clip_norm / (ops.sqrt(sum_of_squares(norms)) + 1e-12)
        for i in self.mine:
            self.update(i, gradients[i], norms[i], total, rate, power1, power2)
        return rate

    def update(self, i, gradient, norm, total, rate, power1, power2) -> ms.Tensor:
        """Update a parameter. A function, because branches in the loop would nest: deep networks did not compile."""
        weight, own_rate = self.trained[i], rate * self.factor[i]
        if self.clip == "tensor":
            gradient = gradient * ops.minimum(1.0, self.clip_norm / (norm + 1e-12))
        if self.clip == "global":
            gradient = gradient * ops.minimum(1.0, total)
        if self.decay[i] and self.decoupled:
            ops.assign(weight, weight * (1 - own_rate * self.decay[i]))
        if self.decay[i] and not self.decoupled:
            gradient = gradient + self.decay[i] * weight
        self.adam(
            weight,
            self.moment1[i],
            self.moment2[i],
            power1,
            power2,
            own_rate,
            self.beta1,
            self.beta2,
            self.epsilon,
            gradient,
        )
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
    total = norms[0] * norms[0]
    for norm in norms[1:]:
        total = total + norm * norm
    return total
