"""Killed, stopped, or out of space: outputs are whole or absent, data are unchanged, and a second run ends the work."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata import AnnData

import cellfm as cf
import cellfm.model._embedding_checkpoint as pieces_module
from cellfm.cells import input as _input
from cellfm.cells import outputs as _outputs
from cellfm.cells import write as _write
from cellfm.cells.input import read_input
from cellfm.cells.tokenize import TokenBatch
from cellfm.cells.write import check_writable, write_cells
from cellfm.cli._main import main
from cellfm.config import ModelConfig
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.model._embedding_checkpoint import EmbeddingCheckpoint, remove_pieces
from cellfm.model._embedding_part import EmbeddingPart
from cellfm.model._encoder import Encoder
from cellfm.tasks.perturbation._train import Pairs
from cellfm.train._classify_feed import TokenBatches
from cellfm.train._integrate_feed import IntegrationFeed

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill -9")

RUN = """
import os, signal, sys
from pathlib import Path
import cellfm.model._embedding_checkpoint as pieces
from cellfm.cli import main
from cellfm.cells import write as _write

point, *args = sys.argv[1:]
pieces.PIECE_CELLS = 9
save, add, n_saved = pieces._save, _write._add_entries, 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def save_or_die(path, array):
    global n_saved
    n_saved += 1
    save(path, array)
    if point == f"file {n_saved}":
        path.write_bytes(path.read_bytes()[:50])
        die()

def add_or_die(file, data, **keys):
    add(file, data, **keys)
    if point == "write":
        file.flush()
        die()

def write_or_die(path, content):
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2 if path.suffix == ".safetensors" and point == "part" else None])
    if path.suffix == ".safetensors" and point == "part":
        die()

