"""Draw the figures of the documentation's pages: ``python -m docs.figures``.

The pictures of the landing page are taken from the notebooks, so run ``docs/execute.py`` before; the summary of the
evaluation is drawn from the tables of ``benchmarks/*.md``.
"""

import base64
import io
import json
import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from benchmarks.mini.learning_curve import RECIPE, as_table

DOCS = Path(__file__).resolve().parent
BENCHMARKS = DOCS.parent / "benchmarks"
# Card: notebook, which of its pictures, and how much of its width from the left.
CARDS = {
    "tour": ("tour", 0, 0.41),
    "annotate": ("tutorials/annotate", 0, 0.5),
    "integrate": ("tutorials/integrate", 0, 1),
    "modules": ("tutorials/modules", 0, 1),
    "perturbation": ("tutorials/perturbation", 0, 1),
}
CARD = (480, 300)  # pixels
COLORS = {"mini": "#4c72b0", "other score": "#dd8452", "baseline": "#b0b0b0", "chance": "#e0e0e0"}


def pictures(notebook: str) -> list[Image.Image]:
    cells = json.loads((DOCS / f"{notebook}.ipynb").read_text())["cells"]
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [Image.open(io.BytesIO(base64.b64decode(d["image/png"]))) for d in data if "image/png" in d]


