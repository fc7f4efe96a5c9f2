"""Settings of a session: cache folder, engine and device, verbosity."""

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from platformdirs import user_cache_dir

from cellfm.errors import InputError
from cellfm.io import logging as _logging
from cellfm.io.installed import BACKENDS, require_engine

DEVICES = ("auto", "CPU", "Ascend")
VERBOSITIES = ("error", "warning", "info", "debug")
MISSING_LABELS = (
    "",
    "nan",
    "-nan",
    "NaT",  # NAT is normal adjacent tissue
    "na",
    "n.a.",
    "n/a",
    "#na",
    "#n/a",
    "<na>",
    "None",  # none may be no treatment, or no disease
    "<none>",
    "null",
    "<null>",
    "-",
    "--",
    "---",
    "–",
    "—",
    "?",
    "??",
    "???",
    ".",
    "undefined",
    "unassigned",
    "not assigned",
    "unlabeled",
    "unlabelled",
    "unannotated",
    "not annotated",
    "missing",
    "not available",
    "not applicable",
)
"""Text that counts as a missing value; see `means_missing`."""


def means_missing(text: str, words: Collection[str] = frozenset(MISSING_LABELS)) -> bool:
    """Whether text counts as a missing value. Blanks around it are ignored; capitals are ignored unless the listed word
    has some.
    """
    bare = text.strip()
    return bare in words or bare.lower() in words


class Settings:
    """Settings of this session, reached as `cf.settings`.

    Attributes
    ----------
    backend
        Engine of all tools and models whose `backend` is ``"auto"`` or that have no such argument: ``"auto"``
        (MindSpore if there is an Ascend NPU, otherwise JAX), ``"jax"`` or ``"mindspore"``. ``CELLFM_BACKEND`` sets it
        at start.
    cache_dir
        Folder for downloaded and converted models. The environment variable ``CELLFM_CACHE_DIR`` sets it at start.
    device
        ``"auto"`` (an Ascend NPU if MindSpore finds one, otherwise the device that JAX finds), ``"CPU"`` or
        ``"Ascend"``. ``CELLFM_DEVICE`` sets it at start.
    folding_gb
        Maximum memory, in GB, for precomputed tables that speed up the first layer of wide networks (1.0); 0 turns them
        off.
    missing_labels
        tuple of str: text in columns of `obs` that counts as missing, besides NaN, None and ``pd.NA``. Such cells
        belong to no class, batch, group or condition. Blanks around the text are ignored. A word in lower case matches
        any capitalisation (``nan`` also matches ``NaN`` and ``NAN``); a word with capitals matches only itself
        (``None``, because ``none`` may be a treatment). ``-`` is a value if the column also contains ``+``. By default
        ``nan``, ``na``, ``n/a``, ``<na>``, ``null``, ``None``, the empty text, ``-``, ``?``, ``.``, ``unassigned``,
        ``undefined``, ``unlabelled``, ``missing``, ``not available`` and the like. ``CELLFM_MISSING_LABELS``, separated
        by commas, sets it at start.
    verbosity
        ``"error"``, ``"warning"`` (default), ``"info"`` or ``"debug"``; the numbers 0 to 3 mean the same.

    Examples
    --------
    >>> cf.settings.verbosity = "info"
    >>> cf.settings
    >>> cf.settings.verbosity = "warning"
    """

    def __init__(self) -> None:
        self._cache_dir = Path(os.environ.get("CELLFM_CACHE_DIR") or user_cache_dir("cellfm"))
        self._backend = os.environ.get("CELLFM_BACKEND") or "auto"
        self._device = os.environ.get("CELLFM_DEVICE") or "auto"
        self._folding_gb = 1.0
        words = os.environ.get("CELLFM_MISSING_LABELS")
        self._missing_labels = MISSING_LABELS if words is None else tuple(word.strip() for word in words.split(","))
        self._verbosity = "warning"

    def __setattr__(self, name: str, value: object) -> None:
        known = [key for key, one in vars(type(self)).items() if isinstance(one, property)]
        if not name.startswith("_") and name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"There is no setting {name!r}.{hint} Settings: {', '.join(known)}.")
        super().__setattr__(name, value)

    @property
    def backend(self) -> str:
        if self._backend not in BACKENDS:  # the environment variable may hold anything
            raise InputError(f"CELLFM_BACKEND is {self._backend!r}; it must be one of {', '.join(BACKENDS)}.")
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        require_engine(value)
        self._backend = value

    @contextmanager
    def use_backend(self, backend: str) -> Iterator[None]:
        """A block in which another engine is the default; ``"auto"`` changes nothing."""
        before = self._backend
        if backend != "auto":
            self.backend = backend
        try:
            yield
        finally:
            self._backend = before

    @property
    def cache_dir(self) -> Path:
        return self._cache_dir

    @cache_dir.setter
    def cache_dir(self, value: str | Path) -> None:
        self._cache_dir = Path(value).expanduser()

    @property
    def device(self) -> str:
        if self._device not in DEVICES:  # the environment variable may hold anything
            raise InputError(f"CELLFM_DEVICE is {self._device!r}; it must be one of {', '.join(DEVICES)}.")
        return self._device

    @device.setter
    def device(self, value: str) -> None:
        if value not in DEVICES:
            raise InputError(f"device must be one of {', '.join(DEVICES)}, not {value!r}.")
        self._device = value

    @property
    def folding_gb(self) -> float:
        return self._folding_gb

    @folding_gb.setter
    def folding_gb(self, value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise InputError(f"folding_gb must be a number of 0 or more, not {value!r}.")
        self._folding_gb = float(value)

    @property
    def missing_labels(self) -> tuple[str, ...]:
        return self._missing_labels

    @missing_labels.setter
    def missing_labels(self, value: Iterable[str]) -> None:
        words = () if isinstance(value, str) else tuple(value)
        if isinstance(value, str) or not all(isinstance(word, str) for word in words):
            raise InputError(f"missing_labels must be a list of strings, such as ('nan', 'NA'), not {value!r}.")
        self._missing_labels = tuple(word.strip() for word in words)

    @property
    def verbosity(self) -> str:
        return self._verbosity

    @verbosity.setter
    def verbosity(self, value: str | int) -> None:
        if isinstance(value, int) and 0 <= value < len(VERBOSITIES):
            value = VERBOSITIES[value]
        if value not in VERBOSITIES:
            raise InputError(f"verbosity must be one of {', '.join(VERBOSITIES)} or 0 to 3, not {value!r}.")
        self._verbosity = str(value)
        _logging.set_level(self._verbosity)

    def __repr__(self) -> str:
        shown = {
            "backend": self._backend,
            "cache_dir": str(self.cache_dir),
            "device": self._device,
            "folding_gb": self.folding_gb,
            "missing_labels": self.missing_labels,
            "verbosity": self.verbosity,
        }
        if self.missing_labels == MISSING_LABELS:  # a long list
            del shown["missing_labels"]
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


settings = Settings()


def model_folder(name: str) -> Path:
    """The folder of a model with a name: in the package or in the cache."""
    if name == "mini":
        return Path(__file__).parent / "models" / "mini"
    return settings.cache_dir / "models" / name
