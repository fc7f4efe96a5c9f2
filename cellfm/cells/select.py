"""The table to work on: an AnnData, or one modality of a MuData."""

from anndata import AnnData
from mudata import MuData

from cellfm.cells.mudata import without_pulling
from cellfm.errors import InputError, InputTypeError, MissingKeyError


def select(data: AnnData | MuData, modality: str = "rna", *, copy: bool = False) -> AnnData:
    """The table to work on: `data` itself, or one modality of a MuData.

    Parameters
    ----------
    copy
        Whether the tool will write to a copy, which backed data do not allow.

    Raises
    ------
    MissingKeyError
        The MuData has no such modality.
    InputError
        Something else was passed, the table has no cells or no genes, or data that a tool will copy are backed.
    """
    adata = pick_table(data, modality)
    if copy and (data.isbacked or adata.isbacked):
        raise InputError(
            f"copy=True needs data in memory, but they are backed by {adata.filename}: leave copy= out to write the "
            "results to these data, or pass data.to_memory()."
        )
    if problem := size_problem(adata):
        raise InputError(problem)
    return adata


def pick_table(data: AnnData | MuData, modality: str = "rna") -> AnnData:
    """As `select`, for tables of any size."""
    if isinstance(data, MuData):
        if modality not in data.mod:
            raise MissingKeyError(
                f"No modality {modality!r}; available: {', '.join(data.mod)}. Pass modality= with one of them."
            )
        data = data.mod[modality]
    if not isinstance(data, AnnData):
        raise InputTypeError(f"Expected an AnnData or MuData object, found {type(data).__name__}.")
    return data


def size_problem(adata: AnnData) -> str | None:
    """The error for a table without cells or genes; None if there are both."""
    for size, what in ((adata.n_obs, "cells"), (adata.n_vars, "genes")):
        if not size:
            return f"The data contain no {what}: their shape is {adata.n_obs} cells x {adata.n_vars} genes."
    return None


def require_in_memory(adata: AnnData, verb: str) -> None:
    """Refuse backed data, which cannot be changed in place.

    Raises
    ------
    InputError
        The data are backed.
    """
    if adata.isbacked:
        raise InputError(
            f"{verb} changes the data, but they are backed by {adata.filename}: call adata = adata.to_memory() first. "
            "cf.pp.check and cf.tl.embed read backed data as they are."
        )


def copied(data: AnnData | MuData) -> AnnData | MuData:
    """A copy; for a MuData, without pulling columns from its modalities."""
    with without_pulling():
        return data.copy()


def refresh(data: AnnData | MuData) -> None:
    """Let a MuData know that cells or genes of a modality have changed."""
    if isinstance(data, MuData):
        with without_pulling():
            data.update()
