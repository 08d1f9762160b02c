"""Arrays and mathematics: operators, autograd, graph, layers and optimizers. No process, no network."""

if __name__ != "shoal.ops":
    raise ImportError("import shoal.ops, not ops: a second copy of its registries would load")
