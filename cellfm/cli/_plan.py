"""The command ``cellfm plan``: estimates the cost of a training."""

import argparse
from typing import Any

from cellfm.cli._configuration import add_configuration, configuration


def add_plan_command(commands: Any) -> None:
    plan = commands.add_parser("plan", help="estimate the memory, operations and days of a training")
    add_configuration(plan)
    plan.add_argument("--devices", type=int, default=1, metavar="N", help="processes that train together (1)")
    plan.add_argument("--cells", type=float, metavar="N", help="cells of the corpus; by default those of all steps")
    plan.add_argument("--genes", type=int, default=1000, metavar="N", help="expressed genes of a cell (1000)")
    plan.add_argument(
        "--utilisation", type=float, default=0.4, metavar="P", help="fraction of the peak that is reached (0.4)"
    )
    plan.add_argument("--device", default="Ascend 910", help="Ascend 910, CPU (this machine) or its peak in TFLOP/s")
    plan.add_argument("--memory", type=float, metavar="GB", help="memory of a device; by default that of --device")
    plan.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> int:
    from cellfm.train import plan

    try:
        device: str | float = float(args.device)
    except ValueError:
        device = args.device
    made = plan(
        configuration(args),
        devices=args.devices,
        cells=args.cells,
        genes_per_cell=args.genes,
        utilisation=args.utilisation,
        device=device,
        memory=args.memory,
    )
    print(repr(made))
    return 0
