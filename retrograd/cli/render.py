"""How jobs look on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from retrograd.client.printable import one_line

Json = Mapping[str, Any]

_SHOWN_COLUMNS = 8  # of a table's rows

STYLES = {
    "queued": "dim",
    "running": "cyan",
    "paused": "magenta",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
}


class Rows(Table):
    """A table whose cells are lines: what others have named with a line end in it begins no row."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Cells are text."""
        super().add_row(*map(_cell, cells), **options)


def _cell(cell: Any) -> Any:
    if isinstance(cell, Text):
        cell.plain = one_line(cell.plain)
        return cell
    return one_line(cell) if isinstance(cell, str) else cell


def listing(first: str | Column, *others: str | Column) -> Rows:
    """A table without lines. What names a row, in its first column, is whole where there is any room for it."""
    return Rows(
        Column(first, no_wrap=True) if isinstance(first, str) else first, *others, box=None, pad_edge=False
    )


def number(value: float | None) -> str:
    """Four digits that matter; a dash where there is no value."""
    return "–" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """The two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def count(number: int, what: str) -> str:
    """As many of something."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def when(time: str) -> str:
    """A time of the API's, to the second."""
    return time[:19].replace("T", " ")


def event_line(event: Json) -> Text:
    """When, what, and its particulars."""
    said = "  ".join(
        f"{name} {number(one) if isinstance(one, float) else one}" for name, one in event["data"].items()
    )
    what = f"  {event['kind'].replace('_', ' '):<16}  {said}".rstrip()
    return Text.assemble((one_line(when(event["created_at"])), "dim"), one_line(what))


def jobs_table(jobs: Iterable[Json]) -> Table:
    """One line a job."""
    state_and_done = (
        Column(name, no_wrap=True) for name in ("state", "done")
    )  # where room is scarce, names give way
    table = listing("job", "name", *state_and_done, "outer loss", "best", "left")
    for job in jobs:
        progress = job["progress"]
        table.add_row(
            str(job["id"])[:8],
            job["name"] or job["preset"] or "",
            state(job),
            f"{progress['meta_iteration']}/{progress['of']}",
            number(job["latest_outer_loss"]),
            number(job["best_outer_loss"]),
            "" if progress["eta_seconds"] is None else duration(progress["eta_seconds"]),
        )
    return table


def state(job: Json) -> Text:
    """In its colour."""
    return Text(one_line(job["state"]), STYLES.get(job["state"], ""))


def facts(rows: Mapping[str, Any]) -> Table:
    """Each beside its name."""
    table = Table.grid(Column(style="dim"), Column(), padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value if isinstance(value, Text) else str(value))
    return table


def losses_table(job: Json) -> Table:
    """Before and after, on the same evaluation seeds."""
    found = {"before": "initial", "after search": "searched", "after": "best"}
    columns = {title: job["losses"][name] or {} for title, name in found.items() if name in job["losses"]}
    table = Table("", *columns, box=None, pad_edge=False, padding=(0, 2))
    measures = {name: None for one in columns.values() for name in one.get("measures", {})}
    for part in ("outer", "train", "valid", "test", *measures):
        row = [one.get(part, one.get("measures", {}).get(part)) for one in columns.values()]
        if any(value is not None for value in row):
            table.add_row(f"  {part.replace('_', ' ')}", *map(number, row))
    return table


def certificate_line(certificate: Json) -> str:
    """What was proven about the hypergradients."""
    stored, bound = certificate["stored_bits_per_param_step"], certificate["bound_bits_per_param_step"]
    if not certificate["exact"]:
        return f"Certificate: not exact ({certificate['engine']} engine)"
    return (
        f"Certificate: exact, {certificate['mismatched_bits']} mismatched bits; {number(stored)} bits stored "
        f"per parameter and step (bound {number(bound)})"
    )


def job_details(job: Json) -> Table:
    """Everything about one job."""
    progress, error = job["progress"], job["error"]
    rows = {
        "job": job["id"],
        "name": job["name"] or None,
        "state": state(job),
        "meta-iteration": f"{progress['meta_iteration']} of {progress['of']}",
        "left": duration(progress["eta_seconds"]) if progress["eta_seconds"] is not None else None,
        "outer loss": f"{number(job['latest_outer_loss'])}, best {number(job['best_outer_loss'])}",
        "hyperparameters": job["num_hyperparameters"],
        "device": job["device"],
        "created": when(job["created_at"]),
        "ended": job["ended_at"] and when(job["ended_at"]),
        "error": f"{error['code']}: {error['message']}" if error else None,
    }
    table = facts({name: value for name, value in rows.items() if value is not None})
    if job["losses"].get("initial"):
        table.add_row("losses", losses_table(job))
    if job["certificate"]:
        table.add_row("", certificate_line(job["certificate"]))
    return table


