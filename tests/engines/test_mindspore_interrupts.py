"""Ctrl-C and the log of MindSpore while it computes."""

import logging
import os
import signal
import threading
import time

import numpy as np
import pytest

ms = pytest.importorskip("mindspore", reason="needs MindSpore, which is not installed")

from cellfm.engines.mindspore.devices import computing, use_device  # noqa: E402


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)


@ms.jit
def chain(x: ms.Tensor) -> ms.Tensor:
    for _ in range(60):
        x = x @ x * 1e-3
    return x


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_works_after_mindspore_has_computed():
    use_device()

    @computing()
    def total(width: int) -> float:
        return float(chain(ms.Tensor(np.eye(width, dtype=np.float32))).sum().asnumpy())

    for width in (3, 3, 4):
        assert total(width) < width
        with pytest.raises(KeyboardInterrupt):
            interrupt()


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0])
def test_ctrl_c_works_while_mindspore_computes(seconds: float):
    use_device()
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))

    @computing()
    def work() -> None:
        timer.start()
        for _ in range(1000):
            chain(ms.Tensor(np.ones((500, 500), np.float32)))

    with pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(KeyboardInterrupt):
        interrupt()


@pytest.mark.usefixtures("ctrl_c")
def test_what_mindspore_makes_of_ctrl_c_goes_to_who_answers_ctrl_c():
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    with computing(), computing():
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGINT]
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(0))
    try:
        with computing():
            os.kill(os.getpid(), signal.SIGTERM)  # somebody answers it already
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGINT, 0]


@pytest.mark.parametrize(
    ("level", "within"), [("WARNING", "ERROR"), ("DEBUG", "DEBUG"), ("ERROR", "ERROR"), ("NOTSET", "NOTSET")]
)
def test_mindspore_warns_of_nothing_while_it_computes_unless_more_was_asked_for(level, within):
    log = logging.getLogger(f"ME.mindspore.log.{os.getpid()}")
    before = log.level
    try:
        log.setLevel(level)
        with computing():
            assert log.level == logging.getLevelName(within)
        assert log.level == logging.getLevelName(level)
    finally:
        log.setLevel(before)
