"""`cf.settings`: what it takes, and what it refuses without changing."""

from pathlib import Path

import pytest

from cellfm.errors import InputError
from cellfm.settings import Settings, settings


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose verbosity does not touch the logger of the package."""
    monkeypatch.setattr("cellfm.io.logging.set_level", lambda _: None)
    return Settings()


def test_what_is_set_is_read(own: Settings):
    own.cache_dir = "~/models"
    own.device, own.folding_gb, own.verbosity = "CPU", 2, 3
    assert own.cache_dir == Path.home() / "models"
    assert (own.device, own.folding_gb, own.verbosity) == ("CPU", 2.0, "debug")
    assert str(own.cache_dir) in repr(own)
    own.verbosity = "error"
    assert own.verbosity == "error"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("device", "GPU", "device must be one of .*CPU.*, not 'GPU'"),
        ("folding_gb", -1, "folding_gb must be a number of 0 or more, not -1"),
        ("folding_gb", "2", "folding_gb must be a number of 0 or more, not '2'"),
        ("folding_gb", True, "not True"),
        ("folding_gb", float("nan"), "not nan"),
        ("verbosity", "loud", "verbosity must be one of error, .* or 0 to 3, not 'loud'"),
        ("verbosity", 4, "not 4"),
    ],
)
def test_what_is_no_setting_is_refused_and_changes_nothing(own: Settings, name: str, value: object, message: str):
    before = getattr(own, name)
    with pytest.raises(InputError, match=message):
        setattr(own, name, value)
    assert getattr(own, name) == before


def test_a_mistyped_setting_is_refused_with_the_nearest(own: Settings):
    with pytest.raises(InputError, match=r"There is no setting 'verbose'\. Did you mean 'verbosity'\?"):
        own.verbose = "info"
    with pytest.raises(InputError, match=r"There is no setting 'xyz'\. Settings: backend, cache_dir"):
        own.xyz = 1
    assert not hasattr(own, "verbose")


def test_the_repr_shows_every_setting(own: Settings):
    assert repr(own).startswith("Settings(backend='auto', cache_dir='")
    assert "folding_gb=1.0, verbosity='warning')" in repr(own)
    own.missing_labels = ["?"]
    assert "missing_labels=('?',)" in repr(own)


def test_the_environment_may_hold_no_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CELLFM_DEVICE", "abacus")
    with pytest.raises(InputError, match="CELLFM_DEVICE is 'abacus'; it must be one of"):
        _ = Settings().device
    assert settings.device
