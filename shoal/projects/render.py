"""The files of a job, for one target."""

import os
from pathlib import Path

from shoal.errors import ConfigError
from shoal.projects import clusters, compose, kubernetes
from shoal.projects.job import Job

__all__ = ["RENDERERS", "render", "write"]

RENDERERS = {
    "compose": compose.render,
    "k8s": kubernetes.render,
    "ray": clusters.render_ray,
    "slurm": clusters.render_slurm,
}
"""By target: from the job to its files, checked."""


def render(job: Job, target: str) -> dict[str, str]:
    """By file name, the text of each file; every reference in them leads somewhere.

    Raises:
        ConfigError: the target is not known, or the job cannot be run there.
    """
    if target not in RENDERERS:
        raise ConfigError(f"unknown target {target!r}; known: {', '.join(RENDERERS)}")
    return RENDERERS[target](job)


def write(files: dict[str, str], directory: str) -> list[str]:
    """Write files into a directory, which is made; their paths. Scripts can be run.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = Path(directory) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            if text.startswith("#!"):
                path.chmod(0o755)
    except OSError as e:
        raise ConfigError(f"{directory!r} cannot be written: {e.strerror or e}") from e
    return [os.path.join(directory, name) for name in files]