def outcome(job: Json) -> list[Table | str]:
    """What to print when a job has ended."""
    if job["state"] != "succeeded":
        return []
    done, kind = job["progress"]["meta_iteration"], job["spec"]["kind"]
    learned = count(job["num_hyperparameters"], "hyperparameter")
    if kind == "hypergradient":
        head = f"{count(done, 'hypergradient')} with respect to {learned}."
    elif kind == "scan":
        head = f"{count(done, 'value')} of {job['spec']['scan']['hyperparameter']} visited."
    else:
        head = f"Learned {learned} in {count(done, 'meta-iteration')}."
    return [
        f"{head} Mean losses over {count(job['spec']['meta']['evaluation_seeds'], 'evaluation seed')}:",
        losses_table(job),
        certificate_line(job["certificate"]),
    ]


def presets_table(presets: Iterable[Json]) -> Table:
    """One line a preset."""
    table = listing("preset", "data", "learns", "steps", "iterations")
    for preset in presets:
        learned = [name for name, one in preset["hyperparameters"].items() if one and one["learn"]]
        table.add_row(
            preset["name"],
            preset["problem"].get("dataset", {}).get("name", ""),
            ", ".join(learned),
            str(preset["training"]["num_steps"]),
            _iterations(preset),
        )
    return table


def kinds_table(kinds: Iterable[Json]) -> Table:
    """One line a kind of problem."""
    table = listing("kind", "name", "brought by", "what it is")
    for kind in kinds:
        package = "" if kind["package"] is None else f"{kind['package']} {kind['version']}"
        said = kind["description"].partition("\n")[0]
        table.add_row(
            kind["kind"],
            kind["name"] or "",
            package,
            said if kind["error"] is None else Text.assemble(("cannot be used:", "red"), f" {kind['error']}"),
        )
    return table


def keys_table(keys: Iterable[Json]) -> Table:
    """One line a key."""
    table = listing("key", "name", "scopes", "created", "last used", "", "id")
    table.columns[-1].overflow = "fold"  # of no use when cut
    for key in keys:
        table.add_row(
            f"{key['prefix']}…",
            key["name"],
            ", ".join(key["scopes"]),
            when(key["created_at"])[:16],
            when(key["last_used_at"] or "never")[:16],
            Text(f"revoked {when(key['revoked_at'])[:16]}", "red") if key["revoked_at"] else "",
            key["id"],
        )
    return table


def datasets_table(datasets: Iterable[Json]) -> Table:
    """One line a data set."""
    table = listing("data set", "name", "inputs", "classes", "bytes", "uploaded")
    for dataset in datasets:
        shape = " × ".join(map(str, dataset["inputs"]["shape"]))
        table.add_row(
            dataset["id"],
            dataset["name"],
            f"{shape} {dataset['inputs']['dtype']}",
            str(len(dataset["class_counts"]) or "numbers"),
            f"{dataset['bytes']:,}",
            when(dataset["created_at"]),
        )
    return table


def programs_table(programs: Iterable[Json]) -> Table:
    """One line a program."""
    table = listing("program", "name", "bytes", "sent")
    for program in programs:
        sent = when(program["created_at"])
        table.add_row(program["id"], program["name"], f"{program['bytes']:,}", sent)
    return table


def program_details(program: Json) -> Table:
    """Everything about one program."""
    probe = program["probe"]
    rows = {
        "program": program["id"],
        "name": program["name"],
        "steps": program["num_steps"],
        "parameters": _arrays(program["params"]),
        "hyperparameters": _arrays(program["hyper"]),
        "data": "\n".join(f"{name}: {_arrays(arrays, ', ')}" for name, arrays in program["data"].items()),
        "schedule": ", ".join(entry["name"] for entry in program["schedule"]),
        "metrics": ", ".join(program["metrics"]),
        "platforms": ", ".join(program["platforms"]),
        "exported by": f"JAX {program['jax_version']}",
        "made of": f"{len(program['stablehlo_ops'])} operations, {len(program['custom_calls'])} custom calls",
        "losses at first": f"inner {number(probe['inner_loss'])}, outer {number(probe['outer_loss'])}",
        "bytes": f"{program['bytes']:,}",
        "sha256": program["sha256"],
        "sent": when(program["created_at"]),
    }
    return facts({name: value for name, value in rows.items() if value != ""})


