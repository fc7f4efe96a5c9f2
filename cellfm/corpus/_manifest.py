"""Read and validate the manifest of a corpus."""

import re
from pathlib import Path
from typing import Any

from cellfm.corpus._shard_files import FORMAT, MANIFEST, PARTIAL, codes_name
from cellfm.errors import CheckpointError
from cellfm.io.safe_read import read_json

ANEW = "Get a new copy, or write the shards again with overwrite=True."
_SHARD = re.compile(r"shard-\d{5,}")
_FILES = ("indptr.npy", "gene_ids.npy", "counts.npy", "depth.npy", "hash.npy", "validation.npy")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of ``manifest.json``, validated: every entry exists and has its type, and the numbers add up.

    Raises
    ------
    CheckpointError
        There is no corpus, an unfinished one, or a manifest that is damaged or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / PARTIAL).is_file():
            raise CheckpointError(
                f"{folder} is an unfinished corpus: run cf.train.write_shards (cellfm shard) again with the same "
                "inputs and options, and it continues."
            )
        raise CheckpointError(
            f"{folder} is not a corpus: there is no {MANIFEST}. Pass the folder that cf.train.write_shards (cellfm "
            "shard) wrote."
        )
    try:
        manifest = read_json(path)
    except CheckpointError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise _damaged(path, "it has no format")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest['format']!r}, and this version of cellfm reads format {FORMAT}. {ANEW}"
        )
    needed = {"vocabulary_sha256", "n_cells", "n_tokens", "shards", "columns", "sources"} - manifest.keys()
    if needed:
        raise _damaged(path, f"it has no {', '.join(sorted(needed))}")
    columns, shards = manifest["columns"], manifest["shards"]
    if not (
        isinstance(manifest["vocabulary_sha256"], str)
        and _is_dict(columns, _are_texts)
        and _are_all(manifest["sources"], dict)
        and _are_all(shards, dict)
    ):
        raise _damaged(path, "an entry is of another type than it should be")
    for shard in shards:
        check_entry(path, shard, list(columns))
    if len({shard["name"] for shard in shards}) < len(shards):
        raise _damaged(path, "it lists a shard twice")
    for name in ("n_cells", "n_tokens"):
        total = sum(shard[name] for shard in shards)
        if not _is_size(manifest[name]) or manifest[name] != total:
            raise _damaged(path, f"{name} is {manifest[name]!r}, and the shards contain {total:,}")
    return manifest


def check_entry(path: Path, shard: dict[str, Any], columns: list[str]) -> None:
    """Validate the entry of one shard in the manifest at `path`: names stay within the corpus, sizes are valid.

    Raises
    ------
    CheckpointError
        It is damaged.
    """
    name, files = shard.get("name"), shard.get("files")
    if not (isinstance(name, str) and _SHARD.fullmatch(name)):
        raise _damaged(path, f"a shard is called {name!r}")
    if not (_is_size(shard.get("n_cells")) and _is_size(shard.get("n_tokens")) and _is_dict(files, _is_file)):
        raise _damaged(path, f"what it says of {name} is of another type than it should be")
    if odd := sorted(set(files or ()) ^ {*_FILES, *map(codes_name, columns)}):
        raise _damaged(path, f"{name} should not have, or lacks, {', '.join(map(repr, odd[:3]))}")


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {why}. {ANEW}")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _is_file(value: object) -> bool:
    return isinstance(value, dict) and _is_size(value.get("bytes")) and isinstance(value.get("sha256"), str)


def _are_texts(value: object) -> bool:
    return _are_all(value, str)


def _are_all(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_dict(value: object, holds: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) and holds(item) for key, item in value.items())
