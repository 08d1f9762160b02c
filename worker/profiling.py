"""``shoal run --profile``: what every operator of a worker took, from the start of its script to the end."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.ops.profile.recorder import Recorder

__all__ = ["begin", "end", "wanted"]

log = logging.getLogger("shoal.profile")

_directory = ""
_recorder: "Recorder | None" = None
_name = ""


def wanted(directory: str) -> None:
    """The worker of this process is to be profiled, and leaves ``worker-RANK.txt`` and ``.json`` in ``directory``.

    Raises:
        ConfigError: the directory cannot be made.
    """
    global _directory
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"profiles cannot be written to {directory!r}: {e.strerror}") from e
    _directory = directory


def begin(rank: int) -> None:
    """The script begins, if it is to be profiled."""
    global _recorder, _name
    if _directory and _recorder is None:
        from shoal.ops.profile.recorder import Recorder

        _recorder, _name = Recorder(), f"worker-{rank}"
        _recorder.start()


def end() -> None:
    """Write what was recorded, once; what goes wrong is logged, and fails no run."""
    global _recorder
    recorder, _recorder = _recorder, None
    if recorder is None:
        return
    from shoal.ops.profile.show import table, write_chrome

    recorder.stop()
    path = os.path.join(_directory, _name)
    try:
        text = "\n\n".join(
            [table(recorder), table(recorder, by="line", limit=30), table(recorder, by="scope", limit=30)]
        )
        Path(f"{path}.txt").write_text(text + "\n", encoding="utf-8")
        write_chrome(recorder, f"{path}.json", _name.replace("-", " "))
    except (OSError, ConfigError) as e:
        log.warning("the profile of this worker cannot be written to %s: %s", path, e)
