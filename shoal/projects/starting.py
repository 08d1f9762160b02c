"""``shoal init``: a project that runs as it is written."""

from importlib.resources import files
from pathlib import Path

from shoal.errors import ConfigError
from shoal.projects.job import FILE, parse_job, read_job
from shoal.projects.render import RENDERERS, render, write
from shoal.projects.schema import NAME

__all__ = ["start"]

TEMPLATES = {
    "train.py": "train.py.in",
    FILE: "shoal.toml.in",
    "README.md": "README.md.in",
    ".gitignore": "gitignore.in",
    ".shoalignore": "shoalignore.in",
    "hosts.txt": "hosts.txt.in",
    ".github/workflows/train.yml": "ci.yml.in",
}
"""By file of the project, its template."""

RENDERED = ("compose.yaml", "k8s.yaml", "ray-env.yaml", "ray-job.sh", "slurm.sh")
"""Written from shoal.toml."""


def start(directory: str, name: str = "") -> list[str]:
    """Write a project into a directory; the paths of its files.

    Args:
        name: of the job; "" for one made of the directory's.
    Raises:
        ConfigError: the name cannot be one, or a file is there already: nothing is written then.
    """
    place = Path(directory).resolve()
    if name:
        NAME.check("--name", name)
    else:
        name = parse_job('[job]\nscript = "train.py"\n', FILE, place).name
    texts = {path: _text(template).replace("@NAME@", name) for path, template in TEMPLATES.items()}
    there = [n for n in (*texts, *RENDERED) if (place / n).exists()]
    if there:
        raise ConfigError(f"{directory} has {', '.join(there)} already: name another directory, or remove them")
    made = write(texts, directory)
    job = read_job(place / FILE)
    return made + [path for target in RENDERERS for path in write(render(job, target), directory)]


def _text(template: str) -> str:
    return (files("shoal.projects") / "files" / template).read_text(encoding="utf-8")
