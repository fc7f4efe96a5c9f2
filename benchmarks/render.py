"""Fill in the tables of Markdown pages from the files of results.

    python -m benchmarks.render

A block of a page of `docs` or `benchmarks`, of the README or of the card of `mini` looks like this:

    <!-- results: annotation table -->
    <!-- end -->

It gets what the function `table` of `benchmarks/annotation.py` makes of `benchmarks/results/annotation.json`, and a
line that says when, with which weights and by which commit that was measured. If the file holds several runs,
`results: contributions table model=mini set=kang` takes those with these values (written without spaces).
"""

import importlib
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from benchmarks.record import RESULTS, Results, load_results

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(^<!-- results: ([\w.]+) (\w+)((?: \w+=\S+)*) -->\n)(.*?)(^<!-- end -->$)", re.DOTALL | re.MULTILINE
)


def pages() -> list[Path]:
    """Markdown pages that may have blocks."""
    found = (path for folder in ("docs", "benchmarks") for path in sorted((ROOT / folder).rglob("*.md")))
    others = ROOT / "README.md", ROOT / "cellfm" / "models" / "mini" / "MODEL_CARD.md"
    return [*others, *(path for path in found if "_build" not in path.parts)]


def rendered(module: str, function: str, chosen: dict[str, str]) -> str:
    """The content of a block: a table and the line of its origin."""
    name = module.rpartition(".")[2]
    results = load_results(name)
    if chosen and isinstance(results, list):
        results = [run for run in results if all(str(run.get(key)) == value for key, value in chosen.items())]
    if not results:
        raise ValueError(
            f"{RESULTS.name}/{name}.json has no run with {chosen or 'anything'}; `python -m benchmarks "
            f"{module}` writes it."
        )
    made = getattr(importlib.import_module(f"benchmarks.{module}"), function)(results)
    return f"\n{made.strip()}\n\n{origin(results)} All numbers: `benchmarks/results/{name}.json`.\n\n"


def origin(results: Results) -> str:
    """When, with which weights and by which commits the runs were measured."""
    runs = results if isinstance(results, list) else [results]
    days = sorted({date.fromisoformat(run["date"]) for run in runs})
    shown = dict.fromkeys(f"{day.day} {day:%B %Y}" for day in (days[0], days[-1]))
    weights = dict.fromkeys(run["weights_sha256"][:8] for run in runs if "weights_sha256" in run)
    commits = dict.fromkeys(run["commit"] for run in runs)
    parts = [f"Measured on {' to '.join(shown)}", *([f"weights {', '.join(weights)}"] if weights else [])]
    return f"{', '.join(parts)}, commit {', '.join(commits)}."


def blocks(text: str) -> Iterator[tuple[re.Match, str]]:
    """Each block of a page, and what it should hold."""
    for block in BLOCK.finditer(text):
        _, module, function, chosen, *_ = block.groups()
        yield block, rendered(module, function, dict(pair.split("=", 1) for pair in chosen.split()))


def outdated() -> list[str]:
    """Blocks that differ from what their files give."""
    wrong = []
    for page in pages():
        text = page.read_text()
        for block, content in blocks(text):
            if block[5] != content:
                wrong.append(f"{page.relative_to(ROOT)}: {block[1].strip()}")
        if len(re.findall("^<!-- results: ", text, re.MULTILINE)) != len(BLOCK.findall(text)):
            wrong.append(f"{page.relative_to(ROOT)}: a block that cannot be read")
    return wrong


def main() -> None:
    for page in pages():
        text, end, parts = page.read_text(), 0, []
        for block, content in blocks(text):
            parts += [text[end : block.start()], block[1], content, block[6]]
            end = block.end()
        if parts and (made := "".join([*parts, text[end:]])) != text:
            page.write_text(made)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
