"""The report of `cf.pp.check`: the contents of the data, problems, and advice."""

import html
from collections.abc import Iterable
from dataclasses import dataclass

from cellfm.io.messages import joined

_SHOWN = 5  # names listed before "and n more"


@dataclass(frozen=True)
class Depth:
    """Counts per cell, over all cells."""

    least: float
    median: float
    most: float


@dataclass(frozen=True)
class Report:
    """The result of `cf.pp.check`. It prints as a table, and every number is a field."""

    matrix: str
    """The matrix that was read, such as ``adata.X``."""
    values: str
    """A description of its values, such as ``"whole numbers"``."""
    n_cells: int
    n_genes: int
    left_out: dict[str, int]
    """Rows of `var` that are not human genes, by type (antibodies, guides, peaks, another species)."""
    column: str
    """Location of the gene names: ``"var_names"`` or a column of `var`."""
    matched: dict[str, int]
    """Genes that the model knows, by how they were matched: symbol, ensembl, restored, previous, alias."""
    n_known: int
    """Number of distinct genes that the model knows."""
    min_genes: int
    """Minimum number of known genes that a cell should express."""
    renamed: dict[str, str]
    """Old to new name of genes that `cf.pp.harmonize_genes` would rename."""
    merged: dict[str, tuple[str, ...]]
    """New name to old names of genes that it would sum."""
    ambiguous: tuple[str, ...]
    """Names shared by several genes; none was chosen."""
    dropped: tuple[str, ...]
    """Names of genes that the model does not know."""
    share_of_counts: float | None
    """Share of all counts that belong to known genes; None if the values cannot be summed."""
    n_few: int
    """Cells that express fewer than `min_genes` known genes, empty ones included."""
    n_empty: int
    """Cells that express no known gene."""
    depth: Depth | None
    """Counts per cell; None if the values cannot be summed or there are no cells."""
    genes_per_cell: float | None
    """Median number of known genes that a cell expresses; None without cells."""
    problems: tuple[str, ...]
    """Reasons why the model cannot read the data, and what to do."""
    advice: tuple[str, ...]
    """What makes results poorer, and what to do."""

    @property
    def ok(self) -> bool:
        """Whether the model can read the data."""
        return not self.problems

    @property
    def n_matched(self) -> int:
        """Genes that the model knows; several may be the same."""
        return sum(self.matched.values())

    def __repr__(self) -> str:
        lines = [self._title()]
        rows = self._rows()
        width = max(len(label) for label, _ in rows) + 2
        lines += [f"  {label:<{width}}{text}" for label, text in rows]
        for heading, texts in (("Problems", self.problems), ("Advice", self.advice)):
            lines += [heading, *(f"  - {text}" for text in texts)] if texts else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def cell(text: str, side: str) -> str:
            return f'<td style="text-align: {side}">{html.escape(text)}</td>'

        rows = "".join(f"<tr>{cell(label, 'left')}{cell(text, 'left')}</tr>" for label, text in self._rows())
        parts = [f"<p><strong>{html.escape(self._title())}</strong></p><table>{rows}</table>"]
        for heading, texts in (("Problems", self.problems), ("Advice", self.advice)):
            if texts:
                items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
                parts.append(f"<p><strong>{heading}</strong></p><ul>{items}</ul>")
        return f"<div>{''.join(parts)}</div>"

    def _title(self) -> str:
        verdict = "ready for CellFM" if self.ok else "not ready for CellFM"
        return f"{self.matrix}: {self.n_cells:,} cells x {self.n_genes:,} genes, {verdict}"

    def _rows(self) -> list[tuple[str, str]]:
        named = {
            "symbol": "symbol",
            "ensembl": "Ensembl id",
            "restored": "symbol as R or a spreadsheet changed it",
            "previous": "previous symbol",
            "alias": "alias or previous symbol",
        }
        ways = ", ".join(f"{n:,} by {named[how]}" for how, n in self.matched.items() if n)
        share = "" if self.share_of_counts is None else f", holding {self.share_of_counts:.1%} of the counts"
        rows = [
            ("values", self.values),
            ("gene names from", self.column),
            ("genes matched", f"{self.n_matched:,} of {self.n_genes:,}" + (f" ({ways})" if ways else "") + share),
            ("genes to rename", _listed(f"{old} -> {new}" for old, new in self.renamed.items())),
            ("genes to add up", _listed(f"{joined(old)} -> {new}" for new, old in self.merged.items())),
            ("ambiguous names", _listed(self.ambiguous)),
            ("genes left out", _listed(self.dropped)),
        ]
        if self.left_out:
            rows.insert(1, ("other rows", ", ".join(f"{n:,} {kind}" for kind, n in self.left_out.items())))
        if self.depth is not None:
            depth = self.depth
            rows.append(("counts per cell", f"{depth.median:,.6g} (median), {depth.least:,.6g} to {depth.most:,.6g}"))
        if self.genes_per_cell is not None:
            rows.append(("genes per cell", f"{self.genes_per_cell:,.6g} (median of known genes)"))
            rows.append(
                (f"cells under {self.min_genes}", f"{self.n_few:,} (known genes), {self.n_empty:,} of them empty")
            )
        return rows


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return "0"
    shown = ", ".join(names[:_SHOWN])
    return f"{len(names):,}: {shown}" + (", ..." if len(names) > _SHOWN else "")
