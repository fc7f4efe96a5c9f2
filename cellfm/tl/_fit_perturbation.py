"""`cf.tl.fit_perturbation`: a predictor of the effects of perturbations, fitted to perturbed cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.input import CellInput, read_input
from cellfm.cells.input_options import InputOptions
from cellfm.cells.matrix import gene_rows
from cellfm.cells.select import select
from cellfm.engines import Backend, require_engine
from cellfm.errors import InputError
from cellfm.genes.hgnc import load_synonyms
from cellfm.genes.match import MIN_KNOWN_GENES, find_genes, require_genes
from cellfm.genes.text import as_text
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.model import CellFM, resolve_model
from cellfm.tasks._expression import read_expression
from cellfm.tasks.genes import GeneSets, read_gene_sets
from cellfm.tasks.perturbation._conditions import Conditions, condition_column, read_conditions
from cellfm.tasks.perturbation._fit import Cells, fit_predictor, known_genes
from cellfm.tasks.perturbation._labels import LabelRule, require_rule
from cellfm.tasks.perturbation._predictor import PerturbationPredictor
from cellfm.tasks.perturbation._recipe import Recipe, Start
from cellfm.tasks.perturbation._split import Split, given_split, simulation_split, single_split, whole_split

SPLITS = {"simulation": simulation_split, "single": single_split, "all": whole_split}


@shared_docs
@checked
def fit_perturbation(
    adata: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    condition_key: str,
    control: str | float | Sequence[str] | None = None,
    parse_labels: LabelRule | None = None,
    gene_sets: GeneSets | None = None,
    split: str = "simulation",
    genes: Literal["static", "contextual", "learned"] = "static",
    perturbation: Literal["cellfm", "learned"] = "cellfm",
    start: Start = Recipe.start,
    candidates: Sequence[str] = (),
    uncertainty: bool = False,
    layer: str | None = None,
    counts_layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    n_epochs: int = Recipe.n_epochs,
    learning_rate: float = Recipe.learning_rate,
    batch_size: int = Recipe.batch_size,
    cells_per_pair: int = Recipe.bag,
    power: float = Recipe.power,
    weight_decay: float = Recipe.weight_decay,
    width: int = Recipe.width,
    random_state: int = 0,
    backend: Backend = "auto",
) -> PerturbationPredictor:
    """Fit a network that predicts what perturbing one or two genes changes, and compare it with simple baselines.

    The network is that of GEARS (Roohani 2023) with gene embeddings of CellFM (Zeng 2025, "Perturbation"): a graph of
    co-expressed genes, a graph of genes that share Gene Ontology terms, and layers across genes. Its training differs
    from GEARS by default: the network learns what the sum of the effects of the genes leaves (`start`), from means of a
    few cells (`cells_per_pair`), with the squared error (`power`) and without weight decay (`weight_decay`).

    The validation conditions are used for two choices, by the squared error on their 20 most changed genes. First, the
    epoch: the earliest one, including the state before training, whose error is within one standard error of the
    minimum. Second, the method, `predictor.chosen`: the sum of the effects of the genes (``"gene effects"``), unless
    the error of another method is lower by a one-sided t-test at 95 %. Differences are paired by condition, or, if
    there is only one validation condition, by gene; this is weaker evidence, so keep several if you split by a column.
    All results are reported on test conditions, which influence no choice. On published data no deep model has reliably
    beaten the baselines (Ahlmann-Eltze 2025): look at `evaluation` before you trust a prediction.

    Parameters
    ----------
    adata
        Counts, or log1p of counts per 10,000, of control and perturbed cells. With MuData, the table `modality`.
    {model}
    condition_key
        Column with the condition of each cell. With MuData it may be in `obs` of the table, of the MuData, or of the
        table of guides ``"gdo"``. Cells whose label is missing, or is listed in `cf.settings.missing_labels`, are left
        out, with a warning. Labels are read as text, and matched to the genes of the data, of the model, of `gene_sets`
        and of `candidates`:

        - one gene: ``A``, ``A+ctrl``, ``A_ctrl``; a label that is itself a gene name is never split (``HLA-A``);
        - a gene with a guide or with the type of perturbation: ``A_1``, ``A_sg2``, ``sgA-1``, ``A KO``, ``A_P1P2``; all
          guides of a gene are pooled, and their number is logged;
        - two genes: ``A+B``, ``A|B``, ``A,B``, ``A;B``, and ``A_B`` if both are genes, with or without guides;
        - control: ``ctrl``, ``control``, ``non-targeting``, ``NT``, ``NegCtrl0``, ``safe-targeting``, ``unperturbed``
          and the like, in any capitalisation and with any number; the labels taken as control are logged.

        The error lists the labels that fit none of these.
    control
        Label or labels of control cells, instead of the words above; a number is compared as text.
    parse_labels
        Another way to read labels: a separator such as ``"-"``, at which labels are split; a mapping from labels to
        ``"A"``, ``"A+B"``, ``["A", "B"]`` or ``"ctrl"``, or to None to leave their cells out (labels that are not in
        the mapping are read as usual); or a function from a label to one of these.
    gene_sets
        Terms and their genes (a GMT file, a dict, or the name of an Enrichr library), for the graph of perturbed genes.
        Genes without terms are linked to the genes with the most similar CellFM embedding; without `gene_sets`, all
        genes are.
    split
        ``"simulation"``: a quarter of the perturbed genes is kept out of training, and so is a quarter of the pairs of
        the other genes. ``"single"``: single genes only. ``"all"``: no test conditions. Or a column with ``train``,
        ``validation`` and ``test``, with the same value for all cells of a condition.
    genes
        Vectors of the measured genes: rows of the model's gene table, mean outputs over the control cells, or learned.
    perturbation
        Vectors of the perturbed genes: rows of the model's gene table, or learned. With learned vectors, labels need
        not be genes: labels that are not genes are used as they are, with a warning.
    start
        Prediction to which the network learns a correction. ``"effects"``: the sum of the effects of the genes, which a
        ridge regression finds in singles and pairs together. ``"additive"``: the sum of the changes of the single genes
        (the mean change for genes not seen alone). ``"mean"``: the mean change of the training conditions. ``"none"``:
        no change, as in GEARS.
    candidates
        Genes to be perturbed later that are neither measured nor perturbed here.
    uncertainty
        Predict also how far differences between means of `cells_per_pair` cells lie around each change.
    layer
        Layer with the expression; by default X.
    counts_layer
        Layer with the counts that ``genes="contextual"`` reads, where `layer` holds normalised values.
    {modality}
    {gene_key}
    {hgnc}
    min_known_genes
        Minimum number of genes that the model must know; 0 with ``genes="learned"`` asks for none.
    n_epochs
        Most passes over the cells, of 5 steps at least; training stops after 5 without improvement on the validation
        conditions.
    learning_rate
        At the start; it falls by a tenth after each epoch (by half in GEARS).
    batch_size
        Conditions of a step; all, where there are fewer.
    cells_per_pair
        Cells that are averaged on either side of a pair of control and perturbed cells; 1 in GEARS.
    power
        Of the absolute error in the loss; 4 in GEARS.
    weight_decay
        Of the optimiser; 5e-4 in GEARS.
    width
        Of the layers.
    random_state
        Seed of everything.
    backend
        Engine that trains: ``"jax"``, ``"mindspore"`` or ``"auto"``; see `cf.train.pretrain`.

    Returns
    -------
    The predictor, for `cf.tl.perturb` and `cf.tl.rank_perturbations`; it has `chosen` (what predicts by default),
    `choice`, `evaluation`, `scores`, `history`, `predict`, `save` and `load`. Nothing is written to `adata`.

    Raises
    ------
    InputError
        No control cells (the labels are listed), labels that cannot be read, perturbed genes of which nothing is
        known, too few conditions for the split, values that are neither counts nor log-normalised.
    MissingKeyError
        There is no such column, layer or modality; the message lists the available ones.

    Examples
    --------
    >>> predictor = cf.tl.fit_perturbation(perturbed, condition_key="condition", min_known_genes=50, n_epochs=1)
    >>> predictor.evaluation.query("metric == 'pearson_delta' and subgroup == 'all'")[["predictor", "mean"]]
    """
    _check(genes, perturbation)
    require_engine(backend)
    recipe = Recipe(
        width=width,
        n_epochs=n_epochs,
        batch_size=batch_size,
        start=start,
        bag=cells_per_pair,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        power=power,
        uncertainty=uncertainty,
        random_state=random_state,
    )
    table = gene_rows(select(adata, modality))
    require_rule(parse_labels)
    labels = condition_column(adata, table, condition_key)
    values = read_expression(table, layer)
    terms = {} if gene_sets is None else read_gene_sets(gene_sets)
    loaded = resolve_model(model)
    synonyms = load_synonyms(hgnc)
    match = find_genes(table.var, loaded.vocab, gene_key=gene_key, synonyms=synonyms)
    if genes != "learned":
        require_genes(match, loaded.vocab, min_known_genes, "adata.var")
    names = tuple(map(str, table.var_names))
    symbols = tuple(np.where(match.ids > 0, loaded.vocab.symbols[np.maximum(match.ids, 1) - 1], names).tolist())
    known = known_genes(labels.dropna().astype(str).unique(), loaded.vocab, synonyms)
    conditions = read_conditions(
        adata,
        table,
        condition_key,
        known=known.union(names, symbols, candidates, *terms.values()),
        control=control,
        parse_labels=parse_labels,
        others=perturbation == "learned",
    )
    parts = _split(adata, table, conditions, split, random_state)
    cells: CellInput | None = None
    if genes == "contextual":
        cells = read_input(
            table,
            loaded.vocab,
            InputOptions(layer=counts_layer or layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes),
        )
    return fit_predictor(
        loaded,
        Cells(values, conditions, names, symbols, cells),
        parts,
        terms=terms,
        synonyms=synonyms,
        candidates=candidates,
        genes=genes,
        perturbation=perturbation,
        recipe=recipe,
        backend=backend,
    )


def _check(genes: str, perturbation: str) -> None:
    if genes not in ("static", "contextual", "learned"):
        raise InputError(f"genes must be 'static', 'contextual' or 'learned', not {genes!r}.")
    if perturbation not in ("cellfm", "learned"):
        raise InputError(f"perturbation must be 'cellfm' or 'learned', not {perturbation!r}.")


def _split(data: AnnData | MuData, table: AnnData, conditions: Conditions, split: str, random_state: int) -> Split:
    if split in SPLITS:
        return SPLITS[split](conditions.perturbed, random_state=random_state)
    column = pd.Series(as_text(condition_column(data, table, split)))
    part_of = {}
    for place, condition in enumerate(conditions.conditions):
        parts = column[conditions.cells(place)].unique()
        if condition and len(parts) > 1:
            raise InputError(
                f"obs[{split!r}] puts cells of {'+'.join(condition)} into several parts: {', '.join(parts)}. A "
                "condition belongs to one."
            )
        part_of[condition] = parts[0]
    part_of[()] = "train"
    return given_split(part_of, random_state=random_state)
