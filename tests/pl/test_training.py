"""`cf.pl.training`: curves are what the log of a run holds, alone and beside another run's."""

import matplotlib.pyplot as plt
import pytest

import cellfm as cf
from cellfm.errors import InputError, InputTypeError

HEADER = "step,loss,gene,cell,contrast,type,validation_loss,validation_knn\n"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    (folder / "log.csv").write_text(f"{HEADER}10,4,3,1,0,0,,\n20,2,1.5,0.5,0,0,2.5,0.5\n30,1,0.5,0.5,0,0,,\n")
    yield folder
    plt.close("all")


def curves(axis) -> dict[str, list[tuple[float, float]]]:
    lines = axis.get_lines()
    return {str(line.get_label()): list(zip(*(x.tolist() for x in line.get_data()), strict=True)) for line in lines}


def test_curves_are_the_log(run):
    axes = cf.pl.training(run, show=False)
    assert [axis.get_title() for axis in axes][1:] == [
        "masked values, by gene tokens",
        "masked values, by the cell",
        "neighbours of the same type",
    ]
    assert curves(axes[0]) == {"run": [(10, 4), (20, 2), (30, 1)], "run, validation": [(20, 2.5)]}
    assert curves(axes[1]) == {"run": [(10, 3), (20, 1.5), (30, 0.5)]}
    assert curves(axes[3]) == {"run": [(20, 0.5)]}


def test_several_runs_share_axes_and_are_smoothed(run):
    axes = cf.pl.training({"one": run, "other": run}, smooth=2, log_scale=True, show=False)
    found = curves(axes[0])
    assert found["one"] == found["other"] == [(10, 4), (20, 3), (30, 1.5)]
    assert axes[0].get_yscale() == "log"
    assert axes[-1].get_yscale() == "linear"


def test_a_line_that_is_half_written_is_left_out(run):
    with (run / "log.csv").open("a") as file:
        file.write("40,0.5,0.2")
    assert curves(cf.pl.training(run, show=False)[0])["run"][-1] == (40, 0.5)


def test_what_is_no_run_is_named(run, tmp_path):
    with pytest.raises(InputError, match="contains no training run"):
        cf.pl.training(tmp_path, show=False)
    with pytest.raises(InputError, match="smooth"):
        cf.pl.training(run, smooth=0)
    with pytest.raises(InputTypeError, match="folders by name"):
        cf.pl.training(3)
    (run / "log.csv").write_text(HEADER)
    with pytest.raises(InputError, match="not logged a step"):
        cf.pl.training(run)
