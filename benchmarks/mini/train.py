"""Train `mini`: gene loadings from co-expression, refined by contrast, then the network that they start.

Run as ``python -m benchmarks.mini.train --data FOLDER --out FOLDER``.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from benchmarks.mini.corpus import CountSet, load_corpus
from benchmarks.mini.evaluate import judge
from benchmarks.mini.refine import RefineRecipe, refine_loadings
from benchmarks.mini.start import N_VALUE_DIMS, gene_loadings, start_weights
from benchmarks.mini.views import Batch, ViewRecipe, draw_batch, values_of
from benchmarks.mini.vocabulary import build_vocabulary
from cellfm.config import ModelConfig
from cellfm.data import tokenize
from cellfm.model._cellfm import CellFM
from cellfm.model._checkpoint import write_model
from cellfm.model._parameters import Weights
from cellfm.nn import build_network, name_parameters, network_weights


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, next to the data."""

    n_layers: int = 2
    d_model: int = 128
    n_heads: int = 8
    d_value: int = 64
    max_genes: int = 16384
    """Tokens of a cell when the model is used: all of them."""
    svd_cells: int = 1000
    """Most cells of a data set that the start of the loadings sees."""
    offset: float = 0.75
    """How much of the average cell the start subtracts."""
    refine: RefineRecipe = dataclasses.field(default_factory=RefineRecipe)
    refine_views: ViewRecipe = dataclasses.field(default_factory=lambda: ViewRecipe(max_genes=2000))
    n_steps: int = 150
    n_chunks: int = 256
    """Chunks of 64 tokens in a step."""
    learning_rate: float = 1e-4
    gene_rate: float = 0.3
    """Learning rate of the gene table, as a multiple of that of the layers."""
    decoder_rate: float = 10.0
    warm_up: int = 20
    clip: float = 1.0
    temperature: float = 0.2
    contrast_weight: float = 0.0
    masked_weight: float = 1.0
    views: ViewRecipe = dataclasses.field(default_factory=lambda: ViewRecipe(max_cells=96))
    seed: int = 0


def learn(sets: list[CountSet], config: ModelConfig, weights: Weights, recipe: Recipe, log: Path) -> Weights:
    """Weights after `n_steps` steps, each on cells of one data set."""
    network = build_network(config, weights, dropout=0.0).set_train(True)
    parameters = name_parameters(network)
    step = gradient_step(network, list(parameters.values()), recipe)
    at = np.arange(1, recipe.n_steps + 1)
    rates = recipe.learning_rate * np.minimum(at / recipe.warm_up, 0.5 * (1 + np.cos(np.pi * at / recipe.n_steps)))
    groups: list[dict] = [
        {"params": [p for name, p in parameters.items() if kind(name) == group], "lr": (rates * factor).tolist()}
        for group, factor in (("gene", recipe.gene_rate), ("decoder", recipe.decoder_rate), ("layer", 1.0))
    ]
    optimizer = nn.Adam([*groups, {"order_params": list(parameters.values())}], beta2=0.95)
    generator = np.random.default_rng(recipe.seed)
    shares = np.sqrt([cells.n_cells for cells in sets])
    began, sums = time.time(), np.zeros(4)
    with log.open("w") as file:
        file.write("step,loss,contrast,gene_wise,cell_wise,seconds\n")
        for i in at:
            cells = sets[generator.choice(len(sets), p=shares / shares.sum())]
            losses, gradients = step(*tensors(draw_batch(cells, recipe.views, recipe.n_chunks, generator)))
            optimizer(gradients)
            sums += losses.asnumpy()
            if not np.isfinite(sums).all():
                raise FloatingPointError(f"The loss is not finite at step {i}.")
            if i % 20 == 0:
                file.write(",".join(f"{value:.4f}" for value in (i, *sums / 20, time.time() - began)) + "\n")
                file.flush()
                sums[:] = 0
    return network_weights(network)


def kind(parameter: str) -> str:
    """Which of the learning rates is for a parameter."""
    return "gene" if parameter == "embed.gene" else "decoder" if "_decoder." in parameter else "layer"


def tensors(batch: Batch) -> tuple[ms.Tensor, ...]:
    c = batch.chunks
    arrays = (c.gene_ids, c.values, batch.visible, c.mask, c.chunk_cell, c.cls_row)
    return tuple(map(ms.Tensor, (*arrays, batch.target, batch.positives, batch.allowed)))


