"""Profiles by context manager, and by MXNet's functions."""

import os
from time import monotonic
from types import TracebackType
from typing import Any

from shoal.errors import ConfigError, meant
from shoal.ops.profile import show
from shoal.ops.profile.recorder import Recorder, _scopes, current_scope

__all__ = ["Event", "Frame", "Profile", "Task", "dump", "dumps", "pause", "resume", "set_config", "set_state", "state"]


class Profile:
    """Time and memory of every operator that is carried out in this context, by any thread.

    Imperative and hybrid, forward and backward; while nobody profiles, it costs nothing.

    Args:
        memory: also follow how much memory the results of operators hold together.
        blocks: blocks that are called are shown as scopes, by their path.

    >>> from shoal import np, profiler
    >>> with profiler.profile() as p:
    ...     y = np.ones((100, 100)) @ np.ones((100, 100))
    >>> [(r["name"], r["count"], r["flops"]) for r in p.rows()]
    [('matmul', 1, 2000000)]
    """

    def __init__(self, *, memory: bool = False, blocks: bool = True) -> None:
        self._recorder = Recorder(memory=memory, blocks=blocks)

    def __enter__(self) -> "Profile":
        self._recorder.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._recorder.stop()

    def rows(self, by: str = "op", sort: str = "total", ascending: bool | None = None) -> list[dict[str, Any]]:
        """One dictionary per row of the `table`; times in ms and us, memory in bytes."""
        return show.rows(self._recorder, by, sort, ascending)

    def table(
        self, by: str = "op", sort: str = "total", ascending: bool | None = None, limit: int | None = None
    ) -> str:
        """The profile as text.

        Args:
            by: rows are of an operator ("op"), of an operator with some shapes ("shapes"), of a line of the user's
                code ("line"), or of a scope ("scope").
            sort: "total", "count", "mean", "min", "max", "memory", "flops" or "name".
            ascending: the smallest first; by default only names are so.
            limit: rows that are shown.
        Raises:
            ConfigError: an unknown ``by`` or ``sort``.
        """
        return show.table(self._recorder, by, sort, ascending, limit)

    def __str__(self) -> str:
        return self.table()

    @property
    def peak_bytes(self) -> int:
        """The most that the results of operators held at once; 0 without ``memory``."""
        return self._recorder.peak_bytes

    def chrome(self) -> dict[str, Any]:
        """The events in Trace Event Format, as `shoal trace` writes it."""
        return show.chrome(self._recorder)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `chrome` to a JSON file, for ui.perfetto.dev or chrome://tracing.

        Raises:
            ConfigError: the file cannot be written.
        """
        show.write_chrome(self._recorder, path)


class Task:
    """A stretch of time with a name, between `start` and `stop`: a scope for code that is in no one block."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._began: float | None = None

    def start(self) -> None:
        """It begins now."""
        self._began = monotonic()

    def stop(self) -> None:
        """It ends now; nothing happens if it has not begun."""
        if self._began is not None:
            for recorder in tuple(_scopes.recorders):
                recorder.scoped(self.name, current_scope(), self._began, monotonic())
            self._began = None


Frame = Event = Task


# -- MXNet's functions: one profile for the process


class _Settings:
    filename = "profile.json"
    options: dict[str, Any]
    recorder: Recorder | None = None
    paused = False

    def __init__(self) -> None:
        self.options = {"profile_memory": False, "profile_blocks": True}

    def ready(self) -> Recorder:
        if self.recorder is None:
            self.recorder = Recorder(memory=self.options["profile_memory"], blocks=self.options["profile_blocks"])
        return self.recorder


_settings = _Settings()

_ACCEPTED = (
    "profile_all",
    "profile_symbolic",
    "profile_imperative",
    "profile_api",
    "profile_process",
    "aggregate_stats",
    "continuous_dump",
    "dump_period",
)


def set_config(*, filename: str | None = None, **options: Any) -> None:
    """Where `dump` writes, and what is recorded from the next ``set_state("run")`` on.

    Args:
        filename: of the picture; "profile.json" at first.
        options: ``profile_memory``: follow the memory of results; ``profile_blocks``: blocks are scopes; MXNet's
            ``profile_all`` (which means memory too), ``profile_symbolic``, ``profile_imperative``, ``profile_api``,
            ``profile_process``, ``aggregate_stats``, ``continuous_dump`` and ``dump_period`` are accepted: operators of
            both kinds are always recorded, and always summed.
    Raises:
        ConfigError: an unknown option.
    """
    known = (*_settings.options, *_ACCEPTED)
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"set_config has no option {name!r}{meant(name, known)}; it has {', '.join(known)}")
        if name == "profile_all":
            _settings.options["profile_memory"] = bool(value)
        elif name in _settings.options:
            _settings.options[name] = bool(value)
    if filename is not None:
        _settings.filename = filename
    if _settings.recorder is not None and not _settings.recorder.running:
        _settings.recorder.memory = _settings.options["profile_memory"]
        _settings.recorder.blocks = _settings.options["profile_blocks"]


def set_state(state: str = "stop") -> None:
    """ "run" records from now on, "stop" no more.

    Raises:
        ConfigError: it is neither.
    """
    if state not in ("run", "stop"):
        raise ConfigError(f"the state of the profiler is 'run' or 'stop', got {state!r}")
    recorder = _settings.ready()
    if state == "run":
        recorder.start()
    else:
        recorder.stop()
    _settings.paused = False


def state() -> str:
    """ "run" or "stop"."""
    return "run" if _settings.ready().running else "stop"


def pause() -> None:
    """Record nothing until `resume`."""
    recorder = _settings.ready()
    _settings.paused = _settings.paused or recorder.running
    recorder.stop()


def resume() -> None:
    """Record again, if it was recorded before `pause`."""
    if _settings.paused:
        _settings.ready().start()
        _settings.paused = False


def dumps(reset: bool = False, *, sort_by: str = "total", ascending: bool = False, by: str = "op") -> str:
    """The table of what was recorded.

    Args:
        reset: forget it afterwards.
        sort_by: as `Profile.table`; MXNet's "avg" is "mean".
    """
    recorder = _settings.ready()
    text = show.table(recorder, by, "mean" if sort_by == "avg" else sort_by, ascending)
    if reset:
        recorder.clear()
    return text


def dump(finished: bool = True) -> None:
    """Write the picture to the file that `set_config` names.

    Args:
        finished: also stop recording.
    """
    if finished:
        set_state("stop")
    show.write_chrome(_settings.ready(), _settings.filename)
