"""Find the folder of the count matrix in the output of Cell Ranger and STARsolo."""

from pathlib import Path

from cellfm.errors import InputError
from cellfm.genes.features import is_human
from cellfm.io.logging import logger

_FILTERED = (
    "filtered_feature_bc_matrix",
    "filtered_feature_bc_matrix.h5",
    "sample_filtered_feature_bc_matrix",
    "sample_filtered_feature_bc_matrix.h5",
    "filtered_gene_bc_matrices",
    "filtered_gene_bc_matrices_mex",
    "filtered_gene_bc_matrices_h5.h5",
    "filtered_matrices_mex",
    "filtered",
    "outs",
    "count",
    "Gene",
    "GeneFull",
    "*Solo.out",
)
_RAW = (
    "raw_feature_bc_matrix",
    "raw_feature_bc_matrix.h5",
    "sample_raw_feature_bc_matrix",
    "raw_gene_bc_matrices",
    "raw_gene_bc_matrices_mex",
    "raw_gene_bc_matrices_h5.h5",
    "raw",
)


def matrices(folder: Path) -> list[Path]:
    """Files ``matrix.mtx`` of a folder, with any prefix, one a prefix: compressed only where there is no other."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        for end in ("matrix.mtx", "matrix.mtx.gz", "matrix.mtx.bz2", "matrix.mtx.xz"):
            if file.name.endswith(end) and file.is_file():
                found.setdefault(file.name[: -len(end)], file)
    return list(found.values())


def locate(path: Path, genome: str | None = None, *, quiet: bool = False) -> Path:
    """The file or folder to read for a path: itself, or the filtered matrix in a folder of a pipeline, which is said
    (unless `quiet`).

    Raises
    ------
    InputError
        Several could be meant, or there is only the raw matrix; they are named.
    """
    if not path.is_dir() or is_zarr(path):
        return path
    found, others = _below(path, genome)
    if found is not None and found != path and not quiet:
        logger.info("reading %s%s.", found, f"; the genes of {others} are left out" if others else "")
    return path if found is None else found


def is_zarr(path: Path) -> bool:
    """Whether a folder holds zarr, of format 2 or 3."""
    return any((path / name).exists() for name in (".zgroup", "zarr.json"))


def _below(folder: Path, genome: str | None) -> tuple[Path | None, str]:
    """The matrix to read in a folder, if there is one, and genomes that are not read."""
    if matrices(folder):
        return folder, ""
    for pattern in _FILTERED:
        for there in sorted(folder.glob(pattern)):
            if there.is_file():
                return there, ""
            found, others = _below(there, genome)
            if found is not None:
                return found, others
    raw = [there for pattern in _RAW for there in sorted(folder.glob(pattern))]
    if raw:
        raise InputError(
            f"{folder} contains only a matrix of all barcodes, including those of empty droplets. Pass "
            f"{raw[0]} itself if that is what you want."
        )
    inside = [there for there in sorted(folder.iterdir()) if there.is_dir() and matrices(there)]
    if len(inside) <= 1:
        return (inside[0] if inside else None), ""
    chosen = [there for there in inside if (there.name == genome if genome else is_human(there.name))]
    if len(chosen) == 1:
        return chosen[0], ", ".join(there.name for there in inside if there != chosen[0])
    names = ", ".join(str(there) for there in inside)
    raise InputError(f"{folder} contains several matrices, in separate folders: pass one of {names}.")
