"""Experiments on training runs: comparisons and reports."""

if __name__ != "shoal.lab":
    raise ImportError("import shoal.lab, not lab: a second copy of its registries would load")
