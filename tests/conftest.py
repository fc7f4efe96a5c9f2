"""What every test may count on: no network, a folder of its own to work in, no screen, a small model and small data."""

import os
from importlib.metadata import version
from pathlib import Path

# Tests compile many small networks and run each a few times; without optimisation XLA compiles three times faster.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# What one process has compiled the others, and later runs, read. JAX 0.4 breaks down with some of what it reads.
if tuple(map(int, version("jax").split(".")[:2])) >= (0, 7):
    os.environ.setdefault(
        "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax")
    )
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import logging
import signal
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import hypothesis
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from cellfm.cells.write import write_cells
from cellfm.config import ModelConfig
from cellfm.engines import Engine, start_engine
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.installed import has_mindspore
from cellfm.model import CellFM
from cellfm.settings import settings

mpl.use("Agg")
hypothesis.settings.register_profile("no deadline", deadline=None)  # machines are shared
hypothesis.settings.load_profile("no deadline")

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
TESTS = Path(__file__).resolve().parent
# Made absolute here, because the tests run in another folder.
GOLDEN = Path(os.environ.get("CELLFM_GOLDEN") or TESTS / "data" / "golden").absolute()
LOOPBACK = {"localhost", "127.0.0.1", "::1", "", None}
NO_MINDSPORE = "needs MindSpore, which is not installed"
N_GENES = 300
N_UNKNOWN = 20
N_CELLS = 40


def _without_mindspore(error: BaseException | None, report: Report) -> bool:
    """Whether an error, one that led to it, or a process that was started says that MindSpore is missing."""
    said = [text for _, text in report.sections]
    while error is not None:
        said.append(str(error))
        error = error.__cause__ or error.__context__
    return any(NO_MINDSPORE in text or "No module named 'mindspore'" in text for text in said)


def _skip_what_needs_mindspore(report: Report, call: pytest.CallInfo | None, path: Path) -> Report:
    """What fails for want of MindSpore, where it is not installed, is skipped: a test, or a file of tests."""
    failed = call is not None and call.excinfo is not None and not has_mindspore()
    if failed and _without_mindspore(call.excinfo.value, report):
        report.outcome = "skipped"
        report.longrepr = (str(path), 0, f"Skipped: {NO_MINDSPORE}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _skip_what_needs_mindspore((yield), call, item.path)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _skip_what_needs_mindspore(report, getattr(report, "call", None), collector.path)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that start another process say by a mark that it needs MindSpore."""
    if item.get_closest_marker("mindspore") and not has_mindspore():
        pytest.skip(NO_MINDSPORE)


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in an empty folder (MindSpore leaves ``rank_0`` where it stands) and keep downloads in another."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        patch.setenv("CELLFM_CACHE_DIR", str(cache))  # for the processes that tests start
        patch.setattr(settings, "_cache_dir", cache)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Fail as a machine without network does, at once: only this machine can be reached."""
    real = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex", "sendto")}
    look_up = socket.getaddrinfo

    def only_here(name: str) -> Callable[..., object]:
        def call(self: socket.socket, *args: object) -> object:
            address = args[-1]
            if self.family != socket.AF_UNIX and address[0] not in LOOPBACK:  # type: ignore[index]
                raise OSError(f"The tests have no network; something tried to reach {address!r}.")
            return real[name](self, *args)

        return call

    def look_up_here(host: str | bytes | None, *args: object, **kwargs: object) -> list:
        if (host.decode() if isinstance(host, bytes) else host) not in LOOPBACK:
            raise socket.gaierror(f"The tests have no network; something asked for {host!r}.")
        return look_up(host, *args, **kwargs)  # type: ignore[arg-type]

    def name_here(host: str) -> str:
        return str(look_up_here(host, None, socket.AF_INET)[0][4][0])

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(socket.socket, name, only_here(name))
        patch.setattr(socket, "getaddrinfo", look_up_here)
        patch.setattr(socket, "gethostbyname", name_here)
        # For the processes that tests start: a proxy that is not there.
        patch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        patch.setenv("NO_PROXY", "localhost,127.0.0.1")
        yield


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    """Figures of one test do not stay open for the next."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture
def own_logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands choose what is said; the other tests must not hear of it."""
    logger = logging.getLogger("cellfm")
    before = logger.level, logger.propagate, list(logger.handlers)
    monkeypatch.setattr(settings, "_verbosity", "warning")
    yield
    logger.level, logger.propagate, logger.handlers = before
    logger.manager._clear_cache()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own answer to Ctrl-C, which a process in the background is started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Where the golden data are: ``CELLFM_GOLDEN``, by default those in the repository."""
    if not GOLDEN.is_dir():
        pytest.fail(f"No golden data at {GOLDEN}; CELLFM_GOLDEN may point elsewhere.")
    return GOLDEN


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets, kept beside the checkout and not in it."""
    folder = TESTS.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets, which are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_vocab() -> Vocabulary:
    """300 genes; all but the last ten have an Ensembl id."""
    ensembl = [f"ENSG{i:011d}" if i < N_GENES - 10 else "" for i in range(N_GENES)]
    symbols = [f"GENE{i}" for i in range(N_GENES)]
    return Vocabulary(pd.DataFrame({"symbol": symbols, "ensembl_id": ensembl}))


@pytest.fixture(scope="session")
def tiny_model(tiny_vocab: Vocabulary) -> CellFM:
    """A model with random weights: two layers, width 16, over `tiny_vocab`."""
    config = ModelConfig(n_layers=2, d_model=16, n_heads=2, n_genes=N_GENES, d_value=16)
    return CellFM(config, tiny_vocab, name="tiny", random_state=7)


@pytest.fixture
def tiny_adata(tiny_vocab: Vocabulary) -> AnnData:
    """Counts of 40 cells over the genes of `tiny_vocab` and 20 unknown ones.

    `obs["label"]` has two kinds of cells that differ in a third of their genes, `obs["batch"]` two halves that differ
    in depth; every cell expresses more than 200 known genes.
    """
    generator = np.random.default_rng(0)
    label = np.arange(N_CELLS) % 2  # 0 or 1
    batch = np.arange(N_CELLS) // (N_CELLS // 2)  # 0 or 1
    n_vars = N_GENES + N_UNKNOWN
    mean = np.tile(generator.gamma(2.0, 2.0, n_vars), (N_CELLS, 1))
    mean[:, : n_vars // 3] *= np.where(label, 3.0, 1.0)[:, None]
    mean *= np.where(batch, 1.5, 1.0)[:, None]
    counts = generator.poisson(mean + 0.5).astype(np.float32)
    groups = {
        "label": pd.Categorical.from_codes(label, ["A", "B"]),
        "batch": pd.Categorical.from_codes(batch, ["one", "two"]),
    }
    obs = pd.DataFrame(groups, index=[f"cell{i}" for i in range(N_CELLS)])
    names = [*tiny_vocab.symbols, *(f"UNKNOWN{i}" for i in range(N_UNKNOWN))]
    return AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=names))


@pytest.fixture
def cells_file(tmp_path: Path, tiny_adata: AnnData) -> Path:
    """`tiny_adata` on disk."""
    write_cells(tiny_adata, tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture
def model_dir(tmp_path: Path, tiny_model: CellFM) -> Path:
    """`tiny_model` on disk."""
    tiny_model.save(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture(scope="session", params=["jax", "mindspore"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn, MindSpore where it is installed."""
    if request.param == "mindspore":
        pytest.importorskip("mindspore", reason=NO_MINDSPORE)
    return start_engine(request.param)
