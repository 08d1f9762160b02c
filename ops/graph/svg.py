"""A graph as a picture: SVG text, without any library.

Calls lie in rows by their distance from the inputs; in a row they are ordered so that edges cross little. Inputs lie
just above their first use. The parts of the picture have titles with shapes and lines of code, which browsers show
where the mouse points.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

from shoal.ops.graph.ir import Call, Graph, positions
from shoal.ops.lines import text as place_text

__all__ = ["drawing"]

BOX_W, BOX_H, GAP_X, GAP_Y, MARGIN = 168, 36, 16, 30, 24
SWEEPS = 8
"""How often rows are ordered by their neighbours."""

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1b1f24 }
.small { font-size: 10px; fill: #57606a }
.title { font-size: 16px; font-weight: 600 }
rect { rx: 5; stroke: #8c959f; stroke-width: 1 }
.input rect { fill: #f6f8fa } .const rect { fill: #fff8c5 }
.forward rect { fill: #ddf4ff } .backward rect { fill: #ffeff7 }
.fused rect { stroke: #1a7f37; stroke-width: 2.5 } .out rect { stroke-dasharray: 5 3; stroke: #cf222e }
path { fill: none; stroke: #6e7781; stroke-width: 1; opacity: .55 }
"""


def drawing(graphs: Sequence[tuple[str, Graph]], forward: int | None = None) -> str:
    """The text of an SVG file with the graphs side by side.

    Args:
        graphs: (title, graph) each.
        forward: how many of each graph's outputs are those of the forward part; it and the backward part have colours.
    """
    parts, left, bottom = [], float(MARGIN), 0.0
    for title, graph in graphs:
        text, width, height = _one(title, graph, forward)
        parts.append(f'<g transform="translate({left:g},{MARGIN})">{text}</g>')
        left += width + 3 * MARGIN
        bottom = max(bottom, height)
    size = f"{left:g}", f"{bottom + 2 * MARGIN:g}"
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}">'.format(*size)
    ground = '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>'
    return f"{head}<style>{STYLE}</style>{ground}{''.join(parts)}</svg>\n"


def _one(title: str, graph: Graph, forward: int | None) -> tuple[str, float, float]:
    """(text, width, height) of one graph."""
    rows = _rows(graph)
    _order(graph, rows)
    widest = max((len(r) for r in rows), default=1)
    width = max(widest * (BOX_W + GAP_X) - GAP_X, 8 * len(title))
    at: dict[int, tuple[float, float]] = {}
    for y, row in enumerate(rows):
        start = (width - len(row) * (BOX_W + GAP_X) + GAP_X) / 2
        at.update({p: (start + i * (BOX_W + GAP_X), 34 + y * (BOX_H + GAP_Y)) for i, p in enumerate(row)})
    early = positions(graph, graph.outputs[: len(graph.outputs) if forward is None else forward])
    edges = "".join(
        _edge(at[q], at[p]) for p, call in enumerate(graph.calls) for q, _ in call.refs if q in at and p in at
    )
    outputs = {p for p, _ in graph.outputs}
    boxes = "".join(_box(graph, p, at[p], p in early, p in outputs) for p in sorted(at))
    height = 34 + len(rows) * (BOX_H + GAP_Y)
    return f'<text class="title" y="14">{escape(title)}</text>{edges}{boxes}', width, height


def _rows(graph: Graph) -> list[list[int]]:
    """Positions by row: one more than the lowest input; leaves are put above their first use."""
    level = [0] * len(graph.calls)
    users: dict[int, list[int]] = {}
    for p, call in enumerate(graph.calls):
        level[p] = max((level[q] + 1 for q, _ in call.refs), default=0)
        for q, _ in call.refs:
            users.setdefault(q, []).append(p)
    for p, call in enumerate(graph.calls):
        if not call.op and p in users:
            level[p] = max(0, min(level[u] for u in users[p]) - 1)
    seen = [p for p, call in enumerate(graph.calls) if call.op or p in users]
    rows: list[list[int]] = [[] for _ in range(max((level[p] for p in seen), default=0) + 1)]
    for p in seen:
        rows[level[p]].append(p)
    return rows


def _order(graph: Graph, rows: list[list[int]]) -> None:
    """Sort each row by the mean place of its neighbours, down and up (Sugiyama et al., 1981)."""
    near: dict[int, set[int]] = {}
    for p, call in enumerate(graph.calls):
        for q, _ in call.refs:
            near.setdefault(p, set()).add(q)
            near.setdefault(q, set()).add(p)
    place = {p: i - len(row) / 2 for row in rows for i, p in enumerate(row)}
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            mean = {p: sum(place.get(q, 0) for q in sorted(near.get(p, {p}))) / len(near.get(p, {p})) for p in row}
            row.sort(key=lambda p: (mean[p], p))
            place.update({p: i - len(row) / 2 for i, p in enumerate(row)})


def _edge(source: tuple[float, float], to: tuple[float, float]) -> str:
    x, y, u, v = source[0] + BOX_W / 2, source[1] + BOX_H, to[0] + BOX_W / 2, to[1]
    bend = max(GAP_Y / 2, (v - y) / 2)
    return f'<path d="M{x:g} {y:g}C{x:g} {y + bend:g} {u:g} {v - bend:g} {u:g} {v:g}"/>'


def _box(graph: Graph, position: int, at: tuple[float, float], early: bool, output: bool) -> str:
    call = graph.calls[position]
    kind = "input" if call.is_input else "const" if call.is_const else "forward" if early else "backward"
    classes = [kind, *(["fused"] if call.op == "fused" else []), *(["out"] if output else [])]
    spec = call.specs[0]
    more = f" +{len(call.specs) - 1}" if len(call.specs) > 1 else ""
    shape = "x".join(map(str, spec.shape)) or "()"
    lines = [_label(call, position), f"{shape} {spec.dtype}{more}"]
    x, y = at
    return (
        f'<g class="{" ".join(classes)}" transform="translate({x:g},{y:g})">'
        f"<title>{escape(_tip(graph, position))}</title>"
        f'<rect width="{BOX_W}" height="{BOX_H}"/><text x="8" y="15">{escape(_cut(lines[0], 24))}</text>'
        f'<text class="small" x="8" y="29">{escape(_cut(lines[1], 30))}</text></g>'
    )


def _label(call: Call, position: int) -> str:
    if call.is_input:
        return call.name or f"input {position}"
    if call.is_const:
        return f"const {call.value.item():.6g}" if call.value.size == 1 else "const"
    if call.op == "fused":
        return "+".join(name for name, _, _ in call.attrs["body"])
    return call.op


def _tip(graph: Graph, position: int) -> str:
    """What the mouse shows."""
    call = graph.calls[position]
    lines = [f"%{position} {call.op or call.name or 'const'}"]
    lines += [f"  out {n}: {s.shape} {s.dtype}" for n, s in enumerate(call.specs)]
    lines += [f"  {name} = {_cut(repr(value), 200)}" for name, value in call.attrs.items() if name != "body"]
    lines += [f"  {_step(n, step)}" for n, step in enumerate(call.attrs.get("body", ()))] if call.op == "fused" else []
    where = place_text(call.line)
    return "\n".join([*lines, *([f"  {where}"] if where else [])])


def _step(n: int, step: tuple[Any, ...]) -> str:
    name, operands, attrs = step
    return f"t{n} = {name}({', '.join([*map(str, operands), *(f'{k}={v}' for k, v in attrs)])})"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
