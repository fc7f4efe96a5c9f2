"""Run the notebooks of the documentation and keep their outputs, light: ``python docs/execute.py [NAMES]``.

``CELLFM_DATA`` names the folder with the data that the pages talk about (docs/data.md); without it the notebooks run
on the small data that come with scanpy, and their numbers no longer fit their text.
"""

import argparse
import base64
import io
import os
import re
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

DOCS = Path(__file__).resolve().parent
NOTEBOOKS = [DOCS / "tour.ipynb", *sorted((DOCS / "tutorials").glob("*.ipynb"))]
N_COLOURS = 256  # of a picture
PATIENCE = 600  # seconds a cell
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
STYLE = re.compile(r"<style scoped>.*?</style>\s*", re.DOTALL)
# Bars and timings are other at each run; logged lines of MindSpore name files of the machine.
NOISE = re.compile(r"^.*(?:\d+%\||\[(?:WARNING|ERROR|INFO)\]).*\n?", re.MULTILINE)


def light(picture: str) -> str:
    """The same PNG with few colours."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
        flat.quantize(N_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def cleaned(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output without what changes from run to run; None if nothing is left of it."""
    if output.output_type == "stream":
        output.text = NOISE.sub("", output.text)
        return output if output.name == "stdout" and output.text.strip() else None
    data = output.get("data", {})
    if "image/png" in data:
        output.data = nbformat.from_dict({"image/png": light(data["image/png"])})
    elif "text/html" in data:
        data["text/html"] = STYLE.sub("", data["text/html"])
    elif data.get("text/plain", "").startswith(("<Axes", "[<Axes", "<Figure")):
        return None
    output.metadata = nbformat.from_dict({})
    return output


def run(path: Path) -> None:
    """Run one notebook in an empty folder and write it back whole."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(
            notebook, timeout=PATIENCE, kernel_name="python3", record_timing=False, resources=place
        ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(cleaned, cell.outputs) if output is not None]
            cell.metadata.pop("execution", None)
    notebook.metadata = nbformat.from_dict(METADATA)
    nbformat.validate(notebook)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(nbformat.writes(notebook, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def main() -> None:
    """Run the notebooks that are named, or all."""
    names = [path.stem for path in NOTEBOOKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*names, []], metavar="NAME", help=", ".join(names))
    chosen = parser.parse_args().names or names
    if folder := os.environ.get("CELLFM_DATA"):
        os.environ["CELLFM_DATA"] = str(Path(folder).resolve())
    for path in NOTEBOOKS:
        if path.stem in chosen:
            start = time.perf_counter()
            run(path)
            print(f"{path.stem}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
