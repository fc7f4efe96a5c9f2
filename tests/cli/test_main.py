"""The command line: quick help, one clear line for what the user can mend, and the same results as the library."""

import re
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import cellfm
import cellfm.cli._demo
import cellfm.cli._diagnose
import cellfm.cli._info
from cellfm.cells.mudata import without_pulling
from cellfm.cells.write import write_cells
from cellfm.cli import _main as cli
from cellfm.cli._diagnose import Finding
from cellfm.config import PUBLISHED
from cellfm.errors import InputError
from cellfm.model import CellFM, load_model
from cellfm.tl import embed

pytestmark = pytest.mark.usefixtures("own_logger")

COMMANDS = ("demo", "embed", "shard", "pretrain", "plan", "info", "convert", "doctor")


def run(*args: object) -> int:
    return cli.main([str(arg) for arg in args])


def test_help_is_quick_and_names_every_command(tmp_path: Path):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-m", "cellfm", "--help"], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.5
    assert not ran.stderr
    for command in COMMANDS:
        assert re.search(rf"^\s+{command}\s", ran.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stopped:
        run(command, "--help")
    assert stopped.value.code == 0
    assert f"cellfm {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args", [[], ["emebd"], ["embed", "in.h5ad"], ["convert", "a.ckpt", "-o", "b", "--n-heads", "x"]]
)
def test_wrong_arguments_end_with_2(args: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stopped:
        run(*args)
    assert stopped.value.code == 2
    assert "usage: cellfm" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stopped:
        run("--version")
    assert stopped.value.code == 0
    assert re.fullmatch(r"cellfm \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (InputError("The cells are missing. Bring them."), 2, "cellfm: The cells are missing. Bring them.\n"),
        (PermissionError(13, "Permission denied", "a.h5ad"), 2, "cellfm: [Errno 13] Permission denied: 'a.h5ad'\n"),
        (KeyboardInterrupt(), 130, "cellfm: stopped\n"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, raised: BaseException, code: int, said: str
):
    def fails(_: object) -> int:
        raise raised

    monkeypatch.setattr(cellfm.cli._info, "_info", fails)
    assert run("info", "mini") == code
    assert capsys.readouterr().err == said


def test_faults_of_the_program_are_not_hidden(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cellfm.cli._info, "_info", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("info", "mini")


@pytest.mark.parametrize(("source", "target"), [("h5ad", "h5ad"), ("h5ad", "zarr"), ("zarr", "h5ad"), ("h5mu", "h5mu")])
def test_embedding_a_file_is_embedding_its_cells(
    tmp_path: Path, tiny_adata: AnnData, model_dir: Path, tiny_model: CellFM, source: str, target: str
):
    import mudata

    path, out = tmp_path / f"in.{source}", tmp_path / f"out.{target}"
    with without_pulling():
        write_cells(MuData({"rna": tiny_adata}) if source == "h5mu" else tiny_adata, path)
    assert run("embed", path, "-o", out, "--model", model_dir, "--key-added", "X_new", "--batch-size", 7) == 0
    if target == "h5mu":
        with without_pulling():
            written = mudata.read_h5mu(out)["rna"]
    else:
        written = anndata.read_h5ad(out) if target == "h5ad" else anndata.read_zarr(out)
    embed(tiny_adata, tiny_model, key_added="X_new")
    np.testing.assert_allclose(written.obsm["X_new"], tiny_adata.obsm["X_new"], atol=1e-5)
    assert (written.X != tiny_adata.X).nnz == 0
    assert list(written.obs_names) == list(tiny_adata.obs_names)
    assert written.uns["cellfm"]["X_new"]["model"] == "tiny"


def test_one_table_of_a_mudata_can_be_written_alone(tmp_path: Path, tiny_adata: AnnData, model_dir: Path):
    with without_pulling():
        write_cells(MuData({"gex": tiny_adata}), tmp_path / "in.h5mu")
    out = tmp_path / "out.h5ad"
    assert run("embed", tmp_path / "in.h5mu", "-o", out, "--model", model_dir, "--modality", "gex") == 0
    assert anndata.read_h5ad(out).obsm["X_cellfm"].shape == (tiny_adata.n_obs, 16)


def test_a_plot_is_drawn(tmp_path: Path, cells_file: Path, model_dir: Path):
    picture = tmp_path / "cells.png"
    out = tmp_path / "out.h5ad"
    assert run("embed", cells_file, "-o", out, "--model", model_dir, "--plot", picture, "--color", "label") == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_options_reach_the_tool(tmp_path: Path, cells_file: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch):
    given = {}

    def stand_in(data: AnnData, model: CellFM, **options: object) -> None:
        given.update(options, backed=data.isbacked, model=model.name)
        data.obsm[options["key_added"]] = np.zeros((data.n_obs, 2), np.float32)
        data.uns["cellfm"] = {}

    monkeypatch.setattr("cellfm.tl.embed", stand_in)
    options = {"layer": "raw", "values-layer": "log", "gene-key": "id", "hgnc": "none", "min-known-genes": "9"}
    pairs = [word for name, value in options.items() for word in (f"--{name}", value)]
    assert run("embed", cells_file, "-o", tmp_path / "out.h5ad", "--model", model_dir, *pairs) == 0
    assert given == {
        "layer": "raw",
        "values_layer": "log",
        "gene_key": "id",
        "hgnc": False,
        "min_known_genes": 9,
        "batch_size": None,
        "key_added": "X_cellfm",
        "modality": "rna",
        "checkpoint": None,
        "backed": True,
        "model": "tiny",
    }


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["in.h5ad", "-o", "out.csv"], "must end in .h5ad, .zarr, .h5mu"),
        (["in.h5ad", "-o", "no/out.h5ad"], "there is no folder"),
        (["in.h5ad", "-o", "out.h5ad"], "No file in.h5ad"),
        (["cells.h5ad", "-o", "out.h5ad", "--plot", "picture.gif"], "must end in .png, .pdf, .svg"),
        (["cells.h5ad", "-o", "out.h5ad", "--model", "nothing"], "No model 'nothing'"),
        (["cells.h5ad", "-o", "out.h5ad", "--model", "tiny", "--layer", "spliced"], "No layer 'spliced'"),
        (["cells.h5ad", "-o", "out.h5ad", "--model", "tiny", "--batch-size", "0"], "batch_size must be a whole number"),
        (["text.h5ad", "-o", "out.h5ad"], "begins with 'gene"),
        (["logged.h5ad", "-o", "out.h5ad", "--model", "tiny"], "No counts found"),
        (
            ["cells.h5ad", "-o", "out.h5ad", "--model", "tiny", "--plot", "a.png", "--color", "age"],
            "age is not a column of obs",
        ),
    ],
)
@pytest.mark.usefixtures("cells_file", "model_dir")
def test_what_cannot_be_embedded_is_told_and_nothing_written(
    tmp_path: Path,
    tiny_adata: AnnData,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    args: list[str],
    said: str,
):
    monkeypatch.chdir(tmp_path)
    Path("text.h5ad").write_text("gene\tcell\n")
    tiny_adata.X.data = np.log1p(tiny_adata.X.data)
    write_cells(tiny_adata, Path("logged.h5ad"))
    before = {file: file.stat() for file in tmp_path.rglob("*") if file.is_file()}
    assert run("embed", *args) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert {file: file.stat().st_mtime for file in before} == {file: was.st_mtime for file, was in before.items()}
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == set(before)


