"""`cf.pp.recover_counts`: counts from log-normalised values."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from cellfm.cells.counts import VALUES_ADVICE, counts_problem, counts_remarks
from cellfm.cells.matrix import Matrix, read_matrix
from cellfm.cells.outputs import require_keys, writing
from cellfm.cells.recover import (
    ENOUGH_BITS,
    ENOUGH_TOGETHER,
    Precision,
    Recovered,
    Transform,
    choose_transform,
    recover,
    stored_precision,
    zero_value,
)
from cellfm.cells.select import refresh, require_in_memory, select
from cellfm.cells.values import describe
from cellfm.errors import InputError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import counted, counted_of, warn
from cellfm.keys import COUNTS

_SAMPLE_CELLS = 64
_SAMPLES = 4
_DENSE_CELLS = 256
"""Cells per block if zero counts have a value, so that every entry has one."""
_FEW = 0.1
"""Share of cells that may fail while cells with little evidence are still accepted."""
_CHANCE = 0.01
"""Share of cells whose unit may be a power of ten by chance."""


@shared_docs
@checked
def recover_counts(
    data: AnnData | MuData,
    *,
    layer: str | None = None,
    key_added: str = COUNTS.layer,
    modality: str = "rna",
    errors: Literal["raise", "flag"] = "raise",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Recover counts from values that were divided by the depth of the cell, with or without a logarithm afterwards.

    Within a cell such values are whole multiples of one unit: the normalised value of one count. The unit is found for
    each cell separately, by taking its smallest value as 1 to 5 counts, and every value must be a multiple of it within
    the rounding of the stored numbers (values rounded to a few decimals are fine). Natural logarithms, logarithms to
    base 2 and 10, no logarithm, and any other base are tried on a sample of cells. A pseudocount other than 1, as in
    log2(CPM + 0.5), is read from the value that zero counts have in all cells; it can be negative. If values are not
    multiples (scaled, batch-corrected, smoothed or imputed data, TPM), no counts are invented. One thing cannot be
    recovered: if all counts of a cell share a divisor, as in a cell with nothing but twos, they come out divided by it.

    Parameters
    ----------
    data
        Normalised values, cells x genes. With MuData, those of the table `modality`.
    layer
        Layer with the values; ``"raw"`` means `adata.raw`, whose genes must be those of `adata`; by default X.
    key_added
        Layer to write.
    {modality}
    errors
        ``"raise"`` raises an error if any cell fails. ``"flag"`` recovers the other cells and marks those that failed;
        for these, the smallest value is taken as one count and the rest is rounded, so their values are not counts.
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `layers["counts"]`
        float32 CSR, (n_obs, n_vars): whole numbers.
    `obs["cellfm_counts_recovered"]`
        bool: False for cells that failed; only with ``errors="flag"``.
    `uns["cellfm"]["counts"]`
        dict: the ``matrix`` that was read, the transformation that was ``undone``, the number of recovered cells
        (``n_recovered``), version.

    Raises
    ------
    InputError
        The values are already counts, are negative, not finite, not multiples of one unit, or too few to decide; or
        `adata.raw` has other genes.
    MissingKeyError
        There is no such layer or modality; the message lists the available ones.

    Warns
    -----
    DataWarning
        Cells failed (with ``errors="flag"``), or large values are stored with too little precision for their last
        digits.

    Examples
    --------
    >>> cf.pp.recover_counts(log_normalised)
    >>> log_normalised.layers["counts"][0].data[:3].tolist()
    [1.0, 1.0, 1.0]
    >>> cf.tl.embed(log_normalised, layer="counts")
    """
    if errors not in ("raise", "flag"):
        raise InputError(f"errors must be 'raise' or 'flag', not {errors!r}.")
    adata = select(data, modality)
    if copy:
        require_in_memory(adata, "copy=True of cf.pp.recover_counts")
    require_keys(adata, "key_added", layers=key_added)
    matrix = read_matrix(adata, layer)
    if not matrix.var.index.equals(adata.var_names):
        raise InputError(
            f"{matrix.name} has {len(matrix.var):,} genes that are not those of adata ({adata.n_vars:,}): call "
            "adata = adata.raw.to_adata() first, then cf.pp.recover_counts(adata)."
        )
    sample = _sample(matrix)
    zero = zero_value(sample, int(matrix.is_gene.sum()))
    _check_values(matrix, adata, zero)
    precision = stored_precision(sample.data)
    transform, _ = choose_transform(sample, precision, zero)
    blocks = matrix.blocks(_DENSE_CELLS) if zero else matrix.blocks()
    parts = [recover(block, transform, precision) for _, block in blocks]
    recovered = _judge(parts, matrix, adata, transform, precision, errors)

    with writing(data, modality=modality, copy=copy) as out:
        out.adata.layers[key_added] = sp.vstack([part.counts for part in parts], format="csr")
        if errors == "flag":
            out.adata.obs[COUNTS.recovered] = recovered
        out.record(
            key_added,
            "layers",
            matrix=matrix.name,
            undone=str(transform),
            n_recovered=int(recovered.sum()),
        )
        refresh(out.data)
    logger.info(
        "recovered the counts of %d of %d cells (undoing %s); added layers[%r].",
        int(recovered.sum()),
        len(recovered),
        transform,
        key_added,
    )
    return out.returned


