"""Who is in the cluster, and what starts its processes."""

if __name__ != "shoal.scheduler":
    raise ImportError("import shoal.scheduler, not scheduler: a second copy of its registries would load")
