"""Write what the presets found into the page about them: `benchmarks/results/experiments.json` → `docs/experiments.md`.

python -m benchmarks.experiments_page

The page's prose is written by hand. What stands between `<!-- written: NAME -->` and `<!-- end -->` is not. Figures
that it shows are copied from `outputs/experiments/`, where the last runs left them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.experiments import OUTPUTS, arrow, results, value_of
from benchmarks.measure import RESULTS
from benchmarks.report import markdown

PAGE = Path(__file__).parents[1] / "docs" / "experiments.md"
_PART = re.compile(r"(<!-- written: (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Json = dict[str, Any]
Rows = dict[str, Json]


class Paper(NamedTuple):
    """One number of the paper, and how to read ours off a row."""

    what: str
    theirs: str
    ours: Callable[[Json], str]


def _losses(part: str, theirs: str) -> Paper:
    return Paper(f"{part} loss", theirs, lambda row: arrow(row, part))


def _loss_at(mark: str, theirs: str) -> Paper:
    return Paper(f"training loss at log α = {mark}", theirs, lambda row: f"{row['found']['loss_at'][mark]:.3f}")


def _bits(number: int, theirs: str) -> Paper:
    def ours(row: Json) -> str:
        one = row["found"]["stored_bits"][number]
        return f"{one['stored']:.4f}, {one['stored'] / one['bound'] - 1:+.1%} of log2(1/γ) = {one['bound']:.4f}"

    return Paper(f"bits per parameter and step, γ = {theirs}", "–", ours)


PAPER: dict[str, list[Paper]] = {
    "toy-two-weights": [
        Paper(
            "loss at the end of the three paths",
            "each lower than the one before",
            lambda row: ", ".join(f"{loss:.1f}" for loss in row["found"]["loss_at_each_meta_iteration"]),
        )
    ],
    "learning-rate-schedules": [
        _losses("train", "0.53 → 0.12"),
        _losses("test", "0.59 → 0.25"),
        Paper(
            "initial scale of the first layer's weights",
            "→ about 1/√784 = 0.036",
            lambda row: f"0.050 → {row['found']['init_scales'][0]:.3f}",
        ),
        Paper(
            "of the other layers' weights",
            "→ about 1/√50 = 0.141",
            lambda row: "0.050 → " + ", ".join(f"{scale:.3f}" for scale in row["found"]["init_scales"][2::2]),
        ),
    ],
    "initial-hypergradient": [
        Paper(
            "|mean hypergradient of log α| ÷ its standard error, median",
            "–",
            lambda row: f"{row['found']['median_hypergradient_in_standard_errors']:.0f}",
        )
    ],
    "per-weight-l2": [
        _losses("train", "0.91 → 0.51"),
        _losses("valid", "0.76 → 0.42"),
        _losses("test", "0.71 → 0.45"),
    ],
    "learned-training-data": [_losses("valid", "2.3 → 0.43"), _losses("test", "2.3 → 0.50")],
    "multitask-separate": [_losses("train", "0.61"), _losses("test", "1.34")],
    "multitask-tied": [_losses("train", "0.90"), _losses("test", "1.25")],
    "multitask-weight-tying": [_losses("train", "0.60 after"), _losses("test", "1.13 after")],
    "chaos": [
        _loss_at("0.5", "0.029"),
        _loss_at("1", "0.010"),
        _loss_at("1.5", "0.004"),
        _loss_at("2", "0.009"),
        Paper(
            "first log α with a positive derivative",
            "1.475",
            lambda row: f"{row['found']['first_positive_derivative_at']:.3f}",
        ),
        Paper(
            "largest |derivative| below log α = 2.9, and from there on",
            "wild past 2",
            lambda row: " and ".join(f"{size:.3g}" for size in row["found"]["largest_derivative"].values()),
        ),
    ],
    "naive-reversal": [
        Paper(
            "relative error of the recovered start: floats; exact reversal",
            "explodes; 0",
            lambda row: (
                f"{row['found']['naive_reversal']['relative_error_at_the_start']:.1e}; "
                f"{row['certificate']['mismatched_bits']} bits differ"
            ),
        )
    ],
    "memory": [_bits(number, decay) for number, decay in enumerate(("0.5", "0.8", "0.9", "0.95", "0.98", "0.99"))],
}


class Target(NamedTuple):
    """What was expected of a measured number before it was measured."""

    what: str
    measured: Callable[[Rows], float]
    bound: float
    least: bool = False  # whether the number must be at least this; at most, otherwise


def _best(preset: str, name: str) -> Callable[[Rows], float]:
    def measured(rows: Rows) -> float:
        value = value_of(rows[preset]["losses"]["best"], name)
        assert value is not None
        return value

    return measured


def _ratio(preset: str) -> Callable[[Rows], float]:
    return lambda rows: _best(preset, "test")(rows) / _best("multitask-separate", "test")(rows)


def _factor(ratio: float) -> float:
    return max(ratio, 1 / ratio)


def _chaos(rows: Rows) -> Json:
    sizes: Json = rows["chaos"]["found"]["largest_derivative"]
    return sizes


def _methods() -> Json:
    methods: Json = json.loads((RESULTS / "versus-search.json").read_text())["methods"]
    return methods


TARGETS = [
    Target("`learning-rate-schedules`: training loss", _best("learning-rate-schedules", "train"), 0.10),
    Target(
        "`learning-rate-schedules`: factor between the first layer's initial scale and 1/√784",
        lambda rows: _factor(rows["learning-rate-schedules"]["found"]["init_scales"][0] * 28),
        1.5,
    ),
    Target("`search-then-descend`: training loss", _best("search-then-descend", "train"), 0.070),
    Target("`per-weight-l2`: validation loss", _best("per-weight-l2", "valid"), 0.33),
    Target("`per-weight-l2`: test loss", _best("per-weight-l2", "test"), 0.41),
    Target("`learned-training-data`: test loss", _best("learned-training-data", "test"), 0.48),
    Target("`learned-training-data`: test accuracy", _best("learned-training-data", "test_accuracy"), 0.86, True),
    Target(
        "`learned-training-data-adam`: test accuracy",
        _best("learned-training-data-adam", "test_accuracy"),
        0.88,
        True,
    ),
    Target("`multitask-tied` ÷ `multitask-separate`: test loss", _ratio("multitask-tied"), 1.0),
    Target(
        "`multitask-weight-tying` ÷ `multitask-tied`: test loss",
        lambda rows: _best("multitask-weight-tying", "test")(rows) / _best("multitask-tied", "test")(rows),
        1.0,
    ),
    Target("`multitask-weight-tying` ÷ `multitask-separate`: test loss", _ratio("multitask-weight-tying"), 0.90),
    Target(
        "`multitask-weight-tying-adam` ÷ `multitask-separate`: test loss",
        _ratio("multitask-weight-tying-adam"),
        0.80,
    ),
    Target(
        "`example-weights`: AUC, clean against corrupted",
        _best("example-weights", "corrupted_labels_auc"),
        0.9,
        True,
    ),
    Target(
        "`chaos`: changes of the derivative's sign", lambda rows: rows["chaos"]["found"]["sign_changes"], 1, True
    ),
    Target(
        "`chaos`: largest derivative from log α = 2.9 on ÷ largest before",
        lambda rows: _chaos(rows)["after"] / _chaos(rows)["before"],
        100,
        True,
    ),
    Target(
        "training loss of search, then descent, guarded, ÷ that of TPE at equal budget, 20 fresh seeds",
        lambda rows: (
            _methods()["search, then descent, meta step 0.08, guarded"]["mean"]
            / min(one["mean"] for name, one in _methods().items() if name.startswith("TPE"))
        ),
        0.75,
    ),
    Target(
        "`memory`: largest stored bits ÷ log2(1/γ)",
        lambda rows: max(one["stored"] / one["bound"] for one in rows["memory"]["found"]["stored_bits"]),
        1.05,
    ),
]


def overview(rows: Rows) -> str:
    """One line a preset."""
    columns = [
        "preset",
        "data",
        "learned",
        "meta-iterations",
        "time, s",
        "train",
        "valid",
        "test",
        "test accuracy",
    ]
    lines = (
        [
            f"[`{preset}`](#{preset})",
            _data(row["dataset"]),
            f"{row['num_hyperparameters']}",
            f"{row['meta_iterations']}",
            f"{row['seconds']:.0f}",
            *(_of_job(row, part) for part in ("train", "valid", "test", "test_accuracy")),
            _paper(preset),
            _proof(row["certificate"]),
        ]
        for preset, row in rows.items()
    )
    return markdown([*columns, "paper", "differing bits"], lines)


def _of_job(row: Json, part: str) -> str:
    """Losses of a scan are those of one of its ends, and say nothing."""
    return "–" if row["kind"] == "scan" else arrow(row, part)


def _data(dataset: Json | None) -> str:
    if dataset is None:
        return "–"
    if "alphabets" in dataset:
        tasks = len(dataset["alphabets"]) * (2 if dataset["rotated"] else 1)
        held_out, test = dataset["valid"], dataset["test"]
        return f"Omniglot, {tasks} tasks, {dataset['train'] - held_out} / {held_out} / {test} of each character"
    split = dataset["split"]
    spoiled = f", {dataset['corrupted']:.0%} of labels wrong" if dataset["corrupted"] else ""
    return f"{dataset['name']} {split['train']} / {split['valid']} / {split['test']}{spoiled}"


def _paper(preset: str) -> str:
    losses = [one for one in PAPER.get(preset, []) if one.what in ("train loss", "valid loss", "test loss")]
    return ", ".join(f"{one.what.removesuffix(' loss')} {one.theirs}" for one in losses)


def _proof(certificate: Json) -> str:
    return str(certificate["mismatched_bits"]) if certificate["exact"] else "**not exact**"


def targets(rows: Rows) -> str:
    """What was expected beside what was measured."""
    lines = []
    for one in TARGETS:
        measured = one.measured(rows)
        met = measured >= one.bound if one.least else measured <= one.bound
        sign = "≥" if one.least else "≤"
        lines.append([one.what, f"{measured:.3f}", f"{sign} {one.bound:g}", "met" if met else "**missed**"])
    return markdown(["what", "measured", "target", ""], lines)


def rivals(found: Json) -> str:
    """Search, descent, and both, with one budget."""
    lines = (
        [name, f"{row['trials']}", f"{row['meta_iterations']}", f"{row['mean']:.4f} ± {row['standard_error']:.4f}"]
        for name, row in found["methods"].items()
    )
    return markdown(["method", "trials", "meta-iterations", "training loss, 20 fresh seeds"], lines)


def comparison(preset: str, row: Json) -> str:
    """The paper's numbers beside ours."""
    return markdown(["", "paper", "here"], ([one.what, one.theirs, one.ours(row)] for one in PAPER[preset]))


