"""The command ``cellfm doctor``: what is wrong with the installation, or with a file, and how to fix it."""

import argparse
from pathlib import Path
from typing import Any

from cellfm.cli._genes import add_gene_key_option, add_genome_option, add_hgnc_option, hgnc_table
from cellfm.cli._messages import as_options
from cellfm.io.messages import counted


def add_doctor_command(commands: Any) -> None:
    doctor = commands.add_parser("doctor", help="check the installation, or a file, for problems")
    doctor.add_argument("cells", type=Path, nargs="?", metavar="FILE", help="also look at a file of cells")
    doctor.add_argument("--modality", default="rna", help="table of a .h5mu file (default rna)")
    doctor.add_argument("--layer", help="layer with the counts; raw means the matrix in .raw; by default X")
    add_genome_option(doctor)
    add_gene_key_option(doctor)
    add_hgnc_option(doctor)
    doctor.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from cellfm.cli._diagnose import diagnose

    options = {"layer": args.layer, "gene_key": args.gene_key, "hgnc": hgnc_table(args), "modality": args.modality}
    findings = diagnose(args.cells, genome=args.genome, **options)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.name:{width}}  {finding.status:7}  {finding.detail}")
        if finding.fix:
            print(f"{'':{width}}  {'':7}  fix: {as_options(finding.fix, vars(args))}")
    problems = sum(finding.status == "problem" for finding in findings)
    warned = sum(finding.status == "warning" for finding in findings)
    print(f"\n{counted(problems, 'problem')}, {counted(warned, 'warning')}" if problems or warned else "\nall is well")
    return 1 if problems else 0
