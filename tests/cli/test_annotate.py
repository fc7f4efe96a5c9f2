"""`cellfm annotate`: the same as the tool, on files."""

import anndata as ad
import pytest

import cellfm as cf
from cellfm.cli._main import main

pytestmark = [
    pytest.mark.usefixtures("own_logger"),
    pytest.mark.filterwarnings("ignore:More than half of the cells:cellfm.errors.DataWarning"),
]


@pytest.fixture
def files(tiny_adata, tiny_model, tmp_path):
    tiny_adata[:24].write_h5ad(tmp_path / "reference.h5ad")
    tiny_adata[24:].write_h5ad(tmp_path / "query.h5ad")
    tiny_model.save(tmp_path / "model")
    return tmp_path


def run(folder, *options: str) -> int:
    return main(["annotate", str(folder / "query.h5ad"), "-o", str(folder / "out.h5ad"), *options])


def test_annotates_from_a_reference_and_again_from_what_was_kept(files, capsys):
    learn = ("--reference", str(files / "reference.h5ad"), "--labels-key", "label", "--model", str(files / "model"))
    assert run(files, *learn, "--save-annotator", str(files / "kept"), "--majority-voting", "batch") == 0
    assert "16 cells, labels in obs['cellfm_label']" in capsys.readouterr().out
    first = ad.read_h5ad(files / "out.h5ad")
    assert first.obs.groupby("batch", observed=True)["cellfm_label"].nunique().max() == 1
    assert run(files, "--annotator", str(files / "kept"), "--confidence", "0", "--distance", "inf") == 0
    second = ad.read_h5ad(files / "out.h5ad")
    assert (second.obs["cellfm_confidence"] == first.obs["cellfm_confidence"]).all()
    assert second.obs["cellfm_label"].astype(str).equals(second.obs["cellfm_label_raw"].astype(str))
    assert run(files, *learn, "--save-annotator", str(files / "kept")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(files, *learn, "--save-annotator", str(files / "kept"), "--overwrite") == 0
    expected = cf.tl.annotate(ad.read_h5ad(files / "query.h5ad"), files / "kept", copy=True)
    assert expected.obs["cellfm_label_raw"].tolist() == second.obs["cellfm_label_raw"].tolist()


def test_auto_takes_groups(files):
    learn = ("--reference", str(files / "reference.h5ad"), "--labels-key", "label", "--model", str(files / "model"))
    assert run(files, *learn, "--method", "auto", "--groups-key", "batch") == 0
    record = ad.read_h5ad(files / "out.h5ad").uns["cellfm"]["cellfm_proba"]
    assert record["method"] == "auto"
    assert record["options"]["groups_key"] == "batch"
    assert len(record["candidates"]) == len(record["scores"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reference", "reference.h5ad"], "--labels-key"),
        (["--reference", "reference.h5ad", "--labels-key", "kind"], "Columns: label, batch"),
        (["--reference", "missing.h5ad", "--labels-key", "label"], "missing.h5ad"),
        (["--annotator", "missing"], "is not an annotator"),
        (["--annotator", "model"], "is not an annotator"),
        (["--annotator", "model", "--method", "lora"], "--annotator model is already fitted, and --method is only for"),
        (["--annotator", "model", "--labels-key", "label"], "--labels-key is only for fitting to a --reference"),
        (["--annotator", "model", "--all-genes"], "--all-genes is only for fitting"),
        (["--annotator", "model", "--groups-key", "batch"], "--groups-key is only for fitting"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(files, options, message, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert run(files, *options, *(() if "--annotator" in options else ("--model", "model"))) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (files / "out.h5ad").exists()


def test_info_tells_what_an_annotator_is(files, capsys):
    learn = ("--reference", str(files / "reference.h5ad"), "--labels-key", "label", "--model", str(files / "model"))
    assert run(files, *learn, "--save-annotator", str(files / "kept")) == 0
    capsys.readouterr()
    assert main(["info", str(files / "kept")]) == 0
    said = capsys.readouterr().out
    annotator = cf.tl.Annotator.load(files / "kept")
    assert repr(annotator) in said
    assert said.startswith("Annotator: 2 classes, fitted to 24 cells and 300 genes")
    assert "classes: A, B" in said
    assert f"weights SHA-256 {annotator.model.weights_hash}" in said
    assert f"written by cellfm {cf.__version__}" in said


@pytest.mark.parametrize("option", ["--random-state", "--seed"])
def test_the_seed_has_the_name_that_it_has_elsewhere(files, option, capsys):
    learn = ("--reference", str(files / "reference.h5ad"), "--labels-key", "label", "--model", str(files / "model"))
    assert run(files, *learn, option, "7") == 0
    assert ad.read_h5ad(files / "out.h5ad").uns["cellfm"]["cellfm_proba"]["options"]["random_state"] == 7
    with pytest.raises(SystemExit):
        run(files, "--help")
    assert "--seed" not in capsys.readouterr().out


def test_reference_and_annotator_exclude_each_other(files, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(files, "--reference", "a.h5ad", "--annotator", "b")
    with pytest.raises(SystemExit, match="2"):
        run(files)
