"""The commands about training, ``cellfm pretrain`` and ``cellfm plan``."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cellfm.errors import InputError
from cellfm.io.installed import BACKENDS, require_mindspore
from cellfm.io.logging import logger

_PRESETS = ("mini", "80M", "800M")


def add_training_commands(commands: Any, say: Callable[[str], object]) -> None:
    """Add the commands to those of the parser; what they tell goes to `say`."""
    pretrain = commands.add_parser("pretrain", help="train a model on a corpus, or go on with it")
    pretrain.add_argument("corpus", type=Path, metavar="CORPUS", help="folder that cellfm shard wrote")
    pretrain.add_argument("-o", "--output", type=Path, required=True, metavar="RUN", help="run to begin or go on with")
    _add_configuration(pretrain)
    add_backend(pretrain)
    pretrain.add_argument("--start", metavar="MODEL", help="model to start from; by default new weights are drawn")
    pretrain.add_argument("--workers", type=int, default=1, metavar="N", help="processes of this machine (1)")
    pretrain.add_argument("--port", type=int, metavar="P", help="port where they meet; by default one that is free")
    pretrain.add_argument("--node", type=int, metavar="K", help="which machine of [cluster] this is, from 0")
    pretrain.set_defaults(run=_pretrain)

    plan = commands.add_parser("plan", help="tell what training would need: memory, operations, days")
    _add_configuration(plan)
    plan.add_argument("--devices", type=int, default=1, metavar="N", help="processes that train together (1)")
    plan.add_argument("--cells", type=float, metavar="N", help="cells of the corpus; by default those of all steps")
    plan.add_argument("--genes", type=int, default=1000, metavar="N", help="expressed genes of a cell (1000)")
    plan.add_argument("--utilisation", type=float, default=0.4, metavar="P", help="share of the peak reached (0.4)")
    plan.add_argument("--device", default="Ascend 910", help="Ascend 910, CPU (this machine) or its peak in TFLOP/s")
    plan.add_argument("--memory", type=float, metavar="GB", help="memory of a device; by default that of --device")
    plan.set_defaults(run=lambda args: _plan(args, say))


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the tables model, train, cluster")
    source.add_argument("--preset", choices=_PRESETS, help="mini (default), 80M or 800M")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="TABLE.FIELD=VALUE",
        help="set one field, such as train.steps=100; may be repeated",
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="what computes (auto)")


def _configuration(args: argparse.Namespace) -> dict[str, Any]:
    from cellfm.train._recipes import with_settings

    return with_settings(args.config or args.preset, args.settings)


def _pretrain(args: argparse.Namespace) -> int:
    from cellfm.train._workers import announce, is_worker

    if args.backend == "jax" and (args.workers != 1 or args.node is not None):
        raise InputError(
            "--workers and --node start processes of MindSpore (msrun). With --backend jax one process uses all "
            "devices of a machine; start one a machine by srun or mpirun."
        )
    if is_worker():
        announce()
    elif args.workers != 1 or args.node is not None:
        return _launch(args)
    from cellfm.model import load_model
    from cellfm.train import pretrain
    from cellfm.train._ending import TrainingStopped

    start = load_model(args.start) if args.start else None
    try:
        pretrain(args.corpus, _configuration(args), out=args.output, start=start, backend=args.backend)
    except TrainingStopped as stopped:
        if not is_worker():
            raise
        logger.warning("%s", stopped)  # in good order: any other code and msrun would kill the others
    return 0


def _launch(args: argparse.Namespace) -> int:
    """Start processes that run the same command, after what can be checked here was checked."""
    require_mindspore("Training in several processes")
    from cellfm.corpus._corpus import Corpus
    from cellfm.settings import settings
    from cellfm.train._launch import Job, launch
    from cellfm.train._recipes import model_of, read_cluster, read_config

    tables = _configuration(args)
    fields, config = read_config(tables)
    model_of(fields, n_genes=len(Corpus.open(args.corpus).vocab))
    cluster = read_cluster(tables)
    if args.node is not None:
        if cluster is None:
            raise InputError("--node needs the table [cluster] with the nodes in the configuration (--config).")
        if args.workers != 1 or args.port is not None:
            raise InputError("With --node, workers_per_node and port are set in [cluster], for all machines alike.")
        job = Job.of_node(cluster, args.node)
    else:
        if args.workers < 1:
            raise InputError(f"--workers must be 1 or more, not {args.workers}.")
        job = Job.local(args.workers, args.port)
    quiet = settings.verbosity == "warning"
    command = ["-q"] if quiet else []
    command += ["pretrain", os.fspath(args.corpus), "-o", os.fspath(args.output)]
    command += ["--config", os.fspath(args.config)] if args.config else []
    command += ["--preset", args.preset] if args.preset else []
    command += ["--start", args.start] if args.start else []
    for setting in args.settings:
        command += ["--set", setting]
    launch(job, command, args.output, steps=config.steps)
    logger.info("done; the model is in %s.", args.output)
    return 0


def _plan(args: argparse.Namespace, say: Callable[[str], object]) -> int:
    from cellfm.train import plan

    try:
        device: str | float = float(args.device)
    except ValueError:
        device = args.device
    made = plan(
        _configuration(args),
        devices=args.devices,
        cells=args.cells,
        genes_per_cell=args.genes,
        utilisation=args.utilisation,
        device=device,
        memory=args.memory,
    )
    say(repr(made))
    return 0
