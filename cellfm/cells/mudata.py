"""Use MuData without pulling columns from its modalities, in all versions of mudata."""

from contextlib import AbstractContextManager


def without_pulling() -> AbstractContextManager[object]:
    """A block in which making, copying and updating a MuData pulls no columns from its modalities."""
    import mudata

    if hasattr(mudata, "settings"):  # mudata 0.4 and later
        return mudata.settings.override(pull_on_update=False)
    return mudata.set_options(pull_on_update=False)
