"""`PerturbationPredictor`: predicts expression under perturbations of genes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellfm.errors import InputError
from cellfm.io.messages import counted
from cellfm.model import CellFM
from cellfm.tasks.perturbation._baselines import additive, baseline, start_changes, vectors_by_name
from cellfm.tasks.perturbation._conditions import Condition, name_of, parse_all
from cellfm.tasks.perturbation._profiles import Profiles
from cellfm.tasks.perturbation._recipe import Recipe
from cellfm.tasks.perturbation._split import Split

if TYPE_CHECKING:
    from cellfm.tasks.perturbation._train import Forward, NetworkInput

NETWORK = "network"
"""Name of the network in tables."""
_NAMED_BY = {"measured": "symbols", "cellfm": "perturbable"}


@dataclass(frozen=True)
class PerturbationPredictor:
    """Predicts the change of expression when one or two genes are perturbed; fitted by `cf.tl.fit_perturbation`.

    Examples
    --------
    >>> predictor.save("predictor")
    >>> cf.tl.PerturbationPredictor.load("predictor").conditions(["CD3D", "CD3D+CD3E"])
    [('CD3D',), ('CD3D', 'CD3E')]
    """

    genes: tuple[str, ...] = field(repr=False)
    """Measured genes, as in `var_names`."""
    symbols: tuple[str, ...] = field(repr=False)
    """The same genes by the model's symbols, by which perturbed genes are found among them."""
    perturbable: tuple[str, ...] = field(repr=False)
    """Genes whose perturbation can be predicted."""
    profiles: Profiles = field(repr=False)
    """Measured conditions, control first."""
    controls: np.ndarray = field(repr=False)
    """(n, n_genes) float32: some control cells."""
    split: Split = field(repr=False)
    """Conditions of training, validation and test."""
    history: pd.DataFrame = field(repr=False)
    """A row for each epoch: loss, and error and correlation on the validation conditions."""
    scores: pd.DataFrame = field(repr=False)
    """A row for each predictor and test condition: the network and each baseline."""
    evaluation: pd.DataFrame = field(repr=False)
    """Means of the scores by subgroup, with intervals and the difference to the best baseline."""
    model: dict[str, str]
    """Name and hashes of the model whose gene embeddings were used."""
    chosen: str
    """Default method, chosen on the validation conditions: ``"network"``, or a baseline of `evaluation`
    (``"gene effects"``, ``"additive"``, ``"bilinear, PCA genes"``, ``"bilinear, CellFM genes"``, ``"mean change"``)."""
    choice: pd.DataFrame = field(repr=False)
    """A row for each method: error on the validation conditions, difference to the effects of the genes and its
    standard error."""
    recipe: Recipe = field(repr=False)
    given: "NetworkInput" = field(repr=False)
    weights: dict[str, np.ndarray] = field(repr=False)
    vectors: dict[str, np.ndarray] = field(repr=False)
    """Vectors of genes for the bilinear baselines: of `symbols` from the expression of the training cells, and of
    `perturbable` from CellFM."""

    def __repr__(self) -> str:
        parts = {"training": self.split.train, "validation": self.split.validation, "test": self.split.test}
        conditions = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
        return (
            f"PerturbationPredictor: predicts {counted(len(self.genes), 'gene')}, by {self.chosen!r} unless asked\n"
            f"  conditions: {conditions}\n"
            f"  {counted(len(self.perturbable), 'gene')} can be perturbed; gene embeddings of {self.model['name']!r}\n"
            f"  methods: {', '.join(map(repr, self.methods))}"
        )

    @cached_property
    def places(self) -> dict[str, int]:
        """Position of each perturbable gene."""
        return {gene: i for i, gene in enumerate(self.perturbable)}

    @cached_property
    def _forward(self) -> "Forward":
        from cellfm.tasks.perturbation._train import trained_network

        return trained_network(self.given, self.weights)

    def __getstate__(self) -> dict[str, Any]:
        """The state without compiled functions."""
        return {name: value for name, value in self.__dict__.items() if name != "_forward"}

    def facts(self) -> dict[str, str]:
        """The facts for the record of a run."""
        return {("model" if name == "name" else name): fact for name, fact in self.model.items()}

    def conditions(self, perturbations: Sequence[str]) -> list[Condition]:
        """Conditions of labels such as ``"A"`` and ``"A+B"``.

        Raises
        ------
        InputError
            There are no labels, a label cannot be read, or a gene is unknown.
        """
        perturbations = [perturbations] if isinstance(perturbations, str) else list(perturbations)
        if not perturbations:
            raise InputError("Expected perturbations such as ['A', 'A+B'], found an empty list.")
        found = parse_all(perturbations, known=self.places)
        self.check_genes({gene for condition in found for gene in condition})
        return found

    def check_genes(self, genes: set[str]) -> None:
        """Refuse genes that the predictor does not know.

        Raises
        ------
        InputError
            There are such genes.
        """
        if unknown := sorted(genes - self.places.keys()):
            raise InputError(
                f"The predictor does not know {', '.join(unknown[:20])}: neither measured nor perturbed in the data "
                f"that it was fitted to. It knows {len(self.places):,} genes, such as "
                f"{', '.join(self.perturbable[:5])}; pass others as candidates= when fitting."
            )

    @property
    def methods(self) -> tuple[str, ...]:
        """The available methods: the network, and each baseline."""
        return tuple(self.choice["predictor"])

    def method(self, name: str | None) -> str:
        """The method with this name, by default the chosen one.

        Raises
        ------
        InputError
            There is no such method; the message lists the available ones.
        """
        if name is None:
            return self.chosen
        if name not in self.methods:
            raise InputError(f"method must be one of {', '.join(map(repr, self.methods))}, not {name!r}.")
        return name

    def changes(self, conditions: Sequence[Condition], method: str | None = None) -> np.ndarray:
        """(n, n_genes) float32: predicted mean change against control; 0 for control itself.

        Parameters
        ----------
        method
            One of `methods`; by default the `chosen` one.
        """
        if self.method(method) == NETWORK:
            return self.changes_and_variances(conditions)[0]
        known = self.profiles.changes(self.learnt)
        of = {name: vectors_by_name(getattr(self, _NAMED_BY[name]), array) for name, array in self.vectors.items()}
        changes = baseline(self.method(method), conditions, self.learnt, known, **of)
        changes[[not condition for condition in conditions]] = 0
        return changes

    def changes_and_variances(self, conditions: Sequence[Condition]) -> tuple[np.ndarray, np.ndarray]:
        """Changes predicted by the network, and variances of training pairs around them (1 without an uncertainty
        head).
        """
        from cellfm.tasks.perturbation._train import code_conditions

        changes, variances = self._forward(*code_conditions(conditions, self.places))
        known = self.profiles.changes(self.learnt)
        changes = changes + start_changes(self.recipe.start, conditions, self.learnt, known)
        changes[[not condition for condition in conditions]] = 0
        return changes, variances

    def predict(self, perturbations: Sequence[str], method: str | None = None) -> pd.DataFrame:
        """Predict mean log-normalised expression, perturbations x genes.

        Parameters
        ----------
        perturbations
            Perturbations such as ``["A", "A+B"]``.
        method
            One of `methods`; by default the `chosen` one.

        Raises
        ------
        InputError
            A gene or method is unknown, or a label cannot be read.
        """
        conditions = self.conditions(perturbations)
        mean = self.profiles.control + self.changes(conditions, method)
        return pd.DataFrame(mean, index=[name_of(condition) for condition in conditions], columns=list(self.genes))

    @property
    def learnt(self) -> tuple[Condition, ...]:
        """Conditions of training and validation."""
        return (*self.split.train, *self.split.validation)

    def additive_changes(self, conditions: Sequence[Condition]) -> np.ndarray:
        """(n, n_genes): predictions of the additive baseline."""
        return additive(conditions, self.learnt, self.profiles.changes(self.learnt))

    def others_than(self, genes: set[str]) -> np.ndarray:
        """(n_genes,) bool: measured genes other than these, by either name."""
        named = zip(self.genes, self.symbols, strict=True)
        return np.array([not {name, symbol} & genes for name, symbol in named], bool)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Save a folder with ``predictor.json`` and ``predictor.safetensors``, which can be used without the model.

        Raises
        ------
        InputError
            The folder exists and `overwrite` is false, or it cannot be written.
        """
        from cellfm.tasks.perturbation._files import write_predictor

        write_predictor(self, Path(path), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path, model: str | Path | CellFM | None = None) -> "PerturbationPredictor":
        """Load a folder from `save`.

        Parameters
        ----------
        model
            A model, to check that the predictor was fitted with its genes; otherwise not needed.

        Raises
        ------
        CheckpointError
            A file is missing or damaged, or the model is a different one.
        """
        from cellfm.tasks.perturbation._files import read_predictor

        return read_predictor(Path(path), model)
