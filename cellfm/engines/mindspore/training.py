"""Training in MindSpore: compiled gradients, accumulation, loss scale, sums over processes, Adam."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from cellfm.config import TrainConfig
from cellfm.engines.mindspore.devices import computing, use_device
from cellfm.engines.mindspore.distributed import join_processes, share
from cellfm.engines.mindspore.operations import MindSporeOperations
from cellfm.engines.training import (
    LossScale,
    Objective,
    StepResult,
    decays,
    dropout_keys,
    learning_rate,
    relative_rate,
)

_NUMBER = count()


def parameters(tree: Any, *, trained: bool = False) -> Any:
    """Arrays, nested in dicts and lists, as parameters with unique names."""
    if isinstance(tree, dict):
        return {name: parameters(part, trained=trained) for name, part in tree.items()}
    if isinstance(tree, list | tuple):
        return tuple(parameters(part, trained=trained) for part in tree)  # MindSpore does not compile lists
    if isinstance(tree, ms.Parameter):
        return tree
    name = f"weight{next(_NUMBER)}"
    return ms.Parameter(ms.Tensor(np.ascontiguousarray(tree)), name=name, requires_grad=trained)


class MindSporeTrainer:
    """Updates weights; arguments as for `cellfm.engines.jax.training.JaxTrainer`, without a mesh."""

    def __init__(
        self,
        objective: Objective,
        weights: Mapping[str, np.ndarray],
        trained: Sequence[str],
        config: TrainConfig,
        nest: Callable[[dict[str, Any]], Any],
        *,
        rank: int = 0,
    ) -> None:
        use_device()
        self.config, self.objective, self.rank = config, objective, rank
        _, n_processes = join_processes()
        self.scale = LossScale(config)
        self.xp = MindSporeOperations(config.precision)
        names = set(trained)
        self._parameters = {name: parameters(array, trained=name in names) for name, array in weights.items()}
        self._nested = nest(self._parameters)
        self._trained = {name: self._parameters[name] for name in trained}
        self._optimizer = Adam(self._trained, config, rank=rank, n_processes=n_processes)
        self._reduce = ops.AllReduce() if n_processes > 1 else None
        self._compile_gradients()
        self._compile_update()

    def _compile_gradients(self) -> None:
        xp, weights, loss = self.xp, self._nested, self.objective.loss
        leaves = ms.ParameterTuple(list(self._trained.values()))
        drops = self.objective.n_keys > 0

        def scaled(scale, keys, *arrays):
            found = loss(xp, weights, arrays, keys if drops else None)
            return found[0] * scale, found[1:]

        with_gradients = ms.value_and_grad(scaled, None, leaves, has_aux=True)

        def gradients(scale, keys, *arrays):
            (total, others), grads = with_gradients(scale, keys, *arrays)
            return total, others, grads

        self._gradients = ms.jit(gradients)

    def _compile_update(self) -> None:
        # Maps and no comprehensions: these would take minutes to compile for the tensors of a deep network.
        each, reduce = ops.HyperMap(), self._reduce

        def plus(one, other):
            return one + other

        def times(factor, grad):
            return grad * factor

        def summed(grad):
            return grad if reduce is None else reduce(grad)

        def norm(grad):
            return ops.sqrt((grad * grad).sum())

        def add(some, others):
            return each(plus, some, others)

        def finish(grads, factor):
            """Undo the loss scale, sum over processes, and compute the norms."""
            grads = each(summed, each(ops.partial(times, factor), grads))
            norms = each(norm, grads)
            return grads, norms, ops.sqrt(sum_of_squares(norms))

        def total(numbers):
            return numbers if reduce is None else reduce(numbers)

        self._add, self._finish, self._total = ms.jit(add), ms.jit(finish), ms.jit(total)
        self._update, self._exchange = ms.jit(self._optimizer.construct), ms.jit(self._optimizer.exchange)

    @computing()
    def __call__(
        self, micro_batches: Sequence[Sequence[Any]], step: int, *, weight: float = 1.0, stop: bool = False
    ) -> StepResult:
        """See `cellfm.engines.training.Trainer`."""
        scale = _scalar(self.scale.value)
        loss, terms, statistics, grads = self._of_micro(micro_batches[0], scale, step, 0)
        for i, micro in enumerate(micro_batches[1:], start=1):
            more_loss, more_terms, statistics, more_grads = self._of_micro(micro, scale, step, i)
            grads = self._add(ms.mutable(grads), ms.mutable(more_grads))
            loss, terms = loss + more_loss, terms + more_terms
        facts = np.concatenate(([loss.asnumpy() / self.scale.value], terms.asnumpy())).astype(np.float32) * weight
        facts = np.concatenate(([weight, stop], facts)).astype(np.float32)
        weights, stops, *facts = self._total(ms.Tensor(facts)).asnumpy()
        grads, norms, norm = self._finish(ms.mutable(grads), _scalar(weight / (weights * self.scale.value)))
        finite = bool(np.isfinite(float(norm)))
        skipped = not finite and self.scale.value > 1
        result = StepResult(facts[0] / weights, np.array(facts[1:]) / weights, float(norm), skipped, bool(stops > 0))
        if finite:
            t = step + 1
            powers = (self.config.beta1**t, self.config.beta2**t)
            rate = learning_rate(self.config, step)
            # MindSpore adds epsilon before it corrects the second moment for its start.
            epsilon = self.config.epsilon * np.sqrt(1 - powers[1])
            self._update(ms.mutable(grads), ms.mutable(norms), *map(_scalar, (rate, *powers, epsilon)))
            if self._optimizer.sharded:
                self._exchange()
        for name, value in zip(self.objective.statistics, statistics, strict=True):
            ops.assign(self._parameters[name], value)
        self.scale.follow(overflow=not finite)
        return result

    def _of_micro(self, arrays: Sequence[np.ndarray], scale: ms.Tensor, step: int, i: int) -> tuple[Any, ...]:
        keys = dropout_keys(self.config, max(1, self.objective.n_keys), self.rank, step, i)
        loss, others, grads = self._gradients(scale, ms.Tensor(keys), *map(ms.Tensor, arrays))
        return loss, others[0], others[1] if len(others) > 1 else (), grads

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """See `cellfm.engines.training.Trainer`."""
        xp, weights = self.xp, self._nested

        def forward(*arrays):
            return function(xp, weights, arrays)

        return compiled(forward)

    def gather(self) -> None:
        """Nothing: each process has all weights."""

    def weights(self) -> dict[str, np.ndarray]:
        """See `cellfm.engines.training.Trainer`."""
        return {name: parameter.asnumpy().copy() for name, parameter in self._parameters.items()}

    def moments(self) -> dict[str, np.ndarray]:
        """See `cellfm.engines.training.Trainer`."""
        return self._optimizer.whole_state()

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See `cellfm.engines.training.Trainer`."""
        for name, parameter in (self._parameters | self._optimizer.state()).items():
            if name in arrays:
                ops.assign(parameter, ms.Tensor(arrays[name]))  # compiled functions ignore set_data

    def share(self) -> None:
        """See `cellfm.engines.training.Trainer`."""
        share(self._parameters)