@pytest.mark.usefixtures("model_dir")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["embed", "cells.h5ad", "-o", "out.h5mu"], "AnnData is written to .h5ad or .zarr"),
        (["embed", "cells.h5ad", "-o", "out.h5ad", "--plot", "a.png", "--color", "age"], "age is not a column of obs"),
        (["integrate", "cells.h5ad", "-o", "out.h5mu", "--batch-key", "batch"], "AnnData is written to .h5ad or .zarr"),
        (
            ["annotate", "cells.h5ad", "-o", "out.h5mu", "--reference", "cells.h5ad", "--labels-key", "label"],
            "AnnData is written to .h5ad or .zarr",
        ),
    ],
)
def test_what_cannot_be_written_or_drawn_is_told_before_any_work(
    tmp_path: Path,
    cells_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    args: list[str],
    said: str,
):
    monkeypatch.chdir(tmp_path)
    for tool in ("embed", "integrate", "annotate"):
        monkeypatch.setattr(f"cellfm.tl.{tool}", lambda *_, **__: pytest.fail("work was done"))
    assert run(*args, "--model", "tiny") == 2
    assert said in capsys.readouterr().err


def test_info_tells_where_the_counts_are(tmp_path: Path, tiny_adata: AnnData, capsys: pytest.CaptureFixture):
    tiny_adata.layers["umis"] = tiny_adata.X.copy()
    tiny_adata.X.data = np.log1p(tiny_adata.X.data)
    write_cells(tiny_adata, tmp_path / "cells.zarr")
    assert run("info", tmp_path / "cells.zarr") == 0
    said = capsys.readouterr().out
    assert "zarr, 40 cells x 320 genes" in said
    assert re.search(r"^  X: values like .* log-normalisation$", said, re.MULTILINE)
    assert re.search(r"^  counts: umis$", said, re.MULTILINE)
    assert "obs: label, batch" in said


