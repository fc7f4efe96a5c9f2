"""Check that a matrix holds counts, and explain in errors what it holds instead and what to do."""

from dataclasses import replace

from anndata import AnnData

from cellfm.cells.matrix import Matrix, matrices, read_matrix, require_features
from cellfm.cells.values import Values
from cellfm.errors import InputError
from cellfm.io.messages import warn


def require_counts(matrix: Matrix, adata: AnnData) -> Matrix:
    """The matrix, read as counts: values close to whole numbers are rounded, with one warning; others raise an error.

    Raises
    ------
    InputError
        The values are not whole numbers of 0 and above, or all are zero (the message says what they are and where
        counts may be found); or no row of the table is a human gene.
    """
    require_features(matrix)
    found = matrix.describe()
    if problem := counts_problem(found, matrix.name, adata):
        raise InputError(problem)
    for remark in counts_remarks(found, matrix.name):
        warn(remark)
    # What is whole and in memory needs no second look.
    return matrix if matrix.in_memory and not found.off else replace(matrix, as_counts=True)


def counts_remarks(found: Values, matrix: str) -> list[str]:
    """Reasons to doubt counts that are accepted."""
    if found.kind != "counts":
        return []
    remarks = []
    if found.off:
        remarks.append(f"The values of {matrix} are whole numbers to within {found.off:.2g}; they are rounded.")
    elsewhere = "Pass layer= with the counts, or load the raw data."
    if found.form == "binary":
        remarks.append(
            f"{matrix} contains nothing but 0 and 1, as after binarisation or in accessibility data: the levels of "
            f"genes and the depth of cells are lost, and embeddings are poorer. {elsewhere}"
        )
    elif found.form == "added":
        remarks.append(
            f"{matrix} has no zeros, and its smallest value, {found.number:g}, is a frequent one: {found.number:g} "
            f"seems to have been added to all counts (a pseudocount), so that every gene looks "
            f"expressed. {_subtract(found, matrix, 'counts')}"
        )
    elif found.form == "no ones":
        remarks.append(
            f"The smallest count of {matrix} is {found.number:g}, and the most frequent one: something seems to have "
            f"been added to all counts that are not zero. {elsewhere}"
        )
    elif found.form == "rounded total":
        remarks.append(
            f"The whole numbers of {matrix} add up to about {found.number:,.0f} in every cell: they seem to be rounded "
            f"normalised values, such as TPM or CPM, rather than counts. {elsewhere}"
        )
    return remarks


def counts_problem(found: Values, matrix: str, adata: AnnData) -> str | None:
    """The error for a matrix that holds no counts, with advice; None if it holds counts."""
    if found.kind == "counts":
        return None
    message = f"No counts found: {matrix} has {found}. CellFM takes raw counts. "
    elsewhere = [name for name in matrices(adata) if _holds_counts(adata, name, matrix)]
    if elsewhere:
        options = " or ".join(f"layer={name!r}" for name in elsewhere)
        return f"{message}Counts are stored elsewhere: pass {options}."
    return message + _way_on(found, matrix, adata)


def _way_on(found: Values, matrix: str, adata: AnnData) -> str:
    new = "counts" if "counts" not in adata.layers else "whole_counts"
    if found.kind == "not finite":
        return "Find out where they come from, or pass layer= with a matrix of finite counts."
    if found.kind == "empty":
        return "Every value is zero: pass layer= with the counts."
    if found.form == "added":
        return _subtract(found, matrix, new)
    if found.form == "fractional":
        return (
            f"Round them, adata.layers[{new!r}] = np.rint({matrix}), and pass layer={new!r}; or pass values_layer= "
            "with a layer of log1p of these values per 10,000, which are then used unchanged."
        )
    if found.words == "square roots of counts" and (values := _as_frame(matrix)):
        line = f"adata.layers[{new!r}] = ({values} ** 2).round()"
        return f"Square them: {line}, and pass layer={new!r}; or load the raw data."
    if found.recoverable:
        return f"Pass layer= with the counts, or call {_recover_call(matrix, new)} first, and pass layer={new!r}."
    if found.kind == "negative":
        return "Counts cannot be recovered from these: pass layer= with the counts, or load the raw data."
    return (
        "Counts cannot be recovered from these: pass layer= with the counts, or load the raw data. If there are "
        f"none, {VALUES_ADVICE}"
    )


VALUES_ADVICE = (
    "values_layer= takes your own values instead of log1p of counts per 10,000; they should be on that scale."
)


def _subtract(found: Values, matrix: str, new: str) -> str:
    """The advice for values to which a constant was added; it works for sparse and dense matrices."""
    values = _as_frame(matrix)
    if not values:
        return "Subtract it, or pass layer= with the counts."
    line = f"adata.layers[{new!r}] = {values} - {found.number:.6g}"
    return f"Subtract it: {line}, and pass layer={new!r}; or load the raw data."


def _as_frame(matrix: str) -> str:
    """The call that returns a matrix as a dense table; empty for raw, which has other genes."""
    if matrix == "adata.raw.X":
        return ""
    layer = "" if matrix == "adata.X" else matrix.removeprefix("adata.layers[").removesuffix("]")
    return f"adata.to_df({layer})"


def _recover_call(matrix: str, new: str) -> str:
    layer = {"adata.X": "", "adata.raw.X": ", layer='raw'"}.get(matrix)
    layer = f", layer={matrix.removeprefix('adata.layers[').removesuffix(']')}" if layer is None else layer
    return f"cf.pp.recover_counts(adata{layer}{'' if new == 'counts' else f', key_added={new!r}'})"


def _holds_counts(adata: AnnData, layer: str, not_this: str) -> bool:
    try:
        matrix = read_matrix(adata, layer)
        found = matrix.describe()
    except InputError:  # no numbers
        return False
    return matrix.name != not_this and found.kind == "counts" and found.form != "binary"
