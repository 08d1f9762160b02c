"""A server's snapshots on disk: a directory of numbered files, each with the whole state and the slices that changed.

``state-00000012.safetensors`` holds, in its metadata, the core's state, and for each slice the number of the file that
has its values; as tensors the values of the slices that have changed since the file before. A file appears at once,
whole, and on the disk; its values and its metadata have checksums. The two newest snapshots are kept, with the files
that they refer to; when a snapshot would refer to too many, it holds all slices.
"""

import json
import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.errors import CheckpointError
from shoal.kvstore.server.image import Image
from shoal.kvstore.wire.faults import faults
from shoal.ops.tensorfile import load_tensors, save_tensors

__all__ = ["MAX_FILES", "Saved", "StateFiles"]

log = logging.getLogger("shoal.server")

MAX_FILES = 8
"""Files that a snapshot may consist of."""

FORMAT = "shoal server state 1"

_TEXTS = ("format", "state", "stores", "images", "homes")


@dataclass(slots=True)
class Saved:
    """A snapshot that was read: the core's state, the stores' optimizers, and the slices."""

    number: int
    state: dict[str, Any]
    stores: list[Any]
    images: dict[int, Image]


class StateFiles:
    """The snapshots of one server.

    Args:
        directory: made when the first one is written.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._homes: dict[int, int] = {}  # by slice, the file that has it
        self._kept: list[set[int]] = []  # files of the newest snapshots
        self.number = max(self._numbers(), default=0)

    @property
    def full(self) -> bool:
        """Whether the next snapshot must hold all slices."""
        return len(set(self._homes.values())) >= MAX_FILES

    def knows(self, slice_id: int) -> bool:
        """Whether a file has the slice."""
        return slice_id in self._homes

    def write(self, state: Mapping[str, Any], stores: list[Any], images: Mapping[int, Image]) -> int:
        """Write a snapshot; slices that ``images`` lacks are as they were in the one before.

        Returns:
            Bytes of the slices in it.
        Raises:
            CheckpointError: the disk refuses; the snapshots before are as they were.
        """
        number = self.number + 1
        self._check_disk(number)
        homes = {**self._homes, **dict.fromkeys(images, number)}
        texts = {
            "format": FORMAT,
            "state": json.dumps(state, separators=(",", ":")),
            "stores": json.dumps(stores),
            "images": json.dumps([[i, image.meta] for i, image in images.items()], separators=(",", ":")),
            "homes": json.dumps(list(homes.items())),
        }
        tensors = {f"{i}/{name}": array for i, image in images.items() for name, array in image.arrays.items()}
        save_tensors(self._path(number), tensors, {**texts, "check": _check(texts)})
        self.number, self._homes = number, homes
        self._kept = [{number, *homes.values()}, *self._kept][:2]
        kept = set().union(*self._kept)
        for old in self._numbers():
            if old not in kept:
                self._path(old).unlink(missing_ok=True)
        return sum(a.nbytes for a in tensors.values())

    def _check_disk(self, number: int) -> None:
        """Where a full disk is put in on purpose."""
        if faults.writing is not None:
            try:
                faults.writing(str(self._path(number)))
            except OSError as e:
                raise CheckpointError(f"cannot save to {str(self._path(number))!r}: {e}") from e

    def read(self, cluster: str) -> Saved | None:
        """The newest good snapshot of this run; damaged ones are passed over with a warning. None if there is none."""
        for number in sorted(self._numbers(), reverse=True):
            try:
                saved = self._read(number, cluster)
            except CheckpointError as e:
                log.warning("%s; the snapshot before it is tried", e)
                continue
            if saved is not None:
                return saved
        return None

    def _read(self, number: int, cluster: str) -> Saved | None:
        files = {number: self._load(number)}
        texts = files[number][1]
        try:
            state, homes = json.loads(texts["state"]), dict(json.loads(texts["homes"]))
            if state["cluster"] != cluster:
                return None
            for home in {*homes.values()} - {number}:
                files[home] = self._load(home)
            metas = {home: dict(json.loads(found[1]["images"])) for home, found in files.items()}
            images = {i: _image(i, metas[home][i], files[home][0]) for i, home in homes.items()}
            saved = Saved(number, state, json.loads(texts["stores"]), images)
        except (KeyError, ValueError, TypeError) as e:
            raise CheckpointError(f"{self._path(number)} is not readable: {type(e).__name__}: {e}") from e
        self._homes, self._kept = homes, [{number, *homes.values()}]
        return saved

    def _load(self, number: int) -> tuple[dict[str, Any], dict[str, str]]:
        tensors, metadata = load_tensors(self._path(number))
        texts = {name: metadata.get(name, "") for name in _TEXTS}
        if texts["format"] != FORMAT or metadata.get("check") != _check(texts):
            raise CheckpointError(f"{self._path(number)} is damaged, or of another format than {FORMAT!r}")
        return tensors, texts

    def _path(self, number: int) -> Path:
        return self.directory / f"state-{number:08d}.safetensors"

    def _numbers(self) -> list[int]:
        names = [p.stem.removeprefix("state-") for p in self.directory.glob("state-*.safetensors")]
        return [int(n) for n in names if n.isdecimal()]


def _check(texts: Mapping[str, str]) -> str:
    return f"{zlib.crc32(json.dumps([texts[name] for name in _TEXTS]).encode()):08x}"


def _image(slice_id: int, meta: dict[str, Any], tensors: Mapping[str, Any]) -> Image:
    return Image(meta, {name: tensors[f"{slice_id}/{name}"] for name in meta["arrays"]})