def _arrays(arrays: Iterable[Json], between: str = "\n") -> str:
    shapes = [(one["name"], " × ".join(map(str, one["shape"])) or "one", one["dtype"]) for one in arrays]
    return between.join(f"{name}: {shape} {dtype}" for name, shape, dtype in shapes)


def told(dataset: Json) -> str:
    """What the labels of a data set are."""
    if target := dataset["target"]:
        return f"targets from {target['min']:g} to {target['max']:g}, mean {target['mean']:g}"
    counts = dataset["class_counts"]
    shown = ", ".join(map(str, counts[:10])) + (", …" if len(counts) > 10 else "")
    return f"{len(counts)} classes of {shown} examples"


def columns_table(table: Json) -> Table:
    """One line a column of the table that a data set was made of."""
    shown = Rows("column", "role", "type", "missing", "mean", "deviation", "values", box=None, pad_edge=False)
    for column in table["columns"]:
        categories = [one["value"] for one in column["categories"] or ()]
        if column["role"] == "target":
            categories = table["classes"] or []
        values = ", ".join(categories[:6]) + (", …" if len(categories) > 6 else "")
        mean, deviation = (
            f"{one:g}" if (one := column[name]) is not None else "" for name in ("mean", "deviation")
        )
        missing = str(column["missing"] or "")
        shown.add_row(column["name"], column["role"], column["type"] or "", missing, mean, deviation, values)
    return shown


def rows_table(table: Json) -> Table:
    """The first rows of the table that a data set was made of."""
    columns = [column["name"] for column in table["columns"]][:_SHOWN_COLUMNS]
    more = [f"and {table['num_columns'] - len(columns)} more"] if table["num_columns"] > len(columns) else []
    shown = Rows(*map(one_line, columns), *more, box=None, pad_edge=False)
    for row in table["rows"]:
        shown.add_row(*row[:_SHOWN_COLUMNS])
    return shown


def _iterations(preset: Json) -> str:
    if preset["kind"] == "scan":
        scan = preset["scan"]
        return count(len(scan["values"] or ()) or scan["num"], "point")
    if preset["kind"] == "hypergradient":
        return count(preset["seeds"]["count"], "seed")
    return str(preset["meta"]["num_iterations"])


def plan_details(plan: Json) -> list[Table | str]:
    """What a job would take."""
    table = Table(
        "engine", "one hypergradient", f"all {plan['hypergradients']}", "memory", "on the host", "",
        box=None, pad_edge=False,
    )  # fmt: skip
    for one in plan["engines"]:
        remark = one["remark"] or ("" if one["fits"] else "does not fit here")
        table.add_row(
            Text(one["name"], "bold" if one["name"] == plan["engine"] else ""),
            "–" if one["seconds"] is None else precise(one["seconds"]),
            "–" if one["job_seconds"] is None else precise(one["job_seconds"]),
            size(one["device_bytes"]),
            size(one["host_bytes"]),
            remark,
        )
    takes = (
        f"{plan['engine']}, or {plan['fallback']} where that cannot be proven"
        if plan["fallback"]
        else plan["engine"]
    )
    return [
        f"{count(plan['num_hyperparameters'], 'hyperparameter')}, {count(plan['num_iterations'], 'meta-iteration')}, "
        f"{count(plan['hypergradients'], 'hypergradient')}, at most {count(plan['trainings'], 'training')} for "
        "evaluation and search.",
        f"Engine: {takes}.",
        table,
        f"Times are those of the server's own machine ({plan['machine']}), without compilation and without the "
        "trainings, each of which takes less than a hypergradient.",
    ]


def precise(seconds: float) -> str:
    """Also where it is less than a minute."""
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def size(number_of_bytes: int | None) -> str:
    """In the largest unit that leaves something before the point."""
    if number_of_bytes is None:
        return "–"
    value, unit = float(number_of_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"
