"""The training process: Trainer, loop, data, metrics, checkpoints."""

if __name__ != "shoal.worker":
    raise ImportError("import shoal.worker, not worker: a second copy of its registries would load")
