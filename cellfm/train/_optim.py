"""The optimizer: Adam with groups that do not decay, clipping and a schedule."""

import math

import mindspore as ms
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
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * fall)


class Adam(nn.Cell):
    """Adam (Kingma 2015) or AdamW (Loshchilov 2019) over named parameters; its state is named after them."""

    def __init__(self, parameters: dict[str, ms.Parameter], config: TrainConfig) -> None:
        super().__init__(auto_prefix=False)
        self.trained = ms.ParameterTuple(list(parameters.values()))
        self.moment1 = self._zeros(parameters, "moment1")
        self.moment2 = self._zeros(parameters, "moment2")
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
        if self.clip == "global":
            total = self.clip_norm / (ops.sqrt(sum_of_squares(norms)) + 1e-12)
        for i in range(len(self.trained)):
            gradient, weight = gradients[i], self.trained[i]
            if self.clip == "tensor":
                gradient = gradient * ops.minimum(1.0, self.clip_norm / (norms[i] + 1e-12))
            if self.clip == "global":
                gradient = gradient * ops.minimum(1.0, total)
            if self.decay[i] and self.decoupled:
                ops.assign(weight, weight * (1 - rate * self.decay[i]))
            if self.decay[i] and not self.decoupled:
                gradient = gradient + self.decay[i] * weight
            self.adam(
                weight,
                self.moment1[i],
                self.moment2[i],
                power1,
                power2,
                rate,
                self.beta1,
                self.beta2,
                self.epsilon,
                gradient,
            )
        return rate

    def state(self) -> dict[str, ms.Parameter]:
        """Moments by name."""
        return {parameter.name: parameter for parameter in (*self.moment1, *self.moment2)}

    @staticmethod
    def _zeros(parameters: dict[str, ms.Parameter], prefix: str) -> ms.ParameterTuple:
        return ms.ParameterTuple(
            [
                ms.Parameter(ops.zeros_like(parameter), name=f"{prefix}.{name}", requires_grad=False)
                for name, parameter in parameters.items()
            ]
        )


def sum_of_squares(norms: tuple[ms.Tensor, ...]) -> ms.Tensor:
    total = norms[0] * norms[0]
    for norm in norms[1:]:
        total = total + norm * norm
    return total
