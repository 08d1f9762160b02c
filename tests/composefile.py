"""What ``docker compose up`` would start, read from docker-compose.yml: commands, environment, folders, order."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

__all__ = ["ROOT", "Container", "containers", "document", "interpolate"]

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker-compose.yml"

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[-+])(?P<word>[^}]*))?\}")


@dataclass(frozen=True)
class Container:
    """One container of a service.

    Args:
        argv: arguments of the image's entry point, ``shoal``.
        mounts: from folder inside to what is mounted there: a folder here, or the name of a volume.
        secrets: names of what is mounted below /run/secrets.
        healthcheck: command that says whether it is ready; () if there is none.
        after: services that must be healthy before it starts.
    """

    service: str
    number: int
    argv: tuple[str, ...]
    environment: dict[str, str]
    working_dir: str
    mounts: dict[str, str]
    secrets: tuple[str, ...]
    healthcheck: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def name(self) -> str:
        """As compose names it, without the project."""
        return f"{self.service}-{self.number}"


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """``${NAME:-default}`` and ``${NAME:+if set}`` in every text of a document, as the compose specification has it."""
    match value:
        case str():
            return _VARIABLE.sub(lambda m: _filled(m, variables.get(m["name"]) or ""), value)
        case dict():
            return {k: interpolate(v, variables) for k, v in value.items()}
        case list():
            return [interpolate(v, variables) for v in value]
    return value


def _filled(m: re.Match[str], value: str) -> str:
    word = m["word"] or ""
    return (value and word) if m["how"] == "+" else value or word


def document(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The compose file with its anchors merged and its variables filled in."""
    loaded = YAML(typ="safe", pure=True).load(FILE.read_text())
    filled: dict[str, Any] = interpolate(loaded, variables or {})
    return filled


def containers(
    variables: Mapping[str, str] | None = None, scale: Mapping[str, int] | None = None, profiles: Sequence[str] = ()
) -> list[Container]:
    """What ``docker compose up`` starts of our image with these variables, ``--scale`` options and profiles."""
    return [
        container
        for name, service in document(variables)["services"].items()
        if service["image"].startswith("shoal:") and set(service.get("profiles", profiles)) <= set(profiles)
        for container in _replicas(name, service, (scale or {}).get(name))
    ]


def _replicas(name: str, service: Mapping[str, Any], scaled: int | None) -> Iterator[Container]:
    count = scaled if scaled is not None else int(service.get("deploy", {}).get("replicas", 1))
    for number in range(1, count + 1):
        yield Container(
            service=name,
            number=number,
            argv=_words(service["command"]),
            environment={k: str(v) for k, v in service["environment"].items()},
            working_dir=service.get("working_dir", "/app"),
            mounts=dict(_mount(text) for text in service.get("volumes", [])),
            secrets=tuple(service.get("secrets", [])),
            healthcheck=_check(service),
            after=tuple(service.get("depends_on", {})),
        )


def _words(command: str | list[str]) -> tuple[str, ...]:
    return tuple(shlex.split(command) if isinstance(command, str) else command)


def _mount(text: str) -> tuple[str, str]:
    source, target = text.split(":")[:2]
    return target, source


def _check(service: Mapping[str, Any]) -> tuple[str, ...]:
    test = service.get("healthcheck", {}).get("test", [])
    return tuple(test[1:]) if test[:1] == ["CMD"] else ()
