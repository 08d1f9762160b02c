"""Efficiency over the number of workers as a picture: SVG text, without any library."""

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["chart"]

Line = Sequence[tuple[int, float]]
"""Numbers of workers, and efficiencies from 0 to 1."""

WIDTH, HEIGHT, MARGIN, GAP, COLUMNS = 300.0, 190.0, 46.0, 34.0, 3
COLOURS = ("#0969da", "#bf3989", "#1a7f37", "#bc4c00", "#8250df", "#6e7781")
STYLE = (
    "text { font: 11px system-ui, sans-serif; fill: #1b1f24 } .small { font-size: 10px; fill: #57606a } "
    ".title { font-size: 12px; font-weight: 600 } .grid { stroke: #d0d7de; stroke-width: 1 } "
    ".line { fill: none; stroke-width: 2 }"
)


def chart(panels: Sequence[tuple[str, Mapping[str, Line]]]) -> str:
    """The text of an SVG file: a panel for each (title, lines by name), in rows of three; workers on a log scale.

    The same names have the same colours in all panels, and one legend.
    """
    names = list(dict.fromkeys(name for _, lines in panels for name in lines))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    parts = []
    for i, (title, lines) in enumerate(panels):
        x = MARGIN + (i % COLUMNS) * (WIDTH + MARGIN + GAP / 2)
        y = MARGIN + (i // COLUMNS) * (HEIGHT + MARGIN + GAP)
        parts.append(f'<g transform="translate({x:g},{y:g})">{_panel(title, lines, colours)}</g>')
    across, down = min(len(panels), COLUMNS), -(-len(panels) // COLUMNS)
    width = across * (WIDTH + MARGIN + GAP / 2) + GAP
    height = MARGIN + down * (HEIGHT + MARGIN + GAP) + GAP / 2
    parts.append(_legend(colours, height - GAP / 2))
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    ground = f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{ground}{"".join(parts)}</svg>\n'


def _panel(title: str, lines: Mapping[str, Line], colours: Mapping[str, str]) -> str:
    """One plot, with its origin at the upper left corner of its frame."""
    counts = sorted({n for line in lines.values() for n, _ in line})
    low, high = math.log2(counts[0]), math.log2(counts[-1])
    span = max(high - low, 1e-9)

    def across(n: int) -> float:
        return WIDTH * (math.log2(n) - low) / span if high > low else WIDTH / 2

    parts = [f'<text class="title" x="0" y="-12">{escape(title)}</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = HEIGHT * (1 - share)
        parts.append(f'<line class="grid" x1="0" y1="{y:g}" x2="{WIDTH:g}" y2="{y:g}"/>')
        parts.append(f'<text class="small" x="-8" y="{y + 3:g}" text-anchor="end">{share:.0%}</text>')
    for n in counts:
        x = across(n)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{HEIGHT:g}" x2="{x:.1f}" y2="{HEIGHT + 4:g}"/>')
        parts.append(f'<text class="small" x="{x:.1f}" y="{HEIGHT + 16:g}" text-anchor="middle">{n}</text>')
    for name, line in lines.items():
        points = " ".join(f"{across(n):.1f},{HEIGHT * (1 - min(1.0, share)):.1f}" for n, share in line)
        parts.append(f'<polyline class="line" stroke="{colours[name]}" points="{points}"/>')
        for n, share in line:
            what = f"<title>{escape(name)}, {n} workers: {share:.1%}</title>"
            y = HEIGHT * (1 - min(1.0, share))
            parts.append(f'<circle cx="{across(n):.1f}" cy="{y:.1f}" r="3" fill="{colours[name]}">{what}</circle>')
    return "".join(parts)


def _legend(colours: Mapping[str, str], y: float) -> str:
    parts, x = [], MARGIN
    for name, colour in colours.items():
        parts.append(f'<line class="line" stroke="{colour}" x1="{x:g}" y1="{y - 4:g}" x2="{x + 18:g}" y2="{y - 4:g}"/>')
        parts.append(f'<text x="{x + 24:g}" y="{y:g}">{escape(name)}</text>')
        x += 44 + 7 * len(name)
    return "".join(parts)
