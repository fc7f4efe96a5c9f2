"""`Annotator`: a fitted classifier of cell types, with calibrated confidence."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm.cells.input import CellInput, read_input
from cellfm.cells.input_options import InputOptions
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.messages import counted, warn
from cellfm.model import CellFM
from cellfm.tasks.annotation._calibrate import calibrated, check_thresholds
from cellfm.tasks.annotation._head import CombinedHead, Head
from cellfm.tasks.annotation._prediction import Prediction
from cellfm.tasks.annotation._reject import Reference

FEW_SHARED = 0.8
"""Share of the reference's genes in the query below which the user is warned."""

MANY_MISSING = 0.25
"""Share of the genes that a head reads which the query may lack without a warning."""

_SHOWN = 8  # classes in the repr


@dataclass(frozen=True)
class Annotator:
    """A classifier of cell types on a model, fitted by `cf.tl.fit_annotator`.

    Examples
    --------
    >>> annotator = cf.tl.fit_annotator(reference, labels_key="cell_type")
    >>> annotator.save("annotator")
    >>> cf.tl.Annotator.load("annotator").classes
    ('CD14+ Monocyte', 'CD19+ B', 'Dendritic')
    >>> annotator.predict(query)["label"].value_counts()
    """

    model: CellFM
    """The model below the head, fine-tuned or not."""
    classes: tuple[str, ...]
    """Names of the classes, sorted."""
    method: str
    """``"frozen"``, ``"lora"``, ``"full"`` or ``"auto"``."""
    head: Head = field(repr=False)
    reference: Reference = field(repr=False)
    """Means and covariance of the classes, for the distance."""
    gene_ids: np.ndarray = field(repr=False)
    """(n_genes,) int32: ids of the reference's genes in the vocabulary."""
    history: pd.DataFrame = field(repr=False)
    """History of the fit: a row for each validation, or a single row for a frozen head of one layer."""
    temperature: float
    """Temperature by which logits are divided."""
    confidence_threshold: float
    """Confidence below which cells are unknown."""
    distance_threshold: float
    """Distance above which cells are unknown."""
    n_cells: int
    """Number of labelled cells it was fitted to."""
    random_state: int = 0
    """Seed of the sample of genes that is drawn from cells with more genes than the model takes."""
    colors: tuple[str, ...] = field(default=(), repr=False)
    """Colours of the classes, if there are any."""
    selection: pd.DataFrame | None = field(default=None, repr=False)
    """Of ``method="auto"``, a row for each candidate: ``candidate``, ``mean_score`` and ``sd_score`` (accuracy over the
    folds of the reference), ``chosen``."""

    def __repr__(self) -> str:
        return (
            f"Annotator: {counted(len(self.classes), 'class')}, fitted to {counted(self.n_cells, 'cell')} and "
            f"{counted(len(self.gene_ids), 'gene')}\n"
            f"  head {self.head.kind!r} on the model {self.model.name!r} (method {self.method!r})\n"
            f"{'' if self.selection is None else f'  {self.choice}{chr(10)}'}"
            f"  Unknown: confidence below {self.confidence_threshold:.2f} or distance above "
            f"{self.distance_threshold:.2f}\n"
            f"  classes: {', '.join(self.classes[:_SHOWN])}{', ...' if len(self.classes) > _SHOWN else ''}"
        )

    @property
    def choice(self) -> str:
        """What ``method="auto"`` chose, and by how much; empty for the other methods."""
        if self.selection is None:
            return ""
        scores = self.selection.set_index("candidate")["mean_score"]
        chosen = str(self.selection["candidate"][self.selection["chosen"]].item())
        others = (scores[chosen] - scores.drop(chosen)).items()
        differences = ", ".join(f"{name!r} {difference:+.3f}" for name, difference in others)
        return f"chosen: {chosen!r}, accuracy {scores[chosen]:.3f} in cross-validation; difference to {differences}"

    def facts(self) -> dict[str, Any]:
        """The facts about the fit for the record of a run, with the candidates and the choice of ``method="auto"``."""
        facts: dict[str, Any] = {"method": self.method, "head": self.head.kind, "n_reference_cells": self.n_cells}
        facts["temperature"] = self.temperature
        if self.selection is not None:
            candidates, scores = (self.selection[name].to_numpy() for name in ("candidate", "mean_score"))
            facts |= {"choice": self.choice, "candidates": candidates.astype(object), "scores": scores}
        return facts

    @property
    def reads_embedding(self) -> bool:
        """Whether the head reads the embedding by the unchanged model, so that a stored one can be used."""
        return self.method in ("frozen", "auto") and self.head.kind != "query"

    def predict(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        gene_key: str | None = None,
        hgnc: str | Path | bool | None = None,
        min_known_genes: int = MIN_KNOWN_GENES,
        batch_size: int | None = None,
        confidence_threshold: float | None = None,
        distance_threshold: float | None = None,
    ) -> pd.DataFrame:
        """Predict labels of the cells of a table, without writing to it. See `cf.tl.annotate` for the parameters.

        Returns
        -------
        DataFrame, a row for each cell: label (``"Unknown"`` if rejected), raw_label, confidence, distance.
        """
        least, most = self.thresholds(confidence_threshold, distance_threshold)
        adata = select(adata)
        options = InputOptions(layer=layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes)
        cells = read_input(adata, self.model.vocab, options)
        self.check_genes(cells)
        found = self.predict_cells(cells, batch_size=batch_size)
        rejection = found.reject(least, most, inflate_distances=distance_threshold is None)
        rejection.warn(self.classes)
        names = np.array([*self.classes, None], object)[found.codes]  # the code -1 takes the last
        columns = {
            "label": rejection.labels(self.classes),
            "raw_label": names,
            "confidence": found.confidence,
            "distance": found.distance,
        }
        return pd.DataFrame(columns, index=adata.obs_names)

    def predict_cells(
        self, cells: CellInput, *, embedding: np.ndarray | None = None, batch_size: int | None = None
    ) -> Prediction:
        """Predictions for cells.

        Parameters
        ----------
        embedding
            (n_cells, d_model) embedding of the cells by the annotator's model, if available. Only a head on the frozen
            model's CLS can use it.
        """
        logits, embedding = self.head.judge(
            self.model,
            cells,
            embedding=embedding if self.reads_embedding else None,
            batch_size=batch_size,
            random_state=self.random_state,
        )
        return Prediction.of(calibrated(logits, self.temperature), embedding, self.reference)

    def thresholds(self, confidence: float | None, distance: float | None) -> tuple[float, float]:
        """The thresholds of the user if given, otherwise those chosen on validation.

        Raises
        ------
        InputError
            They are out of range.
        """
        check_thresholds(confidence, distance)
        least = self.confidence_threshold if confidence is None else confidence
        return least, self.distance_threshold if distance is None else distance

    def check_genes(self, cells: CellInput) -> None:
        """Refuse cells that share no gene with the reference; warn if they lack many of its genes.

        Raises
        ------
        InputError
            There is no common gene.
        """
        shared = np.intersect1d(cells.match.ids, self.gene_ids)
        if not len(shared):
            raise InputError(
                f"The query shares no gene with the reference, which has {len(self.gene_ids):,} genes of the model."
            )
        told = []
        if len(shared) < FEW_SHARED * len(self.gene_ids):
            told.append(
                f"The query has {len(shared):,} of the {len(self.gene_ids):,} genes of the reference. Other "
                "genes give other embeddings; cf.tl.annotate(query, reference=...) fits the "
                "annotator to the shared genes."
            )
        if isinstance(self.head, CombinedHead):
            missing = self.head.genes.missing(cells)[self.head.read]
            if missing.mean() > MANY_MISSING:
                told.append(
                    f"The query lacks {missing.sum():,} of the {len(missing):,} genes that the head reads; they are "
                    "given the mean of the reference."
                )
        if told:
            warn(" ".join(told))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Save a folder with ``annotator.json``, ``head.safetensors`` and, unless its name identifies it, the model.

        Raises
        ------
        InputError
            The folder exists and `overwrite` is false, it exists and is not an annotator, or it cannot be written.
        """
        from cellfm.tasks.annotation._files import write_annotator

        write_annotator(self, Path(path), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path, model: str | Path | CellFM | None = None) -> "Annotator":
        """Load a folder from `save`.

        Parameters
        ----------
        model
            The model it was fitted with, if it is in memory or has moved; by default it is found automatically.

        Raises
        ------
        CheckpointError
            A file is missing or damaged, or the model is a different one.
        """
        from cellfm.tasks.annotation._files import read_annotator

        return read_annotator(Path(path), model)
