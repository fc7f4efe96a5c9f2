"""`cf.tl.integrate`: embeddings without batch effects, by fine-tuning without labels or by Harmony."""

from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from cellfm.cells.input import CellInput, read_input
from cellfm.cells.input_options import InputOptions
from cellfm.cells.obs import read_complete_column
from cellfm.cells.outputs import require_keys, writing
from cellfm.cells.select import select
from cellfm.engines import Backend, require_engine
from cellfm.errors import InputError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.arguments import checked
from cellfm.io.defer_interrupt import defer_interrupt
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import counted_of, warn
from cellfm.keys import INTEGRATION
from cellfm.model import CellFM, resolve_model
from cellfm.model._checkpoint import check_model_folder
from cellfm.model._embed import embed_cells, stored_or_new_embedding
from cellfm.nn.integration import IntegrationWeights
from cellfm.tasks.integration._batches import MAX_VALIDATION, choose_cells, require_batches
from cellfm.tasks.integration._harmony import THETA, harmonize, require_harmonypy
from cellfm.tasks.integration._integrate import IntegrationOptions, integrate_cells, require_trainable
from cellfm.tasks.integration._umap import MIN_CELLS_OF_UMAP, umap_of


@shared_docs
@checked
def integrate(
    data: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    batch_key: str,
    method: Literal["lora", "full", "harmony"] = "lora",
    theta: float = THETA,
    lora_rank: int = 8,
    lora_layers: int | None = 1,
    adversary: float = 1.0,
    structure: float = 50.0,
    masked: float = 0.1,
    elastic: float = 0.0,
    discrepancy: float = 20.0,
    mask_ratio: float = 0.5,
    zero_fraction: float = 0.0,
    steps: int = 320,
    learning_rate: float = 1e-3,
    train_batch_size: int = 48,
    train_genes: int = 255,
    layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    key_added: str = INTEGRATION.obsm,
    umap: bool = False,
    save_model: str | Path | None = None,
    overwrite: bool = False,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
    backend: Backend = "auto",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Embed cells of several batches without the differences between the batches; labels are never read.

    ``method="lora"`` and ``"full"`` fine-tune the model and embed the cells with it, which takes minutes.
    ``method="harmony"`` corrects the embedding of the model as it is by Harmony (Korsunsky 2019), which takes seconds:
    within each soft cluster of cells, batches are moved onto each other, again and again until the clusters are mixed.
    Choose Harmony first. With the weights of `mini`, its AvgBio on five sets was 0.762, 0.862, 0.904, 0.870 and 0.692,
    and its total score 0.787, 0.810, 0.760, 0.892 and 0.712. Fine-tuning had AvgBio 0.759, 0.850, 0.619, 0.631 and
    0.638 and totals 0.788, 0.841, 0.633, 0.535 and 0.665, with the weights before; it was not measured again.
    Fine-tune if the model is to embed further cells of these batches (`save_model`).

    Training minimises a sum of terms:

    - adversary: a discriminator learns to predict the batch from the embedding, and the network learns, through a
      gradient reversal layer (Ganin 2016), to prevent this. Each cell is pushed as strongly as its batch is recognised;
    - structure: cosines between cells of the same batch should not change. This is our addition; it prevents the
      adversary from removing the differences between cells;
    - masked values, as in pretraining, of a quarter of the cells (Zeng 2025, Methods, "Loss");
    - elastic similarity of cells (Cui 2024): pairs with a cosine above 0.8 are pulled together, others are pushed
      apart. Off by default;
    - discrepancy: the squared maximum mean discrepancy between the cells of a batch and all cells (Gretton 2012, with
      Gaussian kernels of several widths). While the adversary pushes single cells, this term moves whole batches.

    A part of the cells (15 %, at most 300) is held out. The weights with the lowest score on these cells are kept. The
    score is the sum of the terms above, with `separability` instead of the adversary's loss: how much more often than
    by chance the nearest neighbours of a cell come from its own batch.

    If batches contain different cell types, integration may wrongly merge these types. Check the result with
    `cf.tl.benchmark`.

    Parameters
    ----------
    data
        Counts, cells x genes, as for `cf.tl.embed`. With MuData, the table `modality`.
    model
        Where to start: a model, its name (``"mini"``, ``"80M"``, ``"800M"``) or its path; see `cf.load_model`.
    batch_key
        Column of `obs` with the batch of each cell; at least two batches, with at least two cells each.
    method
        ``"lora"`` trains adapters and leaves the weights unchanged; ``"full"`` trains all weights; ``"harmony"`` trains
        nothing and corrects the embedding by harmonypy (``pip install 'cellfm[harmony]'``). It uses the embedding in
        ``obsm["X_cellfm"]`` if that comes from this model and these cells, and it accepts no option of the training:
        `lora_rank` to `train_genes`, `save_model` and `backend`.
    theta
        Only for ``"harmony"``: how strongly clusters of cells from few batches are penalised. Higher values mix batches
        more; 0 does not ask for mixed clusters.
    lora_rank
        Rank of the adapters.
    lora_layers
        Number of layers, counted from the last, that get adapters; None for all. Adapters below the last layer take
        more time, and in our tests separated cell types less well.
    adversary, structure, masked, elastic, discrepancy
        Weights of the terms; 0 turns a term off.
    mask_ratio
        Share of a cell's genes whose values are hidden and predicted.
    zero_fraction
        Zero modelling: number of unexpressed genes shown for each expressed gene. Only for models that were trained
        with it.
    steps
        Updates of the weights. The adversary needs a few hundred; 320 take about two minutes on two cores.
    learning_rate
        Maximum learning rate of the network; that of the discriminator is ten times as high.
    train_batch_size
        Cells per update.
    train_genes
        Maximum number of genes of a cell in training, drawn again at each step; embeddings use all genes.
    {layer}
    {modality}
    {gene_key}
    {hgnc}
    key_added
        Where the embedding goes in `obsm`.
    umap
        Also store UMAPs of the embeddings before and after, for `cf.pl.integration`.
    save_model
        Folder in which to save the fine-tuned model, for `cf.load_model`; by default it is not saved.
    overwrite
        Replace a model that is already in `save_model`. A folder with other contents is never replaced.
    {batch_size}
    {min_known_genes}
    random_state
        Seed of adapters, discriminator, batches, held-out cells and hidden values, or of Harmony's clusters.
    backend
        Engine that trains: ``"jax"``, ``"mindspore"`` or ``"auto"``; see `cf.train.pretrain`. By default that of the
        model.
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `obsm["X_cellfm_integrated"]`
        float32, (n_obs, d_model): the embeddings, in the order of the cells; NaN for cells without known genes.
    `uns["cellfm"]["X_cellfm_integrated"]`
        dict: model, hashes of its weights before and after, genes matched, batch key, method, seed, version; with
        Harmony ``theta``, otherwise steps, the step whose weights were kept (``best_step``) and ``history`` (a
        DataFrame: step, loss, score, separability, structure, masked, elastic, discrepancy at each validation).
    `obsm["X_cellfm_umap"]`, `obsm["X_cellfm_integrated_umap"]`
        float32, (n_obs, 2): with `umap`, the UMAPs before and after. The latter follows `key_added`.

    Raises
    ------
    InputError
        No counts, too few known genes, a missing batch, only one batch, a batch with fewer than two cells, an option
        out of range or of another method, or a model folder that cannot be written or that exists while `overwrite` is
        false.
    MissingPackageError
        ``method="harmony"`` needs harmonypy, which is not installed.
    MissingKeyError
        There is no such column, layer or modality; the message lists the available ones.

    Examples
    --------
    >>> cf.tl.embed(adata)
    >>> cf.tl.integrate(adata, batch_key="donor", steps=2, umap=True)  # 320 by default
    >>> adata.obsm["X_cellfm_integrated"].shape
    (200, 256)
    """
    weights = IntegrationWeights(adversary, structure, masked, elastic, discrepancy)
    training = {
        "lora_rank": lora_rank,
        "lora_layers": lora_layers,
        "mask_ratio": mask_ratio,
        "zero_fraction": zero_fraction,
        "steps": steps,
        "learning_rate": learning_rate,
        "train_genes": train_genes,
        "backend": backend,
    }
    saving = {"save_model": save_model, "overwrite": overwrite}
    _check_options(method, theta, vars(weights) | training | {"train_batch_size": train_batch_size} | saving)
    require_engine(backend)
    if save_model is not None:
        check_model_folder(save_model, overwrite=overwrite)
    adata = select(data, modality, copy=copy)
    require_keys(adata, "key_added", obsm=key_added)
    if umap and f"{key_added}_umap" == INTEGRATION.umap_before:
        raise InputError(f"key_added={key_added!r} is the embedding before integration: choose another key.")
    batches = read_complete_column(adata, batch_key, "batch_key")
    require_batches(batches, batch_key)
    loaded = resolve_model(model)
    reading = InputOptions(layer=layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes)
    cells = read_input(adata, loaded.vocab, reading)
    usable = _usable(cells, batches, batch_key, MIN_CELLS_OF_UMAP if umap else 0)
    encoding: dict[str, Any] = {"batch_size": batch_size, "random_state": random_state}
    if method == "harmony":
        after, before = loaded, stored_or_new_embedding(adata, loaded, cells, **encoding)
        embedding = _harmonized(before, batches, usable, theta, random_state)
        facts: dict[str, Any] = {"theta": theta}
    else:
        how: dict[str, Any] = {"batch_size": train_batch_size, "random_state": random_state, **training}
        options = IntegrationOptions(method=method, weights=weights, **how)
        before, (after, facts) = None, _finetuned(loaded, cells, batches, usable, options)
        if save_model is not None:
            after.save(save_model, overwrite=overwrite)
        embedding = embed_cells(after, cells, **encoding)
        _report(**facts)
    with writing(data, modality=modality, copy=copy) as out:
        out.adata.obsm[key_added] = embedding
        out.record(
            key_added,
            "obsm",
            **cells.facts(after, random_state),
            start_weights_sha256=loaded.weights_hash,
            batch_key=batch_key,
            method=method,
            n_empty_cells=adata.n_obs - len(usable),
            **facts,
        )
    if umap:
        if before is None:
            before = stored_or_new_embedding(out.adata, loaded, cells, **encoding)
        _add_umaps(out.adata, {INTEGRATION.umap_before: before, f"{key_added}_umap": embedding}, random_state)
    logger.info("added obsm[%r] (%d x %d) and uns['cellfm'][%r].", key_added, *embedding.shape, key_added)
    return out.returned


def _harmonized(
    embedding: np.ndarray, batches: np.ndarray, usable: np.ndarray, theta: float, random_state: int
) -> np.ndarray:
    """Harmony of the cells that have an embedding; the others stay NaN."""
    found = np.full_like(embedding, np.nan)
    found[usable] = harmonize(embedding[usable], batches[usable], theta=theta, random_state=random_state)
    return found


def _finetuned(
    model: CellFM, cells: CellInput, batches: np.ndarray, usable: np.ndarray, options: IntegrationOptions
) -> tuple[CellFM, dict[str, Any]]:
    """The fine-tuned model, and facts for the record of the run."""
    require_trainable(model, options)
    n_most = options.steps * options.batch_size + MAX_VALIDATION
    chosen = usable[choose_cells(batches[usable], n_most, random_state=options.random_state)]
    found = integrate_cells(model, _rows(cells, chosen), cells.match.ids, batches[chosen], options)
    return found.model, {
        "steps": options.steps,
        "best_step": found.best_step,
        "n_train_cells": len(chosen),
        INTEGRATION.history: found.history,
    }


def _usable(cells: CellInput, batches: np.ndarray, batch_key: str, min_cells: int) -> np.ndarray:
    """Numbers of the cells that express known genes; refuses too few of them, and warns of the others."""
    known = (cells.match.ids > 0).astype(np.float32)
    usable = np.flatnonzero(np.concatenate([block @ known > 0 for _, block in cells.counts.blocks()]))
    require_batches(batches[usable], batch_key)
    if len(usable) < min_cells:
        raise InputError(f"umap=True needs {min_cells} cells that express known genes; there are {len(usable)}.")
    if n_empty := len(batches) - len(usable):
        expressing = counted_of(n_empty, len(batches), "cell", "expresses", "express")
        warn(f"{expressing} no gene that the model knows: the embedding there is NaN.")
    return usable


def _report(*, best_step: int, history: pd.DataFrame, **_: Any) -> None:
    if not best_step:
        warn("No training step improved the score: the embedding is that of the original model.")
    at_start, kept = history["separability"].iloc[[0, int(history["score"].argmin())]]
    logger.info("separability of the batches: %.2f before, %.2f after (0 mixed, 1 separate).", at_start, kept)


def _add_umaps(adata: AnnData, embeddings: dict[str, np.ndarray], random_state: int) -> None:
    """Compute a UMAP of each embedding; the results written before do not depend on them."""
    try:
        pictures = {key: umap_of(embedding, random_state=random_state) for key, embedding in embeddings.items()}
    except Exception as error:  # noqa: BLE001
        warn(f"The UMAPs could not be computed ({error}); the integrated embedding was written.")
        return
    with defer_interrupt():
        for key, picture in pictures.items():
            adata.obsm[key] = picture


def _check_options(method: str, theta: float, training: dict[str, Any]) -> None:
    """Refuse an unknown method, options of the other methods, and options out of range."""
    if method not in ("lora", "full", "harmony"):
        raise InputError(f"method must be 'lora', 'full' or 'harmony', not {method!r}.")
    defaults = signature(integrate).parameters
    if method == "harmony":
        if given := [name for name, value in training.items() if value != defaults[name].default]:
            raise InputError(
                f"method='harmony' trains nothing and does not use {', '.join(f'{name}=' for name in given)}: leave "
                "out the options of training, or use method='lora' or 'full'."
            )
        require_harmonypy()
        return
    if theta != defaults["theta"].default:
        raise InputError(f"theta= is only for method='harmony', not for method={method!r}: leave it out.")


def _rows(cells: CellInput, chosen: np.ndarray) -> sp.csr_matrix:
    """The counts of some cells, which are given in order."""
    parts = []
    for span, block in cells.counts.blocks():
        first, last = np.searchsorted(chosen, (span.start, span.stop))
        parts.append(block[chosen[first:last] - span.start])
    return sp.vstack(parts, format="csr")
