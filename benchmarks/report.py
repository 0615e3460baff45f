"""Write what was measured as a page: `benchmarks/results/*.json` → `docs/reference/benchmarks.md`.

python -m benchmarks.report
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.clients import CREATE
from benchmarks.measure import RESULTS
from benchmarks.rivals import RECURSIVE, SCAN, SQRT
from benchmarks.scaling import PLAIN, REVERSIBLE

MOST_SLOWED = 1.5  # p99 of listing and polling, as the tables grow
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "benchmarks.md"
HEAD = """# Benchmarks

Written by `python -m benchmarks.report` from `benchmarks/results/*.json`; measured by `make bench-all`. Times are
ratios to plain training in the same process; working memory is XLA's own analysis of the compiled program; peak memory
is the rise of resident memory during a call. The machine had two cores and was shared: expect ±10 % in every ratio.
"""


def page(found: dict[str, Any]) -> str:
    """The whole page, of the results that there are."""
    sections = [render(found[name]) for name, render in SECTIONS.items() if name in found]
    return "\n".join([HEAD, *sections])


def engines(found: dict[str, Any]) -> str:
    """Every method beside every other, and targets beside what was measured."""
    parts = ["## Engines and rivals (`python -m benchmarks.engines`)\n", "![time and memory](engines.svg)\n"]
    for table in found["tables"]:
        proof = table["certificate"]
        parts += [
            f"{table['optimizer']}, T = {table['steps']}, 784-50-50-50-10, batch 250, float32; "
            f"medians of {table['repeats']} rounds; "
            f"{proof['mode']}, {proof['mismatched_bits']} differing bits; {_machine(proof)}.\n",
            markdown(
                ["method", "seconds", "× plain", "working memory, MB", "peak memory, MB"],
                (
                    [
                        name,
                        f"{seconds:.3f}",
                        f"{table['ratio'][name]:.2f}",
                        _megabytes(table["working_bytes"].get(name)),
                        _megabytes(table["peak_rise_bytes"].get(name)),
                    ]
                    for name, seconds in table["seconds"].items()
                ),
            ),
        ]
    rows = (
        [
            row["what"],
            f"{row['measured']:.3f}",
            f"≤ {row['target']:g}",
            _or_nothing(row["stretch"], "≤ {:g}"),
            _verdict(row),
        ]
        for row in found["targets"]
    )
    return "\n".join([*parts, markdown(["what", "measured", "target", "stretch", ""], rows)])


def _verdict(row: dict[str, Any]) -> str:
    if row["measured"] > row["target"]:
        return "**missed**"
    return "stretch met" if row["stretch"] is not None and row["measured"] <= row["stretch"] else "met"


def scaling(rows: list[dict[str, Any]]) -> str:
    """One thing varied at a time."""
    parts = ["## Scaling (`python -m benchmarks.scaling`)\n", "![scaling](scaling.svg)\n"]
    for what in dict.fromkeys(row["varied"] for row in rows):
        columns = [what, "T", "weights", "plain, s", "reversible ÷ plain", "√T ÷ plain", "recursive ÷ plain"]
        columns += [
            "reversible, MB",
            "√T, MB",
            "recursive, MB",
            "scan, MB",
            "stored ÷ bound bits",
            "differing bits",
        ]
        parts.append(markdown(columns, (_scaling_row(row) for row in rows if row["varied"] == what)))
    return "\n".join(parts)


def _scaling_row(row: dict[str, Any]) -> list[str]:
    ratio, memory = row["ratio"], row["working_bytes"]
    return [
        f"{row['value']:g}",
        str(row["steps"]),
        str(row["parameters"]),
        f"{row['seconds'][PLAIN]:.3f}",
        *(_or_nothing(ratio.get(name), "{:.2f}") for name in (REVERSIBLE, SQRT, RECURSIVE)),
        *(_megabytes(memory.get(name)) for name in (REVERSIBLE, SQRT, RECURSIVE, SCAN)),
        f"{row['stored_bits_per_param_step'] / row['bound_bits_per_param_step']:.3f}",
        str(row["mismatched_bits"]),
    ]


def planner(found: dict[str, list[dict[str, Any]]]) -> str:
    """Predicted against measured."""
    parts = ["## Planner (`python -m benchmarks.planner`)\n"]
    for name, rows in found.items():
        columns = ["engine", "predicted, s", "measured, s", "off", "predicted, MB", "measured, MB", "off", ""]
        parts += [f"{name}\n", markdown(columns, map(_planner_row, rows))]
    return "\n".join(parts)


def _planner_row(row: dict[str, Any]) -> list[str]:
    if "seconds" not in row:
        return [row["engine"], *[""] * 6, row["remark"]]
    return [
        row["engine"],
        f"{row['predicted_seconds']:.2f}",
        f"{row['seconds']:.2f}",
        f"{row['seconds_off']:+.0%}",
        _megabytes(row["predicted_bytes"]),
        _megabytes(row["peak_rise_bytes"]),
        f"{row['bytes_off']:+.0%}",
        row["remark"],
    ]


def long_training(found: dict[str, Any]) -> str:
    """A million steps."""
    proof = found["certificate"]
    stored, bound = proof["stored_bits_per_param_step"], proof["bound_bits_per_param_step"]
    memory = ", ".join(f"{size} B at T = {length}" for length, size in found["device_bytes"].items())
    return (
        "## A long training (`python -m benchmarks.long_training`)\n\n"
        f"T = {found['steps']}, γ drawn anew in [0.3, 0.999] for every step and group, "
        f"{found['hyperparameters']} hyperparameters: **{proof['mismatched_bits']} differing bits**; "
        f"{stored:.5f} bits stored per weight and step, the bound is {bound:.5f} (ratio {stored / bound:.5f}); "
        f"working memory {memory}; {found['seconds']:.0f} s.\n"
    )


def large_model(found: dict[str, Any]) -> str:
    """Millions of hyperparameters."""
    proof = found["certificate"]
    stored, bound = proof["stored_bits_per_param_step"], proof["bound_bits_per_param_step"]
    rows = [
        ["seconds", f"{found['plain_seconds']:.0f}", f"{found['seconds']:.0f} (with compilation)"],
        ["ratio", "1", f"{found['ratio']:.2f}"],
        ["peak resident memory, GB", _gigabytes(found["plain_peak_bytes"]), _gigabytes(found["peak_bytes"])],
        ["working memory, GB", "", _gigabytes(found["device_bytes"])],
        ["working memory if unrolled, GB", "", _gigabytes(found["unrolled_device_bytes"])],
        ["outer loss", f"{found['plain_value']:.4f}", f"{found['value']:.4f}"],
        ["differing bits", "", str(proof["mismatched_bits"])],
        ["stored bits per weight and step; bound", "", f"{stored:.4f}; {bound:.4f}"],
    ]
    return (
        "## A large model (`python -m benchmarks.large_model`)\n\n"
        f"{found['parameters']} weights, AdamW, T = {found['steps']}, batch {found['batch']}, float32; "
        f"{found['hyperparameters']} hyperparameters: "
        "a step size for every step and a weight decay for every weight.\n\n"
        + markdown(["", "plain training", "hypergradient"], rows)
    )


def programs(found: list[dict[str, Any]]) -> str:
    """Exported programs beside the problems they were made of."""
    columns = ["problem", "native, s", "program, s", "ratio", "target", "numbers that differ", "exact", ""]
    rows = [
        [
            row["problem"],
            f"{row['seconds']['native']:.3f}",
            f"{row['seconds']['program']:.3f}",
            f"{row['ratio']:.3f}",
            f"≤ {row['target']}",
            str(row["differing_numbers"]),
            "yes" if row["certificate"]["exact"] else "no",
            "met" if row["ratio"] <= row["target"] else "**missed**",
        ]
        for row in found
    ]
    return (
        "## Exported programs (`python -m benchmarks.programs`)\n\n"
        f"Hypergradients by the reversible engine, T = {found[0]['steps']}, natively and of the program, in turns "
        f"in one process; medians of {found[0]['repeats']} rounds, ratios within a round.\n\n"
        + markdown(columns, rows)
    )


def load(found: dict[str, Any]) -> str:
    """Every kind of request at the smallest and the largest size."""
    sizes = [_thousands(rows["jobs"]) for rows in found["rows"]]
    held = "; ".join(
        ", ".join(f"{_thousands(number)} {table}" for table, number in rows.items()) for rows in found["rows"]
    )
    columns = ["request"]
    for what in ("a second", "p50, ms", "p99, ms", "API's processor, ms"):
        columns += [f"{what}: {size} jobs" for size in sizes]
    rows = []
    for name, measured in found["requests"].items():
        ratio = measured[-1]["p99_ms"] / measured[0]["p99_ms"]
        verdict = ("met" if ratio <= MOST_SLOWED else "**missed**") if name != CREATE else ""
        figures = [
            f"{one[what]:.1f}" for what in ("per_second", "p50_ms", "p99_ms", "processor_ms") for one in measured
        ]
        rows.append([name, *figures, f"{ratio:.2f}", verdict])
    return (
        "## The service under load (`python -m benchmarks.load`)\n\n"
        f"The embedded stack with its worker idle, {found['machine']['cores']} cores, one process of the API; "
        f"{found['clients']} clients at once, each asking again as soon as it is answered; {found['seconds']:g} s of "
        f"each kind and size, by turns. Rows: {held}. Target: p99 at the larger size within {MOST_SLOWED} times that "
        f"at the smaller, for listing and polling.{found.get('remark', '')}\n\n"
        + markdown([*columns, "p99 ratio", ""], rows)
    )


def pages(found: dict[str, Any]) -> str:
    """How soon each page is there, and what a reader waits for on it."""
    columns = ["page", "first answer, ms", "first paint, ms", "ready, ms", "curves drawn, ms", ""]
    rows = [
        [
            name,
            *(_or_nothing(row.get(what), "{:.0f}") for what in ("answer", "paint", "ready", "drawn")),
            "met" if row["paint"] < found["target_ms"] else "**missed**",
        ]
        for name, row in found["pages"].items()
    ]
    waits = [[name, f"{row['p50']:.0f}", f"{row['p95']:.0f}"] for name, row in found["interactions"].items()]
    return (
        "## The dashboard (`python -m benchmarks.pages`)\n\n"
        f"The embedded stack with {_thousands(found['jobs'])} jobs, eight of them of {_thousands(found['iterations'])} "
        f"meta-iterations, one of which keeps all {_thousands(found['values'])} values of each; Chromium "
        f"{found['machine']['browser']} on the same {found['machine']['cores']} cores. Medians of {found['repeats']} "
        f"fresh contexts. Target: first paint under {found['target_ms'] / 1e3:g} s.{found.get('remark', '')}\n\n"
        + markdown(columns, rows)
        + "\n"
        + markdown(["what a reader waits for", "p50, ms", "p95, ms"], waits)
    )


def newcomer(found: dict[str, Any]) -> str:
    """When each step was done."""
    rows = [[row["step"], f"{row['seconds']:.0f}"] for row in found["steps"]]
    return (
        "## From a clone to a learned schedule on the screen (`python -m benchmarks.newcomer`)\n\n"
        f"A fresh clone, an environment of its own, nothing compiled before, {found['machine']['cores']} cores; "
        "one run. Installing is mostly the network's doing.\n\n"
        + markdown(["done", "seconds since the start"], rows)
    )


SECTIONS: dict[str, Callable[[Any], str]] = {
    "engines": engines,
    "scaling": scaling,
    "planner": planner,
    "long-training": long_training,
    "large-model": large_model,
    "programs": programs,
    "load": load,
    "pages": pages,
    "newcomer": newcomer,
}


def _thousands(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _machine(proof: dict[str, Any]) -> str:
    versions = proof["versions"]
    return f"jax {versions['jax']}, Python {versions['python']}, {proof['device'].split(':')[0]}"


def _megabytes(size: float | None) -> str:
    return _or_nothing(None if size is None else size / 1e6, "{:.1f}")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f}"


def _or_nothing(value: float | None, shape: str) -> str:
    return "" if value is None else shape.format(value)


def markdown(columns: list[str], rows: Iterable[list[str]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def results() -> dict[str, Any]:
    """What is on file, by name."""
    files = (RESULTS / f"{name}.json" for name in SECTIONS)
    return {file.stem: json.loads(file.read_text()) for file in files if file.exists()}


def main() -> None:
    """Write the page."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(results()))


if __name__ == "__main__":
    main()
