"""`cf.tl.fit_annotator`: a classifier of cell types, fitted to labelled reference cells."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from anndata import AnnData
from mudata import MuData

from cellfm.cells.input import read_input
from cellfm.cells.input_options import InputOptions
from cellfm.cells.select import select
from cellfm.engines import Backend, require_engine
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.model import CellFM, resolve_model
from cellfm.model._embed import stored_or_new_embedding
from cellfm.tasks.annotation._annotator import Annotator
from cellfm.tasks.annotation._labels import label_colors, read_groups, read_labels
from cellfm.tasks.annotation._train import check_options, train_annotator


@shared_docs
@checked
def fit_annotator(
    reference: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    labels_key: str,
    method: Literal["frozen", "lora", "full", "auto"] = "frozen",
    head: Literal["mlp", "query"] = "mlp",
    groups_key: str | None = None,
    n_layers: int = 1,
    layer: str | None = None,
    values_layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    validation_fraction: float = 0.15,
    class_weight: Literal["balanced"] | None = "balanced",
    lora_rank: int = 16,
    n_epochs: int | None = None,
    learning_rate: float | None = None,
    patience: int | None = None,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
    backend: Backend = "auto",
) -> Annotator:
    """Fit a classifier of cell types to reference cells.

    The head of the paper is a small MLP on the embedding of the cell (Zeng 2025, Methods, "Cell annotation"). With
    ``method="frozen"`` the model is not changed: cells are embedded once, or their embedding is taken from `obsm` if
    `cf.tl.embed` wrote it with the same model, and fitting the head takes seconds. ``"lora"`` and ``"full"`` start from
    that head and also train the model, so that they are never worse on the validation cells.

    ``"auto"`` fits the same head to the embedding, to 50 principal components of the 2,000 most variable genes of the
    reference, and to these genes, and logistic regression to all genes that the model knows. Candidates are each of
    them and averages of their probabilities. They are compared by their accuracy in three-fold cross-validation within
    the reference, for which whole groups are left out if `groups_key` names them (donors, batches, studies). The
    average of embedding, components and variable genes is chosen unless another candidate is better by more than 0.01.
    The chosen candidate is then fitted to all cells. The distance is that in the embedding, whatever is chosen.

    A part of each class is held out for validation, for the temperature that calibrates the confidence (Guo 2017), and
    for the thresholds beyond which a cell becomes ``"Unknown"``: they reject at most 5 % of the held-out cells, half by
    confidence and half by distance. The distance is the Mahalanobis distance to the nearest class in the embedding (Lee
    2018). With ``"auto"``, the held-out cells also took part in the cross-validation by which the candidate was chosen.

    Parameters
    ----------
    reference
        Cells with labels: counts, as for `cf.tl.embed`.
    {model}
    labels_key
        Column of `obs` with the labels. Cells without a label (missing or empty) are left out, with a warning.
    method
        What to train: only the head (``"frozen"``), the head and adapters (``"lora"``), or everything (``"full"``);
        ``"auto"`` chooses among heads on the embedding, on genes and on both.
    head
        ``"mlp"`` on CLS, or ``"query"``: learned class queries read the gene tokens by cross-retention. A query head
        runs the network in each step, even if the model is frozen. ``"auto"`` needs ``"mlp"``.
    groups_key
        Column of `obs` with donors, batches or studies, for the cross-validation of ``"auto"``. The choice is then made
        by how well cells of other groups are labelled; without it, by cells of the same groups.
    n_layers
        Layers of the MLP, 1 to 3.
    {layer}
    values_layer
        Layer with values that you normalised yourself; see `cf.tl.embed`.
    {modality}
    {gene_key}
    {hgnc}
    validation_fraction
        Share of each class that is held out.
    class_weight
        ``"balanced"`` gives every class the same weight, however many cells it has; None gives every cell the same
        weight.
    lora_rank
        Rank of the adapters.
    n_epochs
        Maximum number of passes over the cells: by default 5, or 10 for a frozen model with ``"query"``. For a frozen
        model with an MLP it is the number of updates on all cells at once (300); a head of one layer (logistic
        regression) stops earlier if it has converged. For ``"auto"`` it is that number for each head, in the
        cross-validation and in the final fit.
    learning_rate
        Learning rate of ``"lora"`` (by default 1e-3), ``"full"`` (3e-4) and ``"query"`` (1e-3).
    patience
        For the same: number of validations without improvement after which training stops (4). There are two
        validations per epoch.
    batch_size
        For the same: cells per update (64).
    {min_known_genes}
    random_state
        Seed of everything.
    backend
        Engine that trains: ``"jax"``, ``"mindspore"`` or ``"auto"``; see `cf.train.pretrain`. By default that of the
        model.

    Returns
    -------
    The annotator, for `cf.tl.annotate`. It has the methods `predict`, `save` and `load`. With ``"auto"``, its
    `selection` is a DataFrame with a row for each candidate: ``candidate``, ``mean_score`` and ``sd_score`` (mean and
    standard deviation of the accuracy over the folds), ``chosen`` (bool). Nothing is written to `reference`.

    Raises
    ------
    InputError
        `cf.tl.embed` would refuse the data; there is only one class, or a class of one cell, which the message names;
        an option has an invalid value; or `groups_key` is given for another method, or its column has missing values or
        fewer than two groups.
    MissingKeyError
        There is no such layer, modality or column; the message lists the available ones.

    Examples
    --------
    >>> annotator = cf.tl.fit_annotator(reference, labels_key="cell_type")
    >>> annotator.save("blood-annotator")
    >>> cf.tl.annotate(query, "blood-annotator")
    """
    check_options(method, head, n_layers, validation_fraction, class_weight, lora_rank)
    require_engine(backend)
    adata = select(reference, modality)
    labels = read_labels(adata, labels_key)
    groups = read_groups(adata, groups_key, labels, method)
    loaded = resolve_model(model)
    cells = read_input(
        adata,
        loaded.vocab,
        InputOptions(
            layer=layer, values_layer=values_layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes
        ),
    )
    annotator = train_annotator(
        loaded,
        cells,
        labels,
        method=method,
        head=head,
        groups=groups,
        n_layers=n_layers,
        embedding=stored_or_new_embedding(adata, loaded, cells, random_state=random_state),
        validation_fraction=validation_fraction,
        class_weight=class_weight,
        lora_rank=lora_rank,
        n_epochs=n_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        random_state=random_state,
        backend=backend,
    )
    return replace(annotator, colors=tuple(label_colors(adata, labels_key, list(annotator.classes))))
