"""The figures of docs/scaling.md: how training is predicted to scale to 1024 workers, and how good predictions are.

    python benchmarks/draw_scaling.py [--svg docs/scaling.svg] [--crowd 8,16,...] [--fit]

Simulated with the costs fitted to ``benchmarks/data/efficiency.json``, the rows of ``bench_efficiency.py --out``
(with ``fitted``, whether a row is one of those that are fitted). Prints the tables in Markdown. With ``--fit`` the
costs are fitted anew, and printed; that takes minutes.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.lab.scaling import LINKS_ALONE, MEASURED, Setting, error_of, fit, read_rows
from shoal.lab.scaling_chart import chart
from shoal.lab.scaling_command import curve
from shoal.lab.simulate_laws import LogNormal

DATA = Path(__file__).parent / "data" / "efficiency.json"
SPREAD = 0.3
"""Rows whose turns differ by more were disturbed."""

BUSY = 0.95
"""Rows in which the processors were busier, while gradients and weights were exchanged, had no more of them to take."""

SIGMA = 0.1
"""Of the lognormal time of a gradient."""

MODELS = (
    ("ResNet-50", 102_000_000, 81, 0.25),
    ("GPT-2 124M", 498_000_000, 231, 1.0),
    ("GPT-2 124M, bf16", 249_000_000, 231, 1.0),
)
"""Name, bytes, slices of 64 KiB and more that the store cuts its keys into, and a stated time of computing."""

LINKS, MODES, SHARE = (10.0, 25.0, 100.0), ("sync", "ssp:3", "async"), "/2"


def busy(row: Mapping[str, Any]) -> float:
    """How much of the processors' time was taken while nobody computed: computing is a timer, and takes none."""
    return float(row["cpu_share"] * row["step_s"] / (row["step_s"] - row["compute_s"]))


def accuracy(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Root mean square, median and worst relative error of the predictions, and the share within 10 %."""
    errors = [abs(error_of(r, MEASURED)) for r in rows]
    return {
        "rows": len(errors),
        "rms": statistics.fmean(e * e for e in errors) ** 0.5,
        "median": statistics.median(errors),
        "worst": max(errors),
        "within 10 %": statistics.fmean(e <= 0.1 for e in errors),
    }


def print_accuracy(rows: Sequence[Mapping[str, Any]]) -> None:
    """How good the predictions are, by kind of row."""
    steady = [r for r in rows if r["spread"] < SPREAD]
    free = [r for r in steady if not r["fitted"] and busy(r) < BUSY]
    kinds = {
        "fitted": [r for r in steady if r["fitted"]],
        "predicted: 4 workers, 4 MiB": [r for r in free if r["tensors"] == 4],
        "predicted: 4 workers on 2 servers, 4 and 8 MiB": [r for r in free if (r["workers"], r["servers"]) == (4, 2)],
        "predicted: 8 MiB": [r for r in free if r["tensors"] == 8],
        "predicted: 96 MiB": [r for r in free if r["tensors"] == 96],
        "predicted, cores busy: 8 and 96 MiB": [r for r in steady if not r["fitted"] and busy(r) >= BUSY],
    }
    print("| rows | number | median error | root mean square | worst | within 10 % |\n|---|---|---|---|---|---|")
    for name, mine in kinds.items():
        a = accuracy(mine)
        print(
            f"| {name} | {a['rows']} | {a['median']:.1%} | {a['rms']:.1%} | {a['worst']:.1%} | {a['within 10 %']:.0%} |"
        )


def print_measured(rows: Sequence[Mapping[str, Any]]) -> None:
    """Measured beside predicted efficiency at one rate."""
    print("\n| workers | servers | sync | predicted | ssp:2 | predicted | async | predicted |\n|" + "---|" * 8)
    mine = [r for r in rows if r["tensors"] == 4 and r["gbit_s"] == 0.25]
    for place in dict.fromkeys((r["workers"], r["servers"]) for r in mine):
        found = {r["mode"]: r for r in mine if (r["workers"], r["servers"]) == place}
        cells = [f"{place[0]}", f"{place[1]}"]
        for mode in ("sync", "ssp:2", "async"):
            r = found[mode]
            real = r["compute_s"] / r["step_s"]
            cells += [f"{real:.0%}", f"{real / (1 + error_of(r, MEASURED)):.0%}"]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Print and draw."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--svg", default="")
    p.add_argument("--crowd", default="8,32,128,1024")
    p.add_argument("--fit", action="store_true", help="fit the costs anew")
    o = p.parse_args()
    rows = read_rows(DATA)
    if o.fit:
        steady = [r for r in rows if r["fitted"] and r["spread"] < SPREAD]
        print(fit(steady, MEASURED, turns=4, told=lambda text: print(text, file=sys.stderr)))
        return
    print_accuracy(rows)
    print_measured(rows)
    crowd, panels = [int(n) for n in o.crowd.split(",")], []
    for name, size, slices, compute_s in MODELS:
        law = LogNormal(compute_s, SIGMA)
        print(f"\n| {name} | servers |" + "".join(f" {link:g} Gbit/s |" for link in LINKS))
        print("|" + "---|" * (2 + len(LINKS)))
        found: dict[float, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
        for link in LINKS:
            about: dict[str, Any] = {"gbit_s": link, "model_bytes": size, "slice_bytes": -(-size // slices)}
            s = Setting(workers=1, servers=1, mode="", compute_s=compute_s, law=law, **about)
            real, alone = curve(s, crowd, SHARE, MODES), curve(s, crowd, SHARE, ("sync", "async"), LINKS_ALONE)
            found[link] = real, alone
            lines = {m: [(r["workers"], r[m]["efficiency"]) for r in real] for m in ("sync", "async")}
            lines |= {
                f"{m}, links alone": [(r["workers"], r[m]["efficiency"]) for r in alone] for m in ("sync", "async")
            }
            panels.append((f"{name}, {link:g} Gbit/s", lines))
        for i, n in enumerate(crowd):
            cells = []
            for real, alone in found.values():
                mine = " · ".join(f"{real[i][m]['efficiency'] * 100:.0f}" for m in MODES)
                best = " · ".join(f"{alone[i][m]['efficiency'] * 100:.0f}" for m in ("sync", "async"))
                cells.append(f"{mine} ({best})")
            print(f"| {n} | {found[LINKS[0]][0][i]['servers']} | " + " | ".join(cells) + " |", flush=True)
    if o.svg:
        Path(o.svg).write_text(chart(panels), encoding="utf-8")


if __name__ == "__main__":
    main()
