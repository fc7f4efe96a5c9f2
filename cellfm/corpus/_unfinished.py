"""The state of an unfinished corpus: plan, finished shards, and where to continue after a stop."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cellfm.corpus._corpus import check_shard
from cellfm.corpus._manifest import check_entry
from cellfm.corpus._shard_files import MANIFEST, PARTIAL
from cellfm.errors import CheckpointError, InputError
from cellfm.genes.vocabulary import FILE_NAME, Vocabulary
from cellfm.io.atomic_file import atomic_file
from cellfm.io.lock import LOCK
from cellfm.io.messages import counted
from cellfm.io.safe_read import parse_json, read_file

_SHARD = re.compile(r"^shard-\d{5,}$")
_TEMPORARY = (".shard-", f".{MANIFEST}-", f".{PARTIAL}-")
"""Prefixes of files that `atomic_file` and `whole_folder` leave when the process is killed."""


class Unfinished:
    """A folder with the shards of a plan; each one is recorded in the partial manifest when it is complete."""

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.folder, self.plan = folder, plan
        self.shards: list[dict[str, Any]] = []

    def clear(self) -> None:
        """Remove the files of an earlier run, finished or not."""
        self._require_own()
        self._remove_temporary()
        for path in (self.folder / MANIFEST, self.folder / PARTIAL, self.folder / FILE_NAME):
            path.unlink(missing_ok=True)
        for path in self._shard_folders():
            shutil.rmtree(path)

    def begin_or_continue(self, vocab: Vocabulary) -> bool:
        """Continue where the work stopped; returns whether it is already finished."""
        self._require_own()
        self._remove_temporary()
        finished = self.folder / MANIFEST
        if finished.is_file():
            self._require_same(self._plan_of(_parsed(read_file(finished), finished)))
            (self.folder / PARTIAL).unlink(missing_ok=True)
            return True
        lines = self._lines()
        if not lines:
            if lost := self._shard_folders():
                raise InputError(
                    f"{self.folder} contains {counted(len(lost), 'shard')} without a manifest: pass overwrite=True "
                    "to write the corpus again, or choose another folder."
                )
            vocab.save(self.folder)
            with atomic_file(self.folder / PARTIAL) as partial:
                partial.write_text(json.dumps({"plan": self.plan}) + "\n")
            return False
        self._require_same(_parsed(lines[0], self.folder / PARTIAL).get("plan", {}))
        self.shards = [_parsed(line, self.folder / PARTIAL) for line in lines[1:]]
        for shard in self.shards:
            check_entry(self.folder / PARTIAL, shard, list(self.plan["columns"]))
            check_shard(self.folder, shard, verify=False)
        for path in self._shard_folders():  # complete, but the run was stopped before it was recorded
            if path.name not in {shard["name"] for shard in self.shards}:
                shutil.rmtree(path)
        return False

    def record(self, shard: dict[str, Any]) -> None:
        """Record a finished shard."""
        self.shards.append(shard)
        with (self.folder / PARTIAL).open("a") as file:
            file.write(json.dumps(shard) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, manifest: Mapping[str, Any]) -> None:
        with atomic_file(self.folder / MANIFEST) as partial:
            partial.write_text(json.dumps(manifest, indent=1) + "\n")
        (self.folder / PARTIAL).unlink()

    def hashes(self) -> list[np.ndarray]:
        """Hashes of the cells in each finished shard."""
        return [np.load(self.folder / shard["name"] / "hash.npy", allow_pickle=False) for shard in self.shards]

    def _shard_folders(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if _SHARD.match(path.name))

    def _require_own(self) -> None:
        known = (LOCK, MANIFEST, PARTIAL, FILE_NAME)
        foreign = sorted(p.name for p in self.folder.iterdir() if p.name not in known and not _is_own(p))
        if foreign:
            raise InputError(f"{self.folder} contains other files ({', '.join(foreign[:3])}): choose a new folder.")

    def _plan_of(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The plan that a finished corpus was written by."""
        facts = self.plan["inputs"][0]
        inputs = [{name: source.get(name) for name in facts} for source in manifest.get("sources", ())]
        return {"options": manifest.get("options", {}), "inputs": inputs, "columns": manifest.get("columns", {})}

    def _lines(self) -> list[str]:
        """Complete lines of the partial manifest; a line cut by a stop is removed."""
        path = self.folder / PARTIAL
        if not path.is_file():
            return []
        text = read_file(path).decode(errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            with atomic_file(path) as partial:
                partial.write_text(whole)
        return whole.splitlines()

    def _require_same(self, plan: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(self.plan))
        if plan == now:
            return
        raise InputError(
            f"{self.folder} was begun with other inputs or options: {_difference(plan, now)}. Run with those again, "
            "choose another folder, or pass overwrite=True to write it again."
        )

    def _remove_temporary(self) -> None:
        for path in self.folder.iterdir():
            if path.name.startswith(_TEMPORARY):
                shutil.rmtree(path)


def _is_own(path: Path) -> bool:
    return path.is_dir() and bool(path.name.startswith(_TEMPORARY) or _SHARD.match(path.name))


def _parsed(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        found = parse_json(text, str(path))
    except CheckpointError as error:
        raise CheckpointError(f"{error} Pass overwrite=True to write the corpus again.") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged. Pass overwrite=True to write the corpus again.")
    return found


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first difference between two plans, in words."""
    options, others = before.get("options", {}), now["options"]
    for name in others:
        if options.get(name) != others[name]:
            return f"{name} was {options.get(name)!r} and is now {others[name]!r}"
    names = [[source["name"] for source in plan.get("inputs", ())] for plan in (before, now)]
    if names[0] != names[1]:
        return f"the inputs were {', '.join(names[0])} and are now {', '.join(names[1])}"
    for old, new in zip(before.get("inputs", ()), now["inputs"], strict=True):
        if old != new:
            return f"the input {new['name']} has changed"
    keys = [key for key in now if before.get(key) != now[key]]
    return f"{keys[0] if keys else 'the plan'} has changed"
