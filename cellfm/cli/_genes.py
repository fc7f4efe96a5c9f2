"""Options of commands for matching the genes of a file."""

import argparse
from typing import Any

NO_TABLE = "none"
"""Value of ``--hgnc`` for matching by symbols and Ensembl ids alone."""


def add_gene_options(parser: argparse.ArgumentParser, *, reference: bool = False) -> None:
    """Add ``--genome``, ``--gene-key``, ``--hgnc`` and ``--min-known-genes`` to a command; the first two also for a
    reference.
    """
    add_genome_option(parser)
    if reference:
        parser.add_argument("--reference-genome", metavar="NAME", help="the same for the reference")
    add_gene_key_option(parser)
    if reference:
        parser.add_argument("--reference-gene-key", metavar="COLUMN", help="the same for the reference")
    add_hgnc_option(parser)
    parser.add_argument("--min-known-genes", type=int, metavar="N", help="genes that the model must know (200)")


def add_genome_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--genome`` to a command."""
    parser.add_argument("--genome", metavar="NAME", help="genome of the genes to read, if there are several")


def add_gene_key_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--gene-key`` to a command."""
    where = "column of var with the gene names, or var_names; by default the best"
    parser.add_argument("--gene-key", metavar="COLUMN", help=where)


def add_hgnc_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--hgnc`` to a command."""
    parser.add_argument(
        "--hgnc",
        metavar="TABLE",
        help="previous symbols and aliases: an HGNC file, download, or none; by default the table of the package",
    )


def hgnc_table(args: argparse.Namespace) -> str | bool | None:
    """The argument `hgnc` of the tools."""
    return False if args.hgnc == NO_TABLE else args.hgnc


def gene_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_gene_options` by the parameter names of the tools."""
    options: dict[str, Any] = {"gene_key": args.gene_key, "hgnc": hgnc_table(args)}
    if args.min_known_genes is not None:
        options["min_known_genes"] = args.min_known_genes
    if "reference_gene_key" in args:
        options["reference_gene_key"] = args.reference_gene_key
    return options