Path.write_bytes = write_or_die
pieces._save, _write._add_entries = save_or_die, add_or_die
sys.exit(main(["-q", "embed", *args, "--resume"]))
"""


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_killed_as_it_embeds_and_as_it_writes_it_ends_with_the_bits_of_one_run(
    tmp_path: Path, cells_file: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    out, once = tmp_path / "out.h5ad", tmp_path / "once.h5ad"
    out.write_text("what was there before")
    before = visible(tmp_path)

    def run(point: str) -> int:
        command = [sys.executable, "-c", RUN, point, cells_file, "-o", out, "--model", model_dir]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300).returncode

    # The last of the five pieces has four cells: it is made in a process that makes no other. Each piece has two files,
    # the embedding last.
    assert run("file 10") == -signal.SIGKILL
    pieces = tmp_path / "out.h5ad.pieces"
    whole = [f"{i:06d}{end}" for i in range(4) for end in (".fingerprints.npy", ".npy")]
    assert visible(pieces) == [*whole, "000004.fingerprints.npy", "pieces.json"]
    assert run("write") == -signal.SIGKILL
    assert out.read_text() == "what was there before"
    assert visible(tmp_path) == sorted([*before, pieces.name])
    assert len(visible(pieces)) == 11

    monkeypatch.setattr(pieces_module, "PIECE_CELLS", 9)
    assert main(["-q", "embed", str(cells_file), "-o", str(out), "--model", str(model_dir), "--resume"]) == 0
    assert main(["-q", "embed", str(cells_file), "-o", str(once), "--model", str(model_dir), "--resume"]) == 0
    found, expected = (anndata.read_h5ad(path).obsm["X_cellfm"] for path in (out, once))
    np.testing.assert_array_equal(found, expected)
    assert visible(tmp_path) == sorted([*before, "once.h5ad"])


def test_a_part_that_was_killed_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, cells_file: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    out, once = tmp_path / "1.safetensors", tmp_path / "once.safetensors"
    out.write_text("what was there before")
    before = visible(tmp_path)
    command = [cells_file, "--model", model_dir, "--part", "1/1", "-o"]

    def run(point: str) -> int:
        ran = [sys.executable, "-c", RUN, point, *command, out]
        return subprocess.run(ran, cwd=tmp_path, capture_output=True, timeout=300).returncode

    assert run("file 4") == -signal.SIGKILL
    assert out.read_text() == "what was there before"
    assert visible(tmp_path / "1.safetensors.pieces") == [
        "000000.fingerprints.npy",
        "000000.npy",
        "000001.fingerprints.npy",
        "pieces.json",
    ]
    assert run("part") == -signal.SIGKILL
    assert out.read_text() == "what was there before"

    monkeypatch.setattr(pieces_module, "PIECE_CELLS", 9)
    for path in (out, once):
        assert main(["-q", "embed", *map(str, command), str(path), "--resume"]) == 0
    assert out.read_bytes() == once.read_bytes()
    assert visible(tmp_path) == sorted([*before, "once.safetensors"])


class Shapes:
    """A network that only notes the shapes it is given."""

    on_cpu = True

    def __init__(self) -> None:
        self.seen: list[int] = []

    def prepare(self, n_tokens: int) -> None:
        pass

    def cell(self, chunks: object) -> np.ndarray:
        self.seen.append(chunks.gene_ids.shape[0])
        return np.zeros((len(chunks.cls_row), 8), np.float32)


def test_a_short_last_block_has_the_shape_of_the_others():
    # Another shape, other bits: a run that goes on with the last block alone must compute it as the whole run does.
    def batch(n_cells: int) -> TokenBatch:
        indptr = np.arange(n_cells + 1, dtype=np.int64) * 20
        return TokenBatch(indptr, np.ones(20 * n_cells, np.int32), np.ones(20 * n_cells, np.float32))

    config = ModelConfig(n_layers=1, d_model=8, n_heads=2, n_genes=30)
    whole, rest = Shapes(), Shapes()
    one, other = Encoder(config, whole), Encoder(config, rest)
    for encoder in (one, other):
        encoder.prepare(20 * 1001)
    one.run(batch(1000), ("cell",), None)
    one.run(batch(1), ("cell",), None)
    other.run(batch(1), ("cell",), None)
    assert set(whole.seen) == set(rest.seen)
    assert len(set(rest.seen)) == 1


# Python 3.13 complains of a buffer that the write which failed still holds.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr", ".safetensors"])
@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["at once", "pieces"])
def test_a_full_disk_keeps_what_was_there(
    tmp_path: Path, cells_file: Path, model_dir: Path, suffix: str, resume: list[str], capsys: pytest.CaptureFixture
):
    # The largest size of a file stands for the end of the disk: the system refuses in the middle of the writing.
    of_part = suffix == ".safetensors"
    source = tmp_path / ("in.h5ad" if of_part else f"in{suffix}")
    write_cells(anndata.read_h5ad(cells_file), source)
    out = tmp_path / f"out{suffix}"
    command = ["-q", "embed", str(source), "-o", str(out), "--model", str(model_dir), *resume]
    if of_part:
        command += ["--part", "1/1"]
        out.write_text("an earlier part")
    else:
        write_cells(anndata.read_h5ad(cells_file)[:3].copy(), out)
    before = visible(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        assert main(command) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert "too large" in capsys.readouterr().err
    if of_part:
        assert out.read_text() == "an earlier part"
    else:
        assert (anndata.read_h5ad if suffix == ".h5ad" else anndata.read_zarr)(out).n_obs == 3
    pieces = [f"out{suffix}.pieces"] if resume else []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, *pieces])
    assert main(command) == 0, "with room again, the same command does it"
    assert visible(tmp_path) == before


FULL = """
import sys
from pathlib import Path
from cellfm.cells import read_cells, write_cells
from cellfm.errors import InputError
try:
    write_cells(read_cells(Path(sys.argv[1])), Path(sys.argv[2]))
except InputError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


