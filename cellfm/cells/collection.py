"""Collections of annbatch: a zarr folder with several tables of shuffled cells."""

import json
from pathlib import Path

_ENCODING = "annbatch-preshuffled"


def tables_of_collection(path: Path) -> list[Path]:
    """The tables of a collection in their order; none if the path is something else."""
    try:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    if not isinstance(attributes, dict) or attributes.get("encoding-type") != _ENCODING:
        return []
    numbers = {table: table.name.removeprefix("dataset_") for table in path.glob("dataset_*")}
    return sorted((table for table, number in numbers.items() if number.isdecimal()), key=lambda x: int(numbers[x]))
