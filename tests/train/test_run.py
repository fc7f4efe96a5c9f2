"""The folder of a run: what is saved is loaded, damage is named, and one folder holds one run."""

import csv
import json
import re
from importlib.metadata import version

import numpy as np
import pytest
from safetensors import SafetensorError

from cellfm.errors import CheckpointError, InputError
from cellfm.train._run import COLUMNS, RunFolder

FACTS = {"model": {"d_model": 16, "n_layers": 2}, "train": {"steps": 10, "learning_rate": 1e-3}}
TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(2.5, np.float32)}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.start(FACTS)
    return folder


def rows(run: RunFolder) -> list[dict[str, str]]:
    with run.log.open(newline="") as file:
        return list(csv.DictReader(file))


def test_saved_is_loaded(run):
    assert run.load() is None
    run.save(7, TENSORS, {"loss_scale": 4.0}, keep=2)
    tensors, state = run.load()
    assert state == {"loss_scale": 4.0, "step": 7}
    assert tensors.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].shape == array.shape


def test_the_last_checkpoint_is_loaded_and_so_many_are_kept(run):
    for step in (5, 100, 20_000, 3_000_000_000):
        run.save(step, TENSORS, {}, keep=3)
    assert run.steps() == [100, 20_000, 3_000_000_000]
    assert run.load()[1]["step"] == 3_000_000_000


def test_a_step_can_be_saved_again(run):
    run.save(5, TENSORS, {}, keep=2)
    run.save(5, {"a": np.zeros(1, np.float32)}, {}, keep=2)
    assert run.steps() == [5]
    assert run.load()[0].keys() == {"a"}


@pytest.mark.parametrize("part", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_damaged_checkpoint_is_named(run, part, damage):
    run.save(5, TENSORS, {}, keep=2)
    folder = run.save(9, TENSORS, {"loss_scale": 1.0}, keep=2)
    file = folder / part
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=f"{re.escape(str(folder))} is damaged .* continue from the one before"):
        run.load()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_save_that_fails_leaves_the_checkpoints_before(run, monkeypatch, error):
    run.save(5, TENSORS, {}, keep=1)

    def full_disk(*_):
        raise error

    monkeypatch.setattr("cellfm.train._run.save_file", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        run.save(9, TENSORS, {}, keep=1)
    assert run.steps() == [5]
    assert run.load()[1]["step"] == 5
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000000005"]


def test_what_a_killed_save_left_is_no_checkpoint(run):
    run.save(5, TENSORS, {}, keep=2)
    (run.checkpoints / ".step-000000009-x1" / "new").mkdir(parents=True)
    assert run.steps() == [5]
    run.save(9, TENSORS, {}, keep=2)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-000000005", "step-000000009"]


def test_another_version_of_cellfm_may_go_on(run):
    file = run.path / "run.json"
    facts = json.loads(file.read_text())
    assert facts.pop("cellfm_version") == version("cellfm")
    file.write_text(json.dumps(facts | {"cellfm_version": "0.0.1"}))
    run.start(facts)
    assert json.loads(file.read_text())["cellfm_version"] == "0.0.1"


def test_same_configuration_goes_on(run):
    run.start(json.loads(json.dumps(FACTS)))
    run.start(FACTS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train": {"steps": 20, "learning_rate": 1e-3}}, r"train\.steps \(10, now 20\)"),
        ({"model": {"d_model": 32, "n_layers": 1}}, r"model\.d_model \(16, now 32\), model\.n_layers \(2, now 1\)"),
        ({"train": {"steps": 10, "learning_rate": 1e-3, "clip": "none"}}, r"train\.clip \(None, now 'none'\)"),
    ],
)
def test_another_configuration_is_refused_with_what_differs(run, change, named):
    with pytest.raises(InputError, match=f"another configuration; different: {named}\\. Choose another folder"):
        run.start(FACTS | change)
    run.start(FACTS)


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(InputError, match="contains something other than a training run; choose another folder"):
        RunFolder(tmp_path).start(FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_a_run_killed_as_it_began_begins_again(tmp_path):
    (tmp_path / ".run.json-abc").mkdir()
    RunFolder(tmp_path).start(FACTS)
    assert json.loads((tmp_path / "run.json").read_text()) == {"cellfm_version": version("cellfm")} | FACTS


def test_one_process_a_folder(run):
    with run.opened(FACTS), pytest.raises(InputError, match="being written by another process"), run.opened(FACTS):
        pass
    with run.opened(FACTS):
        pass


def test_log_ends_where_training_goes_on(run):
    run.open_log(0)
    for step in (2, 4, 6, 8):
        run.append_log({"step": step, "loss": repr(1 / step)})
    run.open_log(6)
    assert [row["step"] for row in rows(run)] == ["2", "4", "6"]
    run.append_log({"step": 8, "loss": "0.5"})
    assert [(row["step"], row["loss"]) for row in rows(run)][-2:] == [("6", repr(1 / 6)), ("8", "0.5")]
    assert tuple(rows(run)[0]) == COLUMNS
    run.open_log(0)
    assert rows(run) == []


def test_half_a_line_is_dropped(run):
    run.open_log(0)
    run.append_log({"step": 12, "loss": "0.5"})
    run.append_log({"step": 14, "loss": "0.4"})
    run.log.write_bytes(run.log.read_bytes() + b"1")  # of 16, when the disk was full
    run.open_log(14)
    assert [row["step"] for row in rows(run)] == ["12", "14"]


def test_a_log_of_another_version_stays_aligned(run):
    run.log.write_text("step,loss,older,learning_rate\n1,0.9,x,0.1\n2,0.8,y,0.2\n")
    run.open_log(2)
    run.append_log({"step": 3, "loss": "0.7", "type": "0.5", "learning_rate": "0.3"})
    assert [(row["step"], row["loss"], row["type"], row["learning_rate"]) for row in rows(run)] == [
        ("1", "0.9", "", "0.1"),
        ("2", "0.8", "", "0.2"),
        ("3", "0.7", "0.5", "0.3"),
    ]


def test_a_lost_log_begins_again(run):
    run.open_log(5)
    assert rows(run) == []


def test_a_fact_that_has_no_column_is_an_error(run):
    run.open_log(0)
    with pytest.raises(ValueError, match="losss"):
        run.append_log({"step": 1, "losss": "0.5"})
