"""`fit`: the training loop of all small models, with optax, for a loss that is a pure function of weights and
arrays.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from cellfm.io.progress import progress

Weights = dict[str, Any]
"""Arrays, or dicts of them."""
Loss = Callable[..., Any]
"""``loss(xp, weights, *arrays)``, a number.

`xp` are the `Operations` of JAX, and ``gradient``, of a function of one array that gives a number.
"""
Rows = list[dict[str, float]]


def fit(
    loss: Loss | Mapping[str, Loss],
    weights: Weights,
    batch: Callable[[int], tuple[np.ndarray, ...]],
    *,
    steps: int,
    learning_rate: float | Callable[[int], float],
    data: tuple[Any, ...] = (),
    turns: tuple[str, ...] = (),
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    clip: float | None = None,
    project: Callable[..., Weights] | None = None,
    validate: Callable[[Weights], float | list[float]] | None = None,
    every: int = 50,
    patience: int | None = None,
    label: str = "",
) -> tuple[Weights, Rows]:
    """Minimise a loss by Adam, in compiled rounds of steps, with early stopping.

    A round is compiled once for a loss and the shapes of its arrays, whatever is fitted with them later.

    Parameters
    ----------
    loss
        ``loss(xp, weights, *data, *batch)``, at the top of a module, so that it is the same function at each call. With
        `turns`, a loss for each part of the weights, by name: it changes this part alone.
    weights
        To start from.
    batch
        Arrays for each step, 0, 1, ..., always of the same shapes. The randomness of a fit lies in it.
    steps
        Steps in all.
    learning_rate
        One for all steps, or a function of the step.
    data
        Arrays that all steps read.
    turns
        Parts of the weights in the order in which steps change them, again and again.
    weight_decay
        Decoupled from the gradient, as in AdamW.
    clip
        Largest norm of all gradients together.
    project
        ``project(xp, weights)``, after each step: the nearest weights that are allowed. With `turns`, of the part.
    validate
        The score of some weights, the less the better, asked before the first step and after each round; of several
        models side by side, by the first axis of all weights, the score of each.
    every
        Steps of a round.
    patience
        Rounds without a lower score after which the fit ends; the weights of the least score are then returned, and the
        last ones without.
    label
        Shown with the progress, in which a step is one turn of all parts; no progress without.

    Returns
    -------
    The weights as NumPy arrays, and a row for the start and each round: ``step``, ``loss`` (with `turns`, one for each
    part: ``loss_<part>``) averaged over the round, and ``validation``; NaN where there is none.

    Raises
    ------
    InputError
        This process was forked after a computation.
    """
    import jax

    losses = tuple(loss.items()) if isinstance(loss, Mapping) else (("", loss),)
    names = [name for name, _ in losses]
    order = np.array([names.index(turn) for turn in turns or names], np.int32)
    parts, kept = weights if turns else {"": weights}, weights
    rows, best, waited = [], np.array(np.inf), np.array(0)
    with _on_device(), progress(steps // len(order), label, "steps") if label else nullcontext() as bar:
        start, train = _trainer(losses, betas, weight_decay, clip, project)
        state, data = start(parts), jax.device_put(data)
        for first, done in pairwise((0, 0, *range(every, steps, every), steps)):
            taken, means = np.arange(first, done), dict.fromkeys(names, np.nan)
            if len(taken):
                turn = order[taken % len(order)]
                rates = [learning_rate(step) if callable(learning_rate) else learning_rate for step in taken.tolist()]
                columns = [np.stack(column) for column in zip(*map(batch, taken.tolist()), strict=True)]
                parts, state, found = train(parts, state, data, (turn, np.array(rates, np.float32), *columns))
                found = np.asarray(found)
                means = {name: float(found[turn == i].mean()) for i, name in enumerate(names) if (turn == i).any()}
                if bar is not None:
                    bar.update(len(taken) // len(order))
            now = parts if turns else parts[""]
            score = np.asarray(np.nan if validate is None else validate(now))
            if patience is None:
                kept = now
            else:
                better = (score < best) & (waited < patience)
                best, waited = np.where(better, score, best), np.where(better, 0, waited + 1)
                kept = _chosen(better, now, kept)
            by_part = {f"loss_{name}" if name else "loss": mean for name, mean in means.items()}
            rows.append({"step": done, **by_part, "validation": float(score.mean())})
            if patience is not None and np.all(waited >= patience):
                break
        return _to_numpy(kept), rows


def apply(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(xp, *arguments)`` as NumPy, compiled once for a function and the shapes of its arrays."""
    with _on_device():
        return _to_numpy(_compiled(function)(*arguments))


