"""Training in JAX: compiled gradients of micro-batches, summed over devices, and updates by optax."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cellfm.config import TrainConfig
from cellfm.engines.fork import require_threads
from cellfm.engines.jax.devices import memory_checked, training_mesh
from cellfm.engines.jax.operations import JaxOperations, Shard, whole
from cellfm.engines.training import (
    LossScale,
    Objective,
    StepResult,
    decays,
    dropout_keys,
    learning_rate,
    relative_rate,
)

Flat = dict[str, Any]


class JaxTrainer:
    """Updates weights on one device, or on all devices of a mesh, each of which takes its part of the micro-batches.

    Parameters
    ----------
    weights
        By flat name; `nest` brings them into the form that the objective takes.
    trained
        Names of the weights to update.
    mesh
        Devices, by default all; a process gives its micro-batches to its own devices.
    """

    @memory_checked()
    def __init__(
        self,
        objective: Objective,
        weights: Mapping[str, np.ndarray],
        trained: Sequence[str],
        config: TrainConfig,
        nest: Callable[[Flat], Any],
        *,
        rank: int = 0,
        mesh: Mesh | None = None,
    ) -> None:
        require_threads()
        self.config, self.objective, self.rank, self.nest = config, objective, rank, nest
        self.mesh = training_mesh() if mesh is None else mesh
        self.n_local = len(self.mesh.local_devices)
        self.xp = JaxOperations(config.precision, recompute=config.recompute)
        self.scale = LossScale(config)
        self._everywhere = NamedSharding(self.mesh, P())
        self._each = NamedSharding(self.mesh, P("data"))
        self._names = list(weights)
        names = set(trained)
        axes = {name: axis for name, array in weights.items() if (axis := self._axis(array)) is not None}
        divided = set(axes) - set(objective.statistics) if config.shard_weights else set()
        self._axes = {name: axis for name, axis in axes.items() if name in divided}
        self._at = {name: self._sharding(self._axes.get(name)) for name in weights}
        self._fixed = self._put({name: array for name, array in weights.items() if name not in names})
        self._trained = self._put({name: weights[name] for name in trained})
        self._whole: tuple[Flat, Flat] | None = None
        self._gather = jax.jit(lambda tree: tree, out_shardings=self._everywhere)
        self._optimizer = optimizer(self._trained, config)
        of_moments = axes if config.shard_optimizer or config.shard_weights else {}
        self._moments_at = {name: self._sharding(of_moments.get(name)) for name in trained}
        state = jax.jit(lambda w: _moments(self._optimizer.init(w)), out_shardings=(self._moments_at,) * 2)
        self._moments = state(self._trained)
        self._gradients = self._compiled_gradients()
        self._add = jax.jit(partial(jax.tree.map, jnp.add), donate_argnums=0)
        self._update = jax.jit(
            self._updated,
            donate_argnums=(0, 1),
            out_shardings=({name: self._at[name] for name in trained}, (self._moments_at,) * 2, self._everywhere),
        )

    @memory_checked()
    def __call__(
        self, micro_batches: Sequence[Sequence[Any]], step: int, *, weight: float = 1.0, stop: bool = False
    ) -> StepResult:
        """See `cellfm.engines.training.Trainer`."""
        self._whole = None
        rounds = -(-len(micro_batches) // self.n_local)
        if self.mesh.size > self.n_local:  # all processes must compute equally many rounds
            rounds = int(np.max(multihost_utils.process_allgather(np.int32(rounds))))
        facts: Any = None
        for i in range(rounds):
            some = micro_batches[i * self.n_local : (i + 1) * self.n_local]
            occupied = np.array([1.0] * len(some) + [0.0] * (self.n_local - len(some)), np.float32)
            # A device without a micro-batch computes the first one again, with weight 0.
            some = [*some, *[micro_batches[0]] * (self.n_local - len(some))]
            numbers = [i * self.n_local + j if occupied[j] else 0 for j in range(self.n_local)]
            keys = [dropout_keys(self.config, self.objective.n_keys, self.rank, step, number) for number in numbers]
            arrays = [self._spread(np.stack(parts)) for parts in zip(*some, strict=True)]
            factor = self._spread(occupied * np.float32(weight * self.scale.value))
            found = self._gradients(self._trained, self._fixed, self._spread(np.stack(keys)), factor, arrays)
            facts = found if facts is None else self._add(facts, found)
        gradients, loss, terms, _ = facts
        statistics = found[-1]  # of the last micro-batch, because they are not sums
        weights, stops = weight, float(stop)
        if self.mesh.size > self.n_local:
            weights, stops = np.sum(multihost_utils.process_allgather(np.array([weight, stops], np.float32)), 0)
        self._trained, self._moments, norm = self._update(
            self._trained,
            self._moments,
            gradients,
            1 / (float(weights) * self.scale.value),
            learning_rate(self.config, step),
            step,
        )
        for name, value in statistics.items():
            self._fixed[name] = value
        finite = bool(np.isfinite(float(norm)))
        skipped = not finite and self.scale.value > 1
        per = float(weights) * self.scale.value
        result = StepResult(float(loss) / per, np.asarray(terms) / per, float(norm), skipped, stops > 0)
        self.scale.follow(overflow=not finite)
        return result

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """See `cellfm.engines.training.Trainer`."""
        compiled = jax.jit(lambda trained, fixed, arrays: function(self.xp, self.nest(trained | fixed), arrays))

        @memory_checked()
        def run(*arrays: np.ndarray) -> Any:
            trained, fixed = jax.tree.map(lambda value: value.addressable_data(0), self.gather())
            return jax.tree.map(np.asarray, compiled(trained, fixed, arrays))

        return run

    def gather(self) -> tuple[Flat, Flat]:
        """See `cellfm.engines.training.Trainer`; trained and other weights, whole on every device."""
        if not self.config.shard_weights:
            return self._trained, self._fixed
        if self._whole is None:
            self._whole = self._gather((self._trained, self._fixed))
        return self._whole

    def weights(self) -> dict[str, np.ndarray]:
        """See `cellfm.engines.training.Trainer`."""
        trained, fixed = self.gather()
        everything = trained | fixed
        return {name: np.asarray(everything[name].addressable_data(0)) for name in self._names}

    def moments(self) -> dict[str, np.ndarray]:
        """See `cellfm.engines.training.Trainer`."""
        return {
            f"moment{i}.{name}": np.asarray(array.addressable_data(0))
            for i, moments in enumerate(self._gather(self._moments), start=1)
            for name, array in moments.items()
        }

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See `cellfm.engines.training.Trainer`."""
        self._whole = None
        for kept in (self._trained, self._fixed):
            kept |= self._put({name: arrays[name] for name in kept if name in arrays})
        for i, moments in enumerate(self._moments, start=1):
            for name in moments:
                if f"moment{i}.{name}" in arrays:
                    moments[name] = _placed(arrays[f"moment{i}.{name}"], self._moments_at[name])

    def share(self) -> None:
        """See `cellfm.engines.training.Trainer`."""
        if self.mesh.size > self.n_local:
            self.load(multihost_utils.broadcast_one_to_all(self.weights()))

    def _compiled_gradients(self) -> Callable[..., Any]:
        """Sums over devices of gradients, loss and terms, each times the factor of its micro-batch."""

        def of_device(trained: Flat, fixed: Flat, keys: jax.Array, factor: jax.Array, arrays: Any) -> Any:
            keys, factor, arrays = jax.tree.map(lambda x: x[0], (keys, factor, arrays))

            def scaled(trained: Flat) -> tuple[jax.Array, Any]:
                given = keys if self.objective.n_keys else None
                weights = self.nest(self._gathered(trained | fixed))
                loss, terms, *more = self.objective.loss(self.xp, weights, tuple(arrays), given)
                return loss * factor, (terms * factor, more[0] if more else ())

            (loss, (terms, statistics)), gradients = jax.value_and_grad(scaled, has_aux=True)(trained)
            named = dict(zip(self.objective.statistics, statistics, strict=True))
            if self.mesh.size == 1:
                return gradients, loss, terms, named
            # Gradients of divided weights have been summed over devices by the operation that gathered the weights.
            whole = {name: gradient for name, gradient in gradients.items() if name not in self._axes}
            # Devices without a micro-batch count nothing, not even a NaN.
            counted = jax.tree.map(lambda x: jnp.where(factor > 0, x, 0), (whole, loss, terms))
            whole, loss, terms = jax.lax.psum(counted, "data")
            return gradients | whole, loss, terms, jax.lax.pmean(named, "data")

        if self.mesh.size == 1:
            return jax.jit(of_device)
        spread, specs = (
            P("data"),
            [{name: self._at[name].spec for name in kept} for kept in (self._trained, self._fixed)],
        )
        given, found = (*specs, spread, spread, spread), (specs[0], P(), P(), P())
        return jax.jit(_shard_map(of_device, self.mesh, in_specs=given, out_specs=found))

    def _gathered(self, flat: Flat) -> Flat:
        """Whole weights; matrices of the backbone are left to the operations, which gather them layer by layer."""
        shards = {name: Shard(flat[name], axis) for name, axis in self._axes.items()}
        later = {name for name in shards if name.startswith("backbone.") and name.endswith(".weight")}
        return flat | {name: shard if name in later else whole(shard) for name, shard in shards.items()}

    def _updated(
        self, trained: Flat, moments: tuple[Flat, Flat], gradients: Flat, factor: Any, rate: Any, step: Any
    ) -> tuple[Flat, tuple[Flat, Flat], jax.Array]:
        gradients = jax.tree.map(lambda g: g * factor, gradients)
        norm = _norm(gradients)
        state = _with_moments(self._optimizer.init(trained), moments, step)
        updates, state = self._optimizer.update(gradients, state, trained)
        updated = jax.tree.map(lambda w, u: w + rate * u, trained, updates)
        new, old = (updated, _moments(state)), (trained, moments)
        kept = jax.tree.map(lambda a, b: jnp.where(jnp.isfinite(norm), a, b), new, old)
        return *kept, norm

    def _axis(self, array: np.ndarray) -> int | None:
        """The longest axis that can be divided evenly among several devices, if there is one."""
        even = [axis for axis, n in enumerate(array.shape) if n % self.mesh.size == 0]
        return max(even, key=lambda axis: array.shape[axis], default=None) if self.mesh.size > 1 else None

    def _sharding(self, axis: int | None) -> NamedSharding:
        """The sharding of a weight: along an axis, or whole on each device."""
        return self._everywhere if axis is None else NamedSharding(self.mesh, P(*[None] * axis, "data"))

    def _put(self, arrays: Mapping[str, np.ndarray]) -> Flat:
        return {name: _placed(array, self._at[name]) for name, array in arrays.items()}

    def _spread(self, array: np.ndarray) -> jax.Array:
        """An array with an entry for each device of this process, on them."""
        if self.mesh.size == 1:
            return jnp.asarray(array)
        return jax.make_array_from_process_local_data(self._each, array)


