"""The network that predicts the effect of a perturbation, from genes, perturbations and two graphs (GEARS, Roohani
2023).
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from cellfm.engines import Array, Operations, Weights
from cellfm.nn.heads import draw
from cellfm.nn.linear import dense, linear

MOMENTUM = 0.1
"""Momentum of the running statistics, by which prediction normalises."""
EPSILON = 1e-5
MIN_VARIANCE = 1e-4
"""Minimum initial variance of a gene."""
HOP_SHARE = 0.2
"""Weight of a gene's neighbours."""
SHARPNESS = 10.0
"""Slope of the tanh that approximates the sign of a change."""
Statistics = tuple[Array, ...]
"""New means and variances of batch normalisation, in the order of `statistics_names`; empty in prediction."""


def perturbed_changes(
    xp: Operations, p: Weights, perturbed: Array, present: Array, *, training: bool
) -> tuple[Array, Array, Statistics]:
    """The change of every gene when one or two genes are perturbed.

    From perturbed genes (s, 2), and 1 for each that exists (s, 2), to changes and log variances, (s, n_genes) each.
    Without an uncertainty head the log variances are 0.
    """
    fixed = p["fixed"]
    s, n_genes = perturbed.shape[0], p["read_bias"].shape[0]
    x, norm = batch_norm(xp, p["gene_norm"], table(xp, p["genes"], fixed, "genes"), training=training)
    x = xp.relu(x)
    hop = neighbours(xp, p["gene_hop"], fixed["coexpression"], x, xp.arange(n_genes))
    x, of_genes = normed_mlp(xp, p["gene_mlp"], x + HOP_SHARE * hop, training=training)
    y = neighbours(
        xp, p["perturbation_hop"], fixed["relations"], table(xp, p["perturbations"], fixed, "perturbations"), perturbed
    )  # (s, 2, w)
    y, of_perturbations = normed_mlp(xp, p["perturbation_mlp"], (y * present[..., None]).sum(1), training=training)
    width = x.shape[-1]
    both = (x[None] + y[:, None]).reshape((-1, width))  # (s g, w)
    both, joint_norm = batch_norm(xp, p["joint_norm"], both, training=training)
    both, of_joint = normed_mlp(xp, p["joint_mlp"], xp.relu(both), training=training)
    both = both.reshape((s, n_genes, width))
    direct = (both * p["read"]).sum(-1) + p["read_bias"]  # (s, g)
    cross, of_cross = normed_mlp(xp, p["cross_mlp"], direct, training=training)
    change = direct * (1 + p["own"]) + dense(xp, p["cross"], cross)
    log_variance = xp.zeros_like(change)
    if "read_variance" in p:
        log_variance = (both * p["read_variance"]).sum(-1) + p["variance_bias"]
    return change, log_variance, norm + of_genes + of_perturbations + joint_norm + of_joint + of_cross


def batch_norm(xp: Operations, p: Weights, x: Array, *, training: bool) -> tuple[Array, Statistics]:
    """Batch normalisation of rows, (n, d) to (n, d); by the batch in training, otherwise by the running statistics."""
    if training:
        mean = xp.mean_rows(x)
        centred = x - mean
        variance = xp.mean_rows(centred * centred)
        statistics = (follow(xp, p["mean"], mean), follow(xp, p["variance"], variance))
    else:
        mean, variance = p["mean"], p["variance"]
        statistics = ()  # type: ignore[assignment]
    scale = p["gamma"] * xp.rsqrt(variance + EPSILON)
    return x * scale + (p["beta"] - mean * scale), statistics


def follow(xp: Operations, kept: Array, new: Array) -> Array:
    return (1 - MOMENTUM) * kept + MOMENTUM * xp.stop_gradient(new)


def normed_mlp(xp: Operations, p: Weights, x: Array, *, training: bool) -> tuple[Array, Statistics]:
    """Dense layers, each followed by batch normalisation, with ReLU between: (n, first) to (n, last)."""
    statistics = ()
    for i in range(len(p["layers"])):
        x = linear(xp, p["layers"][i], xp.relu(x) if i else x)
        x, new = batch_norm(xp, p["norms"][i], x, training=training)
        statistics = statistics + new  # type: ignore[assignment]
    return x, statistics


def table(xp: Operations, p: Weights, fixed: Weights, name: str) -> Array:
    """Vectors of genes (n, width): learnt, or projected from given ones by two dense layers."""
    if "rows" in p:
        return p["rows"]
    return dense(xp, p["projection"]["outer"], xp.relu(dense(xp, p["projection"]["inner"], fixed[name])))


