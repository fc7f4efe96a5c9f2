"""The command ``cellfm pretrain``: trains a model on a corpus, in one process or several."""

import argparse
import os
from pathlib import Path
from typing import Any

from cellfm.cli._configuration import add_backend, add_configuration, configuration
from cellfm.errors import InputError
from cellfm.io.installed import require_mindspore
from cellfm.io.logging import logger


def add_pretrain_command(commands: Any) -> None:
    pretrain = commands.add_parser("pretrain", help="train a model on a corpus, or continue a run")
    pretrain.add_argument("corpus", type=Path, metavar="CORPUS", help="folder that cellfm shard wrote")
    pretrain.add_argument(
        "-o", "--output", type=Path, required=True, metavar="RUN", help="folder of the run to start or continue"
    )
    add_configuration(pretrain)
    add_backend(pretrain)
    pretrain.add_argument("--start", metavar="MODEL", help="model to start from; by default new weights are drawn")
    pretrain.add_argument("--workers", type=int, default=1, metavar="N", help="processes of this machine (1)")
    pretrain.add_argument(
        "--port", type=int, metavar="P", help="port over which processes connect; by default a free one"
    )
    pretrain.add_argument("--node", type=int, metavar="K", help="which machine of [cluster] this is, from 0")
    pretrain.set_defaults(run=_pretrain)


def _pretrain(args: argparse.Namespace) -> int:
    from cellfm.train._workers import announce, is_worker

    if args.backend == "jax" and (args.workers != 1 or args.node is not None):
        raise InputError(
            "--workers and --node start processes of MindSpore (msrun). With --backend jax one process uses all "
            "devices of a machine; start one process per machine with srun or mpirun."
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
        pretrain(args.corpus, configuration(args), out=args.output, start=start, backend=args.backend)
    except TrainingStopped as stopped:
        if not is_worker():
            raise
        logger.warning("%s", stopped)  # with any other code, msrun would kill the other processes
    return 0


def _launch(args: argparse.Namespace) -> int:
    """Start processes that run the same command, after all checks that this process can make."""
    require_mindspore("Training in several processes")
    from cellfm.corpus._corpus import Corpus
    from cellfm.settings import settings
    from cellfm.train._launch import Job, launch
    from cellfm.train._recipes import model_of, read_cluster, read_config

    tables = configuration(args)
    fields, config = read_config(tables)
    model_of(fields, n_genes=len(Corpus.open(args.corpus).vocab))
    cluster = read_cluster(tables)
    if args.node is not None:
        if cluster is None:
            raise InputError("--node needs the table [cluster] with the nodes in the configuration (--config).")
        if args.workers != 1 or args.port is not None:
            raise InputError(
                "With --node, set workers_per_node and port in [cluster], where they are the same for all machines."
            )
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
