"""A strict reader of the text exposition format 0.0.4: what it does not accept, Prometheus might not either."""

import re
from collections.abc import Iterator

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
ESCAPE = re.compile(r"\\(.)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|\Z)')
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)\Z")
KINDS = ("counter", "gauge", "histogram")

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> dict[str, tuple[str, Samples]]:
    """By family: its kind and its samples by name and sorted labels; AssertionError where it is malformed."""
    assert text.endswith("\n") or not text
    found: dict[str, tuple[str, Samples]] = {}
    name, helped = "", ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped = line.split(" ", 3)[2]
            assert NAME.match(helped) and helped not in found, line
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == helped and kind in KINDS and name not in found, line
            assert (kind == "counter") == name.endswith("_total"), line
            found[name] = (kind, {})
        else:
            _sample(line, name, *found[name])
    for family, (kind, samples) in found.items():
        assert samples, family
        if kind == "histogram":
            _check_histogram(family, samples)
        if kind != "gauge":
            assert all(v >= 0 for v in samples.values()), family
    return found


def _sample(line: str, family: str, kind: str, samples: Samples) -> None:
    match = SAMPLE.match(line)
    assert match, line
    name, labels, value = match.groups()
    suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
    assert name in [family + suffix for suffix in suffixes], line
    key = name, tuple(sorted(_labels(labels or "")))
    assert key not in samples, f"twice: {line}"
    assert value in ("NaN", "+Inf", "-Inf") or re.match(r"-?\d+(\.\d+)?(e[+-]?\d+)?\Z", value), line
    samples[key] = float(value)


def _labels(text: str) -> Iterator[tuple[str, str]]:
    at, seen = 0, set()
    while at < len(text):
        match = LABEL.match(text, at)
        assert match, text
        name, value, comma = match.groups()
        assert name not in seen and not name.startswith("__"), text
        seen.add(name)
        at = match.end()
        assert (comma == ",") == (at < len(text)), text
        yield name, ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], value)


def _check_histogram(family: str, samples: Samples) -> None:
    counts = {labels: n for (name, labels), n in samples.items() if name == f"{family}_count"}
    assert counts, family
    for labels, count in counts.items():
        assert (f"{family}_sum", labels) in samples
        buckets = [
            (float(dict(at)["le"]), n)
            for (name, at), n in samples.items()
            if name == f"{family}_bucket" and tuple(x for x in at if x[0] != "le") == labels
        ]
        assert buckets == sorted(buckets) and [n for _, n in buckets] == sorted(n for _, n in buckets), family
        assert buckets[-1] == (float("inf"), count), family