def neighbours(xp: Operations, p: Weights, graph: Weights, x: Array, chosen: Array) -> Array:
    """One hop on a graph: the weighted mean over neighbours, then a dense layer.

    `x` (n, width), rows to compute (...,) to (..., width).
    """
    near, weights = xp.take(graph["neighbours"], chosen), xp.take(graph["weights"], chosen)  # (..., k)
    return dense(xp, p["linear"], (xp.take(x, near) * weights[..., None]).sum(-2))


def perturbation(
    *, power: float, direction: float, sign: bool, uncertainty: bool, uncertainty_weight: float
) -> Callable[..., tuple[Array, Array, Statistics]]:
    """The loss of pairs and its terms (2,): the error to a power, and the direction of the change against mean control.

    The arrays: perturbed genes and their presence (s, 2), changes to predict, and deviations of the controls of the
    pairs from mean control, (s, n_genes) each. Also returns the new statistics of batch normalisation.
    """

    def loss(
        xp: Operations, p: Weights, arrays: tuple[Array, ...], keys: Array | None
    ) -> tuple[Array, Array, Statistics]:
        perturbed, present, target, start = arrays
        change, log_variance, statistics = perturbed_changes(xp, p, perturbed, present, training=True)
        error = xp.abs(change - target)
        raised = (error**power).mean()
        if sign:
            difference = xp.sign(target + start) - xp.sign(change + start)
        else:
            difference = xp.tanh(SHARPNESS * (target + start)) - xp.tanh(SHARPNESS * (change + start))
        of_direction = (difference * difference).mean()
        total = raised + direction * of_direction
        if uncertainty:  # the variance learns from the error, but not the error from the variance
            square = xp.stop_gradient(error * error)
            total = total + uncertainty_weight * (square * xp.exp(-log_variance) + log_variance).mean()
        return total, xp.stack((raised, of_direction), 0), statistics

    return loss


def perturbation_weights(
    n_genes: int,
    n_perturbable: int,
    *,
    d_genes: int | None,
    d_perturbations: int | None,
    width: int,
    uncertainty: bool,
    random_state: int,
) -> dict[str, np.ndarray]:
    """Initial weights by flat name; given vectors have `d_genes` and `d_perturbations` entries, None learns them.

    With these weights the network predicts no change.
    """
    shapes: dict[str, tuple[int, ...]] = {"read": (n_genes, width), "read_bias": (n_genes,), "own": (n_genes,)}
    if uncertainty:
        shapes |= {"read_variance": (n_genes, width), "variance_bias": (n_genes,)}
    shapes |= _table("genes", n_genes, d_genes, width) | _norm("gene_norm", width)
    shapes |= _dense("gene_hop.linear", width, width) | _normed_mlp("gene_mlp", width, width, width)
    shapes |= _table("perturbations", n_perturbable, d_perturbations, width)
    shapes |= _dense("perturbation_hop.linear", width, width) | _normed_mlp("perturbation_mlp", width, width, width)
    shapes |= _norm("joint_norm", width) | _normed_mlp("joint_mlp", width, 2 * width, width)
    shapes |= _normed_mlp("cross_mlp", n_genes, width, width) | _dense("cross", width, n_genes)
    ones = ("gamma", "variance")
    weights = {
        name: (np.ones if name.endswith(ones) else np.zeros)(shape, np.float32) for name, shape in shapes.items()
    }
    weights = draw(weights, random_state=random_state)
    for name in ("read", "cross.linear.weight"):
        weights[name] = np.zeros_like(weights[name])
    return weights


def statistics_names() -> list[str]:
    """Flat names of the statistics that `perturbed_changes` returns, in its order."""
    norms = ["gene_norm", "gene_mlp.norms.0", "gene_mlp.norms.1"]
    norms += ["perturbation_mlp.norms.0", "perturbation_mlp.norms.1", "joint_norm"]
    norms += ["joint_mlp.norms.0", "joint_mlp.norms.1", "cross_mlp.norms.0", "cross_mlp.norms.1"]
    return [f"{norm}.{statistic}" for norm in norms for statistic in ("mean", "variance")]


def _dense(name: str, d_in: int, d_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.bias": (d_out,), f"{name}.linear.weight": (d_out, d_in)}


def _norm(name: str, d: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (d,) for part in ("gamma", "beta", "mean", "variance")}


def _normed_mlp(name: str, *sizes: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (d_in, d_out) in enumerate(pairwise(sizes)):
        shapes |= {f"{name}.layers.{i}.weight": (d_out, d_in)} | _norm(f"{name}.norms.{i}", d_out)
    return shapes


def _table(name: str, n: int, d_given: int | None, width: int) -> dict[str, tuple[int, ...]]:
    if d_given is None:
        return {f"{name}.rows": (n, width)}
    return _dense(f"{name}.projection.inner", d_given, 2 * width) | _dense(f"{name}.projection.outer", 2 * width, width)