def figures_beside(preset: str, row: Json) -> str:
    """Of a preset that the paper has nothing on: losses and what else was found."""
    lines = [[f"{part} loss", arrow(row, part)] for part in ("train", "valid", "test")]
    lines += [["test accuracy", text] for text in (arrow(row, "test_accuracy"),) if text]
    found = {**row["losses"]["best"]["measures"]}
    names = {
        "corrupted_labels_auc": "AUC of the weights, clean against corrupted labels",
        "corrupted_labels_corrected": "corrupted labels whose learned label is the true one",
    }
    lines += [[text, f"{found[name]:.3f}"] for name, text in names.items() if name in found]
    if "augmentation" in row["found"]:
        shift, rotation, noise = row["found"]["augmentation"]
        lines.append(["learned augmentation", f"{shift:.2f} pixels, {rotation:.1f}°, noise {noise:.3f}"])
    if row["losses"].get("searched"):
        lines.append(["training loss after the search", f"{row['losses']['searched']['train']:.3f}"])
    return markdown(["", "before → after"], lines)


def page(text: str, rows: Rows) -> str:
    """The page with its written parts made anew."""

    def written(part: re.Match[str]) -> str:
        name = part["name"]
        if name == "overview":
            new = overview(rows)
        elif name == "targets":
            new = targets(rows)
        elif name == "versus-search":
            new = rivals(json.loads((RESULTS / "versus-search.json").read_text()))
        elif name in PAPER:
            new = comparison(name, rows[name])
        else:
            new = figures_beside(name, rows[name])
        return f"{part[1]}{new}{part[3]}"

    return _PART.sub(written, text)


def main() -> None:
    """Write the page, and copy its figures as far as they are here."""
    text = page(PAGE.read_text(), results())
    PAGE.write_text(text)
    (PAGE.parent / "experiments").mkdir(exist_ok=True)
    for copy in shown(text):
        preset, _, figure = copy.name.rpartition("-")
        if (drawn := OUTPUTS / preset / figure).exists():
            shutil.copyfile(drawn, copy)


def shown(text: str) -> list[Path]:
    """Files of the figures that the page shows."""
    return [PAGE.parent / name for name in re.findall(r"\]\((experiments/[^)]+)\)", text)]


if __name__ == "__main__":
    main()