def optimizer(weights: Flat, config: TrainConfig) -> optax.GradientTransformation:
    """Adam (Kingma 2015) or AdamW (Loshchilov 2019), with clipping, without decay of some weights, and rates by group.

    The caller multiplies its updates by the learning rate of the step.
    """
    decay = optax.add_decayed_weights(config.weight_decay, mask={name: decays(name) for name in weights})
    adam = [optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)]
    clip = {"tensor": [_clip_each(config.clip_norm)], "global": [_clip_together(config.clip_norm)], "none": []}
    steps = [decay, *adam] if config.optimizer == "adam" else [*adam, decay]
    factors = {name: relative_rate(name, config) for name in weights}
    groups = {str(factor): optax.scale(-factor) for factor in factors.values()}
    by_group = optax.multi_transform(groups, {name: str(factor) for name, factor in factors.items()})
    return optax.chain(*clip[config.clip], *steps, by_group)


def _clip_each(limit: float) -> optax.GradientTransformation:
    """Clip each tensor to the norm `limit` (paper, Methods, "Training")."""

    def clipped(gradient: jax.Array, _: Any = None) -> jax.Array:
        return gradient * jnp.minimum(1.0, limit / (jnp.sqrt((gradient * gradient).sum()) + 1e-12))

    return optax.stateless_with_tree_map(clipped)


def _clip_together(limit: float) -> optax.GradientTransformation:
    def clipped(gradients: Any, _: Any = None) -> Any:
        factor = jnp.minimum(1.0, limit / (_norm(gradients) + 1e-12))
        return jax.tree.map(lambda gradient: gradient * factor, gradients)

    return optax.stateless(clipped)


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum((leaf * leaf).sum() for leaf in jax.tree.leaves(tree)))


def _moments(state: Any) -> tuple[Flat, Flat]:
    adam = next(part for part in state if isinstance(part, optax.ScaleByAdamState))
    return adam.mu, adam.nu


def _with_moments(state: Any, moments: tuple[Flat, Flat], step: Any) -> Any:
    adam = optax.ScaleByAdamState(jnp.asarray(step, jnp.int32), *moments)
    return tuple(adam if isinstance(part, optax.ScaleByAdamState) else part for part in state)


def _placed(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array that all processes have, on the devices."""
    array = np.asarray(array)
    if sharding.mesh.size == 1:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _shard_map(function: Callable[..., Any], mesh: Mesh, *, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    if hasattr(jax, "shard_map"):
        return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    from jax.experimental.shard_map import shard_map  # before JAX 0.7

    return shard_map(function, mesh, in_specs, out_specs, check_rep=False)