def _check_values(matrix: Matrix, adata: AnnData, zero: float) -> None:
    """Refuse values that cannot be normalised counts; all values are read. None may be lower than the value of a zero
    count.
    """
    kinds: set[str] = set()
    bad = np.zeros(matrix.n_cells, bool)
    shown = ""
    for span, block in matrix.blocks():
        found = describe(block.data)
        kinds.add(found.kind)
        if found.kind == "not finite" or (found.kind == "negative" and not zero < 0):
            wrong = ~(block.data >= 0) | ~np.isfinite(block.data)
            rows = np.repeat(np.arange(span.start, span.stop), np.diff(block.indptr))
            bad[rows[wrong]] = True
            shown = shown or str(matrix.recognise(found))
    if bad.any():
        n_bad = counted_of(int(bad.sum()), len(bad), "cell", "has", "have")
        raise InputError(
            f"Counts cannot be recovered from {matrix.name}: {n_bad} {shown}. Pass layer= with the "
            "log-normalised values (layer='raw' means adata.raw), or load the raw data."
        )
    if kinds <= {"empty"}:
        raise InputError(f"{matrix.name} has nothing but zeros: there are no counts to recover. Load the raw data.")
    found = matrix.describe()
    if kinds <= {"counts", "empty"}:
        remarks = counts_remarks(found, matrix.name)
        doubtful = found.form in ("binary", "added", "no ones", "rounded total")
        use = ": use them as counts, nothing has to be recovered"
        if doubtful:
            use = ", from which no others can be recovered"
        raise InputError(" ".join([f"{matrix.name} has whole numbers already{use}.", *remarks]))
    hopeless = found.form in ("added", "fractional") or (found.form == "log total" and found.about)
    if hopeless and (problem := counts_problem(found, matrix.name, adata)):
        raise InputError(problem)


def _sample(matrix: Matrix) -> sp.csr_matrix:
    """Cells from all parts of the matrix, preferably cells with values."""
    n = matrix.n_cells
    starts = sorted({int(start) for start in np.linspace(0, max(0, n - _SAMPLE_CELLS), _SAMPLES)})
    sample = sp.vstack([matrix.rows(start, min(start + _SAMPLE_CELLS, n)) for start in starts], format="csr")
    if sample.nnz:
        return sample
    return next((block for _, block in matrix.blocks() if block.nnz), sample)


def _judge(
    parts: list[Recovered], matrix: Matrix, adata: AnnData, transform: Transform, precision: Precision, errors: str
) -> np.ndarray:
    """(n_cells,) bool: cells whose counts are recovered.

    A single cell that fits may be weak evidence (all its values may be one count); it is accepted if the matrix as a
    whole clearly holds counts.
    """
    fits, bits, unit = _pooled(parts)
    filled = ~np.isnan(unit)
    decimal = filled & fits & _decimal(unit)
    if decimal.sum() > max(1, _CHANCE * filled.sum()):  # TPM that were rounded before the logarithm, say
        fits, bits = fits & ~decimal, np.where(decimal, 0.0, bits)
    n_cells, n_failed = len(fits), int((~fits).sum())
    informative = int((bits > 0).sum()) + n_failed
    whole = bits.sum() >= ENOUGH_TOGETHER and n_failed <= _FEW * informative
    recovered = fits if whole else (fits & (bits >= ENOUGH_BITS)) | ~filled
    some = bool((recovered & filled).any())
    rounded = f" (to within {precision.step:g})" if precision.step else ""
    if n_failed and (errors == "raise" or not some):
        first = adata.obs_names[int(np.flatnonzero(~fits)[0])]
        raise InputError(
            f"Counts cannot be recovered from {matrix.name}: in {n_failed:,} of {counted(n_cells, 'cell')} (the first "
            f"is {first!r}) the values are not whole multiples of one count, as after batch correction, smoothing, "
            "scaling of genes or division by gene length (TPM, FPKM). Logarithms to base e, 2, 10 and others and none "
            f"were tried; the best fit is: {transform}. Pass layer= with other values, or load the raw data; where "
            f"there are no counts, {_values_advice(matrix)}"
            + (" Or pass errors='flag' to recover the other cells." if some else "")
        )
    if not n_failed and not whole:
        raise InputError(
            f"The values of {matrix.name} are too few or stored too imprecisely{rounded} to tell whether they were "
            f"counts. Pass layer= with other values, or load the raw data; where there are no counts, "
            f"{_values_advice(matrix)}"
        )
    if n_failed:
        warn(
            f"The counts of {n_cells - int(recovered.sum()):,} of {counted(n_cells, 'cell')} could not be recovered; "
            f"obs[{COUNTS.recovered!r}] is False for them."
        )
    n_loose = sum(part.n_loose for part in parts)
    if n_loose:
        n_values = sum(part.counts.nnz for part in parts)
        warn(
            f"{n_loose:,} of {n_values:,} values of {matrix.name} are stored too imprecisely{rounded} to tell the last "
            "digit of their count; the nearest was taken."
        )
    return recovered


def _values_advice(matrix: Matrix) -> str:
    """Advice for using the values unchanged; users can copy it."""
    layer = {"adata.X": "'X'", "adata.raw.X": "'raw'"}.get(matrix.name)
    layer = layer or matrix.name.removeprefix("adata.layers[").removesuffix("]")
    given = "" if matrix.name == "adata.X" else f"layer={layer}, "
    return f"pass {given}values_layer={layer} to cf.tl.embed: {VALUES_ADVICE}"


def _pooled(parts: list[Recovered]) -> Iterator[np.ndarray]:
    """The results of all blocks: which cells fit, the strength of the evidence, and their units."""
    yield np.concatenate([part.fits for part in parts])
    yield np.concatenate([part.bits for part in parts])
    yield np.concatenate([part.unit for part in parts])


def _decimal(unit: np.ndarray) -> np.ndarray:
    """Whether a unit is 0.1, 0.01, ...: this is more likely the last decimal of rounded values than one count."""
    exponent = np.log10(unit)
    nearest = np.rint(exponent)
    return (nearest < 0) & (np.abs(exponent - nearest) < 1e-5)
