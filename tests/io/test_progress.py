"""Progress is a bar where a line can be written over, and a line a minute where all lines stay."""

import io
import sys

import pytest
import tqdm.std

from cellfm.io.progress import progress
from cellfm.settings import settings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tqdm.std, "time", clock)
    return clock


def shown(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, clock: Clock, *, seconds: int, more: bool = False
) -> str:
    """What is written in so many seconds of work, with an update each."""
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(seconds, "embedding", "cells") as bar:
        for _ in range(seconds):
            clock.now += 1
            bar.update()
            if more:
                bar.set_postfix(loss="0.5")
                bar.refresh()
                bar.clear()
    return stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Notebook(io.StringIO):
    __module__ = "ipykernel.iostream"


@pytest.mark.parametrize("more", [False, True])
def test_a_log_gets_one_whole_line_a_minute(monkeypatch, clock, more):
    text = shown(monkeypatch, io.StringIO(), clock, seconds=240, more=more)
    lines = text.split("\n")
    assert lines.pop() == ""
    assert len(lines) == 4
    assert "\r" not in text
    assert lines[0].startswith("[embedding] 60 of 240 cells (25 %), 01:00 elapsed, 03:00 left")
    assert all("loss=0.5" in line for line in lines[1:]) is more


def test_a_log_gets_nothing_of_short_work(monkeypatch, clock):
    assert shown(monkeypatch, io.StringIO(), clock, seconds=59) == ""


@pytest.mark.parametrize("stream", [Terminal, Notebook])
def test_a_terminal_and_a_notebook_get_a_bar(monkeypatch, clock, stream):
    text = shown(monkeypatch, stream(), clock, seconds=20)
    assert text.count("\r") > 10
    assert "embedding" in text
    assert "\n" not in text


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_silence_where_only_errors_are_wanted(monkeypatch, own_logger, clock, stream):
    settings.verbosity = "error"
    assert shown(monkeypatch, stream(), clock, seconds=600) == ""


def test_no_standard_error_at_all_does_no_harm(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", None)
    with progress(1, "embedding", "cells") as bar:
        bar.update()


def test_lines_for_others_go_between(monkeypatch, clock):
    """As `train._workers` passes lines of another process on."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(10, "embedding", "cells") as bar:
        bar.write("a line", file=sys.stderr)
    assert stream.getvalue() == "a line\n"