def save_card(image: Image.Image, name: str) -> None:
    """Fit a picture into a card of one size, on white."""
    image = image.convert("RGB")
    image.thumbnail((CARD[0] - 20, CARD[1] - 20))
    card = Image.new("RGB", CARD, "white")
    card.paste(image, ((CARD[0] - image.width) // 2, (CARD[1] - image.height) // 2))
    few = card.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(DOCS / "_static" / f"{name}.png", optimize=True)


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    below = (BENCHMARKS / f"{page}.md").read_text().split(f"## {heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE).group()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def draw_unseen(ax: plt.Axes) -> None:
    """Both scores on sets that a training left out, mini (mean over seeds) and principal components of each set."""
    runs = json.loads((BENCHMARKS / "results" / "leave_out.json").read_text())
    results = {run["way"]: run["folds"] for run in runs}
    seeds = [folds for way, folds in results.items() if way.startswith("mini")]
    places = [(fold, name) for fold, sets in results["PCA"].items() for name in sets]
    for score, color in (("knn", COLORS["mini"]), ("avg_bio", COLORS["other score"])):
        pca = [results["PCA"][fold][name][score] for fold, name in places]
        mini = [np.mean([folds[fold][name][score] for folds in seeds]) for fold, name in places]
        label = {"knn": "kNN", "avg_bio": "AvgBio"}[score]
        ax.scatter(pca, mini, s=18, color=color, label=f"{label}, mean {np.mean(mini):.2f} and {np.mean(pca):.2f}")
    ax.plot([0.3, 1], [0.3, 1], color="#c0c0c0", lw=0.8, zorder=0)
    ax.set(title="Sets left out of training", xlabel="principal components of the set", ylabel="mini")
    ax.legend(frameon=False, loc="lower right", handletextpad=0.1)


def draw_labels(ax: plt.Axes) -> None:
    """Accuracy of kNN and head by set, in the embedding and on principal components."""
    scores: dict[str, dict[str, tuple[float, float]]] = {}
    for name, method, _, accuracy, *_ in rows("annotation", "Labels of cells that it has not seen"):
        scores.setdefault(name.split(",")[0], {})[method] = tuple(float(part) for part in accuracy.split("±"))
    methods = {"knn-pca": "#c0c0c0", "frozen-pca": COLORS["baseline"], "knn": "#8fa9d6", "frozen": COLORS["mini"]}
    shown = {"knn-pca": "PCA, kNN", "frozen-pca": "PCA, head", "knn": "mini, kNN", "frozen": "mini, head"}
    for i, (method, color) in enumerate(methods.items()):
        mean, spread = zip(*(of[method] for of in scores.values()), strict=True)
        places = [place + 0.2 * (i - 1.5) for place in range(len(scores))]
        ax.errorbar(places, mean, spread, fmt="o", ms=5, lw=1, color=color, label=shown[method])
    ax.set(title="Labels, sets not seen in training", ylabel="accuracy (%)", ylim=(52, 102))
    ax.set_xticks(range(len(scores)), scores)
    ax.legend(frameon=False, ncols=2, loc="lower left", columnspacing=1, handletextpad=0.2)


def mean_and_range(cell: str) -> list[float]:
    """Mean, minimum and maximum of a cell such as ``125 (122 to 128)``, or of a single number."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", cell)]
    return numbers if len(numbers) == 3 else numbers * 3


def draw_terms(ax: plt.Axes) -> None:
    """KEGG terms in modules by resolution, of the sorted blood cells."""
    table = [row for row in rows("genes", "KEGG terms in modules") if row[0] == "pbmc_facs"]
    resolution = [float(row[1]) for row in table]
    lines = (("mini, contextual", 3, COLORS["mini"]), ("mini, static", 2, "#8fa9d6"), ("co-expression", 4, "#808080"))
    for name, column, color in (*lines, ("random", 5, "#c0c0c0")):
        mean, lowest, highest = np.array([mean_and_range(row[column]) for row in table]).T
        spread = (mean - lowest, highest - mean)
        ax.errorbar(resolution, mean, spread, marker="o", ms=3, capsize=2, color=color, label=name)
    ax.set(title="Pathways in gene modules, pbmc_facs (seen)", xlabel="resolution", ylabel="KEGG terms", ylim=(-8, 360))
    ax.legend(frameon=False, ncols=2, loc="upper center")


def draw_perturbations(ax: plt.Axes) -> None:
    """Correlation of predicted and observed changes, compared with the baselines."""
    table = {row[0]: row[2] for row in rows("perturbation", "Forward")}
    names = ["no change", "mean change", "bilinear, CellFM genes", "additive", "gene effects", "network, CellFM genes"]
    mean, spread = zip(*((float(part) for part in table[name].split("±")) for name in names), strict=True)
    colors = [COLORS["baseline"]] * 5 + [COLORS["mini"]]
    ax.barh(range(len(names)), mean, xerr=spread, color=colors, error_kw={"lw": 0.8})
    ax.set_yticks(range(len(names)), names)
    ax.set(title="Perturbations, Norman subset (seen)", xlabel="correlation of changes")


def draw_learning(ax: plt.Axes) -> None:
    """Both scores of the recipe with less and more of one thing, and of principal components, by multiples of the
    recipe's value.
    """
    table = as_table(json.loads((BENCHMARKS / "results" / "learning_curve.json").read_text()))
    for varied, color in zip(RECIPE, ("#4c72b0", "#55a868", "#dd8452", "#8172b3"), strict=True):
        found = table[(table["varied"] == varied) & (table["value"] > 0)].groupby("value")[["knn", "avg_bio"]].mean()
        multiple = found.index / RECIPE[varied]
        ax.plot(multiple, found["knn"], "o-", ms=4, color=color, label=varied)
        ax.plot(multiple, found["avg_bio"], "s--", ms=4, color=color)
    runs = json.loads((BENCHMARKS / "results" / "leave_out.json").read_text())
    sets = next(run for run in runs if run["way"] == "PCA")["folds"]["sets"].values()
    for score, name in (("knn", "kNN"), ("avg_bio", "AvgBio")):
        mean = np.mean([of_set[score] for of_set in sets])
        ax.axhline(mean, color="#808080", lw=0.8)
        ax.annotate(f"PCA of the set, {name}", (0.125, mean), (0, 2), textcoords="offset points", color="#808080")
    ax.set_xscale("log", base=2)
    ax.set(title="The recipe of mini with one change", xlabel="multiple of the recipe's value", ylim=(0.64, 0.93))
    ax.set_ylabel("kNN (solid), AvgBio (dashed)")
    ax.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.56))


def draw_ablations(ax: plt.Axes) -> None:
    """kNN by the loss of hidden genes: small networks trained from random weights."""
    runs = [run for run in json.loads((BENCHMARKS / "results" / "ablations.json").read_text()) if "gene" in run]
    names = [run["network"] for run in runs][::-1]
    for score, marker, color in (("knn", "o", COLORS["mini"]), ("avg_bio", "s", COLORS["other score"])):
        label = {"knn": "kNN", "avg_bio": "AvgBio"}[score]
        ax.plot([run[score] for run in runs][::-1], range(len(runs)), marker, ms=5, color=color, label=label)
    ax.set_yticks(range(len(names)), names)
    ax.set(title="Small networks from random weights", xlabel="score", xlim=(0, 1))
    ax.legend(frameon=False)


def main() -> None:
    """Draw all of them."""
    plt.rcParams |= {"font.size": 8, "svg.hashsalt": "cellfm", "axes.spines.top": False, "axes.spines.right": False}
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained")
    for ax, draw in zip(axes.flat, (draw_unseen, draw_labels, draw_terms, draw_perturbations), strict=True):
        draw(ax)
    figure.savefig(DOCS / "evaluation" / "summary.svg", metadata={"Date": None})
    plt.close(figure)

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    draw_learning(axes[0])
    draw_ablations(axes[1])
    figure.savefig(BENCHMARKS / "learning_curve.svg", metadata={"Date": None})
    plt.close(figure)

    figure, ax = plt.subplots(figsize=(4.6, 2.8), layout="constrained")
    draw_unseen(ax)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    save_card(Image.open(buffer), "evaluation")
    for name, (notebook, number, share) in CARDS.items():
        image = pictures(notebook)[number]
        save_card(image.convert("RGB").crop((0, 0, int(share * image.width), image.height)), name)


if __name__ == "__main__":
    mpl.use("Agg")
    main()