def gradient_step(network: nn.Cell, parameters: list[ms.Parameter], recipe: Recipe):
    """A compiled function from the tensors of a batch to its losses, (4,), and the clipped gradients."""
    temperature, clip = recipe.temperature, recipe.clip
    contrast_weight, masked_weight = recipe.contrast_weight, recipe.masked_weight

    def loss(gene_ids, values, visible, mask, chunk_cell, cls_row, target, positives, allowed):
        cell, _, gene_wise, cell_wise = network(gene_ids, values, visible, mask, chunk_cell, cls_row)
        unit = cell * ops.rsqrt((cell * cell).sum(-1, keepdims=True) + 1e-6)
        logits = ops.matmul(unit, unit.swapaxes(0, 1)) / temperature - 1e4 * (1 - allowed)
        contrast = -(positives * ops.log_softmax(logits, -1)).sum() / (positives.sum() + 1e-6)
        n = target.sum() + 1e-6
        by_gene = (((gene_wise - values) * target) ** 2).sum() / n
        by_cell = (((cell_wise - values) * target) ** 2).sum() / n
        total = contrast_weight * contrast + masked_weight * (by_gene + by_cell)
        return total, ops.stack((total, contrast, by_gene, by_cell))

    differentiate = ms.value_and_grad(loss, None, ms.ParameterTuple(parameters), has_aux=True)

    @ms.jit
    def step(gene_ids, values, visible, mask, chunk_cell, cls_row, target, positives, allowed):
        (_, losses), gradients = differentiate(
            gene_ids, values, visible, mask, chunk_cell, cls_row, target, positives, allowed
        )
        return losses, ops.clip_by_global_norm(gradients, clip)

    return step


def judge_model(model: CellFM, sets: list[CountSet], *, bio: bool = False) -> dict[str, dict[str, float]]:
    """Scores of the embeddings on every labelled set."""
    scores = {}
    for cells in sets:
        if cells.labels is not None:
            tokens = tokenize(cells.counts, cells.gene_ids, max_genes=model.config.max_genes)
            scores[cells.name] = judge(cells, model.encode(tokens).cell, bio=bio)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the h5ad files, with gene_info/ inside")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write; logs are written beside it")
    parser.add_argument("--leave-out", default="", help="data sets to train without, separated by commas")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="fields of the recipe to change")
    arguments = parser.parse_args()
    recipe = changed_recipe(arguments.set)
    vocab = build_vocabulary(arguments.data)
    corpus = load_corpus(arguments.data, vocab)
    left_out = arguments.leave_out.split(",") if arguments.leave_out else []
    sets = [cells for cells in corpus if cells.name not in left_out]
    config = ModelConfig(
        n_layers=recipe.n_layers,
        d_model=recipe.d_model,
        n_heads=recipe.n_heads,
        n_genes=len(vocab),
        d_value=recipe.d_value,
        max_genes=recipe.max_genes,
    )
    values = [
        values_of(tokenize(cells.counts, cells.gene_ids, max_genes=recipe.max_genes), config.n_gene_rows)
        for cells in sets
    ]
    loadings, average = gene_loadings(values, config.d_model - N_VALUE_DIMS, max_cells=recipe.svd_cells)
    del values
    loadings, average = refine_loadings(
        sets, loadings, recipe.offset * average, recipe.refine, recipe.refine_views, random_state=recipe.seed
    )
    weights = start_weights(config, loadings, average, random_state=recipe.seed)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if recipe.n_steps:
        weights = learn(sets, config, weights, recipe, arguments.out.with_suffix(".csv"))
    write_model(arguments.out, config, vocab, weights, name=arguments.out.name, overwrite=True, half=True)
    model = CellFM(config, vocab, weights)
    judged = [cells for cells in corpus if not left_out or cells.name in left_out]
    scores = judge_model(model, judged, bio=bool(left_out))
    record = {"recipe": dataclasses.asdict(recipe), "left_out": left_out, "scores": scores}
    arguments.out.with_suffix(".json").write_text(json.dumps(record, indent=1))
    print(json.dumps(scores))


def changed_recipe(changes: list[str]) -> Recipe:
    """The recipe with some fields changed, as ``n_steps=100`` or ``views.max_cells=64``."""
    recipe = Recipe()
    for change in changes:
        path, value = change.split("=", 1)
        part, _, field = path.rpartition(".")
        new = {field: json.loads(value)}
        recipe = dataclasses.replace(
            recipe, **({part: dataclasses.replace(getattr(recipe, part), **new)} if part else new)
        )
    return recipe


if __name__ == "__main__":
    main()