def test_a_disk_without_room_is_told(tmp_path: Path, cells_file: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if not root or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        # In a process of its own, because HDF5 once met with a full disk crashes at the end of the process.
        for name in ("cells.h5ad", "cells.zarr"):
            ran = subprocess.run([sys.executable, "-c", FULL, cells_file, disk / name], capture_output=True, text=True)
            assert ran.returncode == 2, ran.stderr[-2000:]
            assert re.search(rf"{name}: No space left on device.* Nothing was changed", ran.stderr)
            assert "Exception ignored" not in ran.stderr
            assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_output_folder_that_refuses_is_told_before_the_work(
    tmp_path: Path, cells_file: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    # Root may write anywhere, so that the refusal is simulated where the system would give it.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(_write.tempfile, "TemporaryDirectory", refuse)
    monkeypatch.setattr(CellFM, "encode", lambda *_, **__: pytest.fail("it has begun to work"))
    out = tmp_path / "out.h5ad"
    assert main(["-q", "embed", str(cells_file), "-o", str(out), "--model", str(model_dir)]) == 2
    assert "out.h5ad cannot be written: Permission denied" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_told(tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            check_writable(tmp_path / "out.h5ad")
    finally:
        tmp_path.chmod(0o700)


TWO = """
import sys, time
from contextlib import nullcontext
from pathlib import Path
import numpy as np
import cellfm.model._cellfm as cellfm
from cellfm.cli import main

number, barrier, *args = sys.argv[1:]

class Encoder:  # as quick as can be: what is tested is the files
    clear_memory_errors = nullcontext
    def prepare(self, n_tokens): pass
    def run(self, batch, outputs, batch_size):
        return {"cell": np.full((batch.n_cells, 16), float(number), np.float32)}

cellfm.CellFM._encoder = Encoder()
import cellfm.cells.write as write
import cellfm.model._embedding_part as part
inner = write.atomic_file
def together(path):
    Path(f"{barrier}-{number}").touch()
    end = time.monotonic() + 60
    while not all(Path(f"{barrier}-{i}").exists() for i in (1, 2)) and time.monotonic() < end:
        time.sleep(0.005)
    return inner(path)
write.atomic_file = part.atomic_file = together
sys.exit(main(["-q", "embed", *args]))
"""


@pytest.mark.parametrize("part", [[], ["--part", "1/1"]], ids=["all", "part"])
@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["whole", "pieces"])
def test_two_processes_with_one_output_leave_that_of_one(
    tmp_path: Path, cells_file: Path, model_dir: Path, resume: list[str], part: list[str]
):
    out = tmp_path / ("1.safetensors" if part else "out.h5ad")
    command = [str(tmp_path / "barrier"), cells_file, "-o", out, "--model", model_dir, *resume, *part]
    running = [
        subprocess.Popen([sys.executable, "-c", TWO, str(i), *command], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for i in (1, 2)
    ]
    codes = {(process.wait(300), process.stderr.read()) for process in running}
    for process in running:
        process.stderr.close()
    assert codes == {(0, "")}
    found = np.unique(EmbeddingPart.open(out).read()[0] if part else anndata.read_h5ad(out).obsm["X_cellfm"])
    assert found.tolist() in ([1.0], [2.0])
    assert not list(tmp_path.glob(".*"))
    assert not list(tmp_path.glob("*.pieces"))


def test_pieces_that_another_process_has_joined_already_are_no_fault(
    tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM
):
    cells = read_input(tiny_adata, tiny_model.vocab)
    one, other = (EmbeddingCheckpoint(tmp_path / "p", tiny_model, cells, 0) for _ in range(2))
    one.compute()
    other.compute()
    for mine, theirs in zip(one.joined(), other.joined(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for _ in range(2):
        remove_pieces(tmp_path / "p", tiny_adata.n_obs)
    assert not (tmp_path / "p").exists()
    with pytest.raises(InputError, match="missing of the"):
        other.joined()


def state(adata: AnnData) -> dict[str, object]:
    return {
        "obs": sorted(adata.obs),
        "obsm": sorted(adata.obsm),
        "uns": sorted(adata.uns),
        "record": sorted(adata.uns.get("cellfm", {})),
        "layers": sorted(name for name in adata.layers if name is not None),
        "var": sorted(adata.var),
        "names": list(adata.var_names),
        "X": adata.X.toarray().tobytes(),
    }


def embed(adata: AnnData, model: CellFM) -> None:
    cf.tl.embed(adata, model)


def transfer(adata: AnnData, model: CellFM) -> None:
    reference = adata.copy()
    reference.obs_names = [f"other{i}" for i in range(adata.n_obs)]
    cf.tl.transfer_labels(adata, reference, labels_key="label", model=model)


def annotate(adata: AnnData, model: CellFM) -> None:
    reference = adata.copy()
    reference.obs_names = [f"other{i}" for i in range(adata.n_obs)]
    cf.tl.annotate(adata, reference=reference, labels_key="label", model=model)


def integrate(adata: AnnData, model: CellFM) -> None:
    cf.tl.integrate(adata, model, batch_key="batch", steps=2, train_genes=60)


def harmonize(adata: AnnData, model: CellFM) -> None:
    cf.pp.harmonize_genes(adata, model=model)


@pytest.mark.parametrize("tool", [embed, transfer, annotate, pytest.param(integrate, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_it_works_changes_nothing(
    tool: Callable, tiny_adata: AnnData, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch
):
    before = state(tiny_adata)
    encode, calls = CellFM.encode, []

    def stopped(self: CellFM, batch: TokenBatch, **options: object) -> object:
        calls.append(None)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return encode(self, batch, **options)

    monkeypatch.setattr(_input, "BLOCK_CELLS", 16)
    monkeypatch.setattr(CellFM, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        tool(tiny_adata, tiny_model)
    assert len(calls) == 2
    assert state(tiny_adata) == before
    monkeypatch.setattr(CellFM, "encode", encode)
    tool(tiny_adata, tiny_model)
    assert state(tiny_adata) != before


def fit_annotator(adata: AnnData, model: CellFM) -> None:
    cf.tl.fit_annotator(adata, model, labels_key="label", method="lora", batch_size=8)


def fit_perturbation(adata: AnnData, model: CellFM) -> None:
    cf.tl.fit_perturbation(adata, model, condition_key="condition", min_known_genes=10, width=8)


@pytest.mark.parametrize(
    ("learn", "feed"), [(integrate, IntegrationFeed), (fit_annotator, TokenBatches), (fit_perturbation, Pairs)]
)
@pytest.mark.filterwarnings("ignore::cellfm.errors.DataWarning")  # that there are few cells
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_it_trains_changes_nothing(
    tiny_adata: AnnData, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch, learn: Callable, feed: type
):
    perturbed = ["ctrl", *(f"GENE{i}+ctrl" for i in range(6)), "GENE0+GENE1"]
    tiny_adata.obs["condition"] = np.array(perturbed)[np.arange(tiny_adata.n_obs) % len(perturbed)]
    before, weights = state(tiny_adata), {name: array.copy() for name, array in tiny_model.weights.items()}
    batch, seen = feed.batch, []

    def stopped(self: object, step: int) -> object:
        seen.append(step)
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return batch(self, step)

    monkeypatch.setattr(feed, "batch", stopped)
    with pytest.raises(KeyboardInterrupt):
        learn(tiny_adata, tiny_model)
    assert seen == [0, 1]
    assert state(tiny_adata) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert all(np.array_equal(tiny_model.weights[name], array) for name, array in weights.items())


@pytest.mark.parametrize("tool", [embed, transfer, annotate, harmonize, integrate])
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_it_writes_comes_after_the_whole_result(
    tool: Callable, tiny_adata: AnnData, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch
):
    if tool is harmonize:  # two genes to add up
        tiny_adata.var_names = [*tiny_adata.var_names[:-1], "ENSG00000000000"]
    expected = tiny_adata.copy()
    tool(expected, tiny_model)
    record = _outputs.record_run

    def stopped(*args: object, **facts: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # before the last thing is written
        record(*args, **facts)

    where = "cellfm.cells.harmonize" if tool is harmonize else "cellfm.cells.outputs"
    monkeypatch.setattr(f"{where}.record_run", stopped)
    with pytest.raises(KeyboardInterrupt):
        tool(tiny_adata, tiny_model)
    assert state(tiny_adata) == state(expected)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_a_file_is_written_leaves_none(
    tmp_path: Path, tiny_adata: AnnData, monkeypatch: pytest.MonkeyPatch
):
    create, calls = h5py.Group.create_dataset, []

    def stopped(self: h5py.Group, *args: object, **options: object) -> object:
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return create(self, *args, **options)

    monkeypatch.setattr(h5py.Group, "create_dataset", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_cells(tiny_adata, tmp_path / "out.h5ad")
    assert not list(tmp_path.iterdir())