def test_info_says_when_there_are_no_counts(tmp_path: Path, tiny_adata: AnnData, capsys: pytest.CaptureFixture):
    tiny_adata.X.data -= 100
    write_cells(tiny_adata, tmp_path / "cells.h5ad")
    assert run("info", tmp_path / "cells.h5ad") == 0
    said = capsys.readouterr().out
    assert "X: negative values" in said
    assert "counts: none found" in said


def test_info_of_a_model_gives_its_shape_and_hashes(model_dir: Path, capsys: pytest.CaptureFixture):
    assert run("info", model_dir) == 0
    said = capsys.readouterr().out
    model = load_model(model_dir)
    assert said.startswith(repr(model))
    assert model.weights_hash in said
    assert model.vocab.hash in said
    assert '"n_layers": 2' in said
    assert f"written by: cellfm {cellfm.__version__}" in said
    assert "licence" not in said


def test_info_of_a_published_model_gives_the_licence(
    model_dir: Path, tiny_model: CellFM, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(PUBLISHED, "80M", tiny_model.config)
    assert run("info", model_dir) == 0
    assert "CC BY-NC-ND 4.0" in capsys.readouterr().out


def test_info_of_a_published_model_fetches_nothing(capsys: pytest.CaptureFixture):
    assert run("info", "800M") == 2
    assert "The model 800M has not been downloaded yet" in capsys.readouterr().err


def test_info_of_a_ckpt_lists_its_tensors(golden_dir: Path, capsys: pytest.CaptureFixture):
    assert run("info", golden_dir / "two_layers_training.ckpt") == 0
    said = capsys.readouterr().out
    assert "117 tensors" in said
    assert "82 tensors, marked *" in said
    assert "  gene_emb  Float32  (408, 32)" in said
    assert len(re.findall(r"^\* ", said, re.MULTILINE)) == 82


@pytest.mark.parametrize("name", ["cells.txt", "weights.ckpt", "folder"])
def test_info_of_other_things_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture, name: str):
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_text("hello")
    assert run("info", path) == 2
    assert str(path) in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error(golden_dir: Path, tmp_path: Path):
    command = f"{sys.executable} -m cellfm info {golden_dir / 'two_layers_training.ckpt'} | head -n 1"
    ran = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0
    assert not ran.stderr


def test_convert_goes_both_ways(golden_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    table, folder, back = tmp_path / "genes.csv", tmp_path / "model", tmp_path / "back.ckpt"
    pd.DataFrame({"HGNC_gene": [f"GENE{i:03d}" for i in range(400)]}).to_csv(table, index=False)
    to_folder = ("convert", golden_dir / "lora.ckpt", "-o", folder, "--vocabulary", table, "--n-heads", 4)
    assert run(*to_folder) == 0
    weights = (folder / "model.safetensors").read_bytes()
    assert run("convert", folder, "-o", back) == 0
    assert run(*to_folder) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run("convert", back, "-o", folder, "--vocabulary", table, "--n-heads", 4, "--overwrite") == 0
    assert (folder / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("status", "code", "last"),
    [("ok", 0, "all is well"), ("warning", 0, "0 problems, 1 warning"), ("problem", 1, "1 problem, 0 warnings")],
)
def test_the_doctors_table_ends_with_1_for_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, status: str, code: int, last: str
):
    fix = "" if status == "ok" else "take a rest"
    findings = [Finding("Python", "ok", "3.11"), Finding("numpy", status, "2.0", fix)]
    monkeypatch.setattr(cellfm.cli._diagnose, "diagnose", lambda *_, **__: findings)
    assert run("doctor") == code
    said = capsys.readouterr().out
    assert re.search(rf"^numpy   {status} +2\.0$", said, re.MULTILINE)
    assert ("fix: take a rest" in said) == bool(fix)
    assert said.strip().endswith(last)


def test_the_demo_gets_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folders = []
    monkeypatch.setattr(cellfm.cli._demo, "run_demo", folders.append)
    assert run("demo") == 0
    assert run("demo", "-o", tmp_path) == 0
    assert folders == [Path("cellfm-demo"), tmp_path]