def shuffled(n: int, size: int, random_state: int | tuple[int, ...]) -> tuple[Callable[[int], tuple[np.ndarray]], int]:
    """Batches of `size` of `n` rows, in a new order each epoch, for `fit`; and the number of batches per epoch.

    Rows that do not fill a batch are left out of an epoch.
    """
    size = min(size, n)
    n_batches, seed = n // size, np.atleast_1d(random_state).tolist()

    @lru_cache(1)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((*seed, epoch)).permutation(n)[: n_batches * size].reshape(n_batches, size)

    return lambda step: (order(step // n_batches)[step % n_batches],), n_batches


@lru_cache(1)
def _operations() -> Any:
    from cellfm.engines.jax.operations import JaxOperations

    return JaxOperations()


@lru_cache(32)
def _trainer(
    losses: tuple[tuple[str, Loss], ...],
    betas: tuple[float, float],
    weight_decay: float,
    clip: float | None,
    project: Callable[..., Weights] | None,
) -> tuple[Callable, Callable]:
    """The state of the optimiser at the start, and a compiled round: weights, state and the loss of each step."""
    import jax
    import optax

    xp = _operations()
    optimizer = optax.chain(
        *([] if clip is None else [optax.clip_by_global_norm(clip)]),
        optax.scale_by_adam(*betas),
        optax.add_decayed_weights(weight_decay),
    )

    def update(name: str, loss: Loss) -> Callable:
        def step(parts: Weights, states: Weights, rate: jax.Array, arrays: tuple) -> tuple[Weights, Weights, jax.Array]:
            def of(part: Weights) -> jax.Array:
                return loss(xp, {**parts, name: part} if name else part, *arrays)

            part = parts[name]
            value, slope = jax.value_and_grad(of)(part)
            change, state = optimizer.update(slope, states[name], part)
            part = optax.apply_updates(part, jax.tree.map(lambda c: -rate * c, change))
            part = part if project is None else project(xp, part)
            return {**parts, name: part}, {**states, name: state}, value

        return step

    steps = [update(*each) for each in losses]

    @jax.jit
    def train(parts: Weights, states: Weights, data: tuple, inputs: tuple) -> tuple[Any, ...]:
        def step(carry: Any, now: tuple) -> tuple[Any, Any]:
            turn, rate, *arrays = now
            *carry, value = jax.lax.switch(turn, steps, *carry, rate, (*data, *arrays))
            return tuple(carry), value

        (parts, states), values = jax.lax.scan(step, (parts, states), inputs)
        return parts, states, values

    return lambda parts: {name: optimizer.init(parts[name]) for name, _ in losses}, train


@lru_cache(32)
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    import jax

    return jax.jit(lambda weights, *arrays: function(_operations(), weights, *arrays))


@contextmanager
def _on_device() -> Iterator[None]:
    """Compute where `cf.settings.device` says, with full float32 precision in products."""
    import jax

    from cellfm.engines.jax.devices import default_device

    with jax.default_device(default_device(beside_ascend=True)), jax.default_matmul_precision("highest"):
        yield


def _chosen(better: np.ndarray, now: Weights, kept: Weights) -> Weights:
    """The current weights where they are better, of one model, or of several along the first axis."""
    import jax

    if better.ndim == 0:
        return now if better else kept
    return jax.tree.map(lambda a, b: np.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b), now, kept)


def _to_numpy(weights: Weights) -> Weights:
    import jax

    return jax.tree.map(np.array, weights)