class Adam(nn.Cell):
    """Adam (Kingma 2015) or AdamW (Loshchilov 2019) over named parameters; its state is named after them.

    With `shard_optimizer`, each process keeps the moments of its own parameters, updates these, and receives the
    others from their owners (Rajbhandari 2020, stage 1).
    """

    def __init__(
        self, parameters: dict[str, ms.Parameter], config: TrainConfig, *, rank: int = 0, n_processes: int = 1
    ) -> None:
        super().__init__(auto_prefix=False)
        self.sharded = config.shard_optimizer and n_processes > 1
        sizes = [parameter.size for parameter in parameters.values()]
        self.owners = owners(sizes, n_processes) if self.sharded else [rank] * len(sizes)
        self.owned = tuple(owner == rank for owner in self.owners)
        self.broadcast = [ops.Broadcast(owner) for owner in self.owners] if self.sharded else []
        self.names = list(parameters)
        self.trained = ms.ParameterTuple(list(parameters.values()))
        self.moment1 = self._zeros(parameters)
        self.moment2 = self._zeros(parameters)
        self.factor = tuple(relative_rate(name, config) for name in parameters)
        self.decay = tuple(config.weight_decay if decays(name) else 0.0 for name in parameters)
        self.decoupled = config.optimizer == "adamw"
        self.beta1, self.beta2 = config.beta1, config.beta2
        self.clip, self.clip_norm = config.clip, config.clip_norm
        self.adam = ops.Adam()
        self.each = ops.HyperMap()

    def construct(self, gradients, norms, rate, power1, power2, epsilon) -> ms.Tensor:
        """Update the parameters.

        `norms` are those of the gradients, `power1` and `power2` the betas to the power of the step, counted from 1.
        """
        shrink = rate
        if self.clip == "global":
            shrink = ops.minimum(1.0, self.clip_norm / (ops.sqrt(sum_of_squares(norms)) + 1e-12))
        # A map and no loop, which would not compile for the tensors of a deep network.
        update = ops.partial(self.update, shrink, rate, power1, power2, epsilon)
        return self.each(
            update, gradients, norms, self.trained, self.moment1, self.moment2, self.owned, self.decay, self.factor
        )

    def update(
        self, shrink, rate, power1, power2, epsilon, gradient, norm, weight, moment1, moment2, owned, decay, factor
    ) -> ms.Tensor:
        """Update one parameter."""
        if not owned:
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
        self.adam(weight, moment1, moment2, power1, power2, rate, self.beta1, self.beta2, epsilon, gradient)
        return rate

    def exchange(self) -> None:
        """Send updated parameters from their owners to all processes."""
        for i in range(len(self.broadcast)):
            (weight,) = self.broadcast[i]((self.trained[i],))
            ops.assign(self.trained[i], weight)

    def state(self) -> dict[str, ms.Parameter]:
        """The moments that this process keeps, by name."""
        named = zip(self.names * 2, [*self.moment1, *self.moment2], self.owned * 2, strict=True)
        prefixes = ["moment1"] * len(self.names) + ["moment2"] * len(self.names)
        return {f"{prefix}.{n}": moment for prefix, (n, moment, owned) in zip(prefixes, named, strict=True) if owned}

    def whole_state(self) -> dict[str, np.ndarray]:
        """All moments by name; if they are sharded, all processes must call this together."""
        if not self.sharded:
            return {name: parameter.asnumpy().copy() for name, parameter in self.state().items()}
        arrays = {}
        for prefix, moments in (("moment1", self.moment1), ("moment2", self.moment2)):
            every = zip(self.names, moments, self.trained, self.owned, self.broadcast, strict=True)
            for name, moment, weight, owned, broadcast in every:
                mine = moment.value() if owned else ms.Tensor(np.zeros(weight.shape, np.float32))
                arrays[f"{prefix}.{name}"] = broadcast((mine,))[0].asnumpy()
        return arrays

    def _zeros(self, trained: dict[str, ms.Parameter]) -> ms.ParameterTuple:
        whole = [parameter.shape for parameter in trained.values()]
        shapes = [shape if owned else (1,) for shape, owned in zip(whole, self.owned, strict=True)]
        return ms.ParameterTuple([parameters(np.zeros(shape, np.float32)) for shape in shapes])


def owners(sizes: list[int], n_processes: int) -> list[int]:
    """The owner of each tensor: the largest tensors first, each to the process with the smallest load."""
    load = [0] * n_processes
    chosen = [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        chosen[i] = load.index(min(load))
        load[chosen[i]] += sizes[i]
    return chosen


def sum_of_squares(norms: tuple[ms.Tensor, ...]) -> ms.Tensor:
    stacked = ops.stack(norms)
    return (stacked * stacked).sum()


def compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors as a function of NumPy arrays."""
    jitted = ms.jit(forward)

    @computing()
    def run(*arrays: np.ndarray) -> Any:
        return as_numpy(jitted(*map(ms.Tensor, arrays)))

    return run


def as_numpy(found: Any) -> Any:
    """Tensors, nested in tuples and dicts, as arrays."""
    if isinstance(found, tuple | list):
        return tuple(map(as_numpy, found))
    if isinstance(found, dict):
        return {name: as_numpy(part) for name, part in found.items()}
    return found.asnumpy()


def _scalar(number: float) -> ms.Tensor:
    return ms.Tensor(np.float32(number))
