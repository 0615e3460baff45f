"""How notebooks show jobs and what they learned. Colours of text and lines are the page's own, be it light or dark."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from retrograd.client.call import Json

if TYPE_CHECKING:
    from retrograd.client.hyperparameters import Hyperparameters

_STATES = {  # of middling lightness: they read on white and on black
    "queued": "#808080",
    "running": "#3b82c4",
    "paused": "#b7791f",
    "succeeded": "#2e9e5b",
    "failed": "#d64545",
    "cancelled": "#808080",
}
_LOSSES = ("outer", "train", "valid", "test")
_WIDTH, _HEIGHT, _MOST_POINTS, _MOST_LINES = 160, 28, 80, 8


def job(document: Json) -> str:
    """A job, as much as is known of it."""
    title = f"<strong>{escape(document['name'])}</strong> {_state(document)} {_faint(document['id'])}"
    return f"<div>{title}{_table(_facts(document))}</div>"


def jobs(documents: list[Json]) -> str:
    """A row each."""
    head = ("job", "name", "state", "meta-iterations", "best outer loss", "created")
    rows = (
        (
            _code(one["id"][:8]),
            escape(one["name"]),
            _state(one),
            _progress(one),
            _number(one["best_outer_loss"]),
            escape(one["created_at"][:19].replace("T", " ")),
        )
        for one in documents
    )
    return _table(rows, head)


def hyperparameters(learned: Hyperparameters) -> str:
    """A row each, schedules with a line for every group."""
    head = ("hyperparameter", "shape", "unit", "from … to", "over steps")
    rows = (
        (
            _code(name),
            escape(f"{' × '.join(map(str, array.shape))} ({', '.join(axes)})" if axes else "one"),
            escape(learned.units[name]),
            _range(array),
            sparkline(array) if axes[:1] == ("step",) and array.ndim <= 2 else "",
        )
        for (name, array), axes in zip(learned.items(), learned.axes.values(), strict=True)
    )
    title = f"<strong>Hyperparameters</strong> {_faint(f'of iteration {learned.iteration}')}"
    about = _table([*_losses(learned.losses), *_certificate(learned.certificate)])
    return f"<div>{title}{_table(rows, head)}{about}</div>"


def sparkline(array: np.ndarray) -> str:
    """Values over steps [steps] or [steps, lines] as an SVG, thinned to what there is room for."""
    array = array.reshape(len(array), -1)[:, :_MOST_LINES]
    array = array[np.unique(np.linspace(0, len(array) - 1, _MOST_POINTS).astype(int))]
    finite = array[np.isfinite(array)]
    if not finite.size:
        return ""
    low, high = finite.min(), finite.max()
    across = np.linspace(1, _WIDTH - 1, len(array))
    down = _HEIGHT - 2 - (_HEIGHT - 4) * (array - low) / ((high - low) or 1)
    lines = "".join(f'<polyline points="{_points(across, line)}"/>' for line in down.T)
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="values over steps" fill="none" stroke="currentColor" stroke-opacity=".7">{lines}</svg>'
    )


def _points(across: np.ndarray, down: np.ndarray) -> str:
    seen = np.isfinite(down)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across[seen], down[seen], strict=True))


def _facts(document: Json) -> Iterable[tuple[str, str]]:
    yield "meta-iterations", _progress(document)
    yield "learns", f"{document['num_hyperparameters']:,} hyperparameters"
    if document.get("losses"):
        yield from _losses(document["losses"])
    elif document["latest_outer_loss"] is not None:
        latest, best = _number(document["latest_outer_loss"]), _number(document["best_outer_loss"])
        yield "outer loss", f"{latest}, best {best}"
    yield from _certificate(document.get("certificate"))
    if document["error"]:
        yield "error", f"{_code(document['error']['code'])} {escape(document['error']['message'])}"


def _losses(losses: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Before → after, on the same seeds."""
    before, after = losses.get("initial") or {}, losses.get("best") or {}
    for name in _LOSSES:
        numbers = [_number(one.get(name)) for one in (before, after) if one.get(name) is not None]
        if numbers:
            yield f"{name} loss", " → ".join(numbers)


def _certificate(certificate: Json | None) -> Iterable[tuple[str, str]]:
    if certificate:
        bits = certificate["mismatched_bits"]
        differ = "" if bits is None else f", {escape(str(bits))} bits differ"
        yield "certificate", f"{'exact' if certificate['exact'] else 'not exact'}{differ}"


def _state(document: Json) -> str:
    state = document["state"]
    return f'<span style="color:{_STATES.get(state, "inherit")};font-weight:600">{escape(state)}</span>'


def _progress(document: Json) -> str:
    progress = document["progress"]
    return escape(f"{progress['meta_iteration']} of {progress['of']}")


def _range(array: np.ndarray) -> str:
    finite = array[np.isfinite(array)]
    if not finite.size:
        return ""
    low, high = finite.min(), finite.max()
    return _number(low) if low == high else f"{_number(low)} … {_number(high)}"


def _number(value: Any) -> str:
    return "" if value is None else f"{float(value):.4g}"


def _code(text: Any) -> str:
    return f"<code>{escape(str(text))}</code>"


def _faint(text: str) -> str:
    return f'<span style="opacity:.65">{escape(text)}</span>'


def _table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...] = ()) -> str:
    """Cells are HTML."""
    top = f"<thead>{_row('th', head)}</thead>" if head else ""
    body = "".join(_row("td", row) for row in rows)
    return f'<table style="color:inherit;font:inherit">{top}<tbody>{body}</tbody></table>'


def _row(tag: str, cells: tuple[str, ...]) -> str:
    wrap = "normal" if len(cells) == 2 else "nowrap"  # what stands beside a name may be long
    opening = f'<{tag} style="text-align:left;white-space:{wrap};padding:.1em 1em .1em 0">'
    return f"<tr>{''.join(f'{opening}{cell}</{tag}>' for cell in cells)}</tr>"
