"""The scheduler's log as bytes: one line for all records of one step, with its number and a checksum. Pure.

    5fd2a0c1 [3, ["Joined", ["worker", 0, 1, "10.0.0.4:4242", "b", 17], "token", "worker-2f"], ["Started"]]

is CRC-32 (of the text behind it) and JSON: the line's number from 0, then the records by class and fields. A line is
the unit that a crash may tear. What cannot be a torn line, damage, is never guessed at: it is refused, with its place.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from shoal.errors import MembershipError, RemoteProtocolError
from shoal.kvstore.wire.schema import listed
from shoal.scheduler.log import Record

__all__ = ["Log", "read_log", "write_line"]

MAGIC = "shoal scheduler log 1"
"""First record of a file, with the version of the format."""

_START = json.dumps([0, [MAGIC]], separators=(",", ":"))[:-1].encode()

_CODERS: dict[str, Any] = {cls.__name__: listed(cls) for cls in get_args(Record)}


@dataclass(slots=True)
class Log:
    """What a file has.

    Args:
        records: in order.
        lines: how many whole lines.
        nbytes: their bytes.
        torn: bytes behind them, of a line that a crash has torn.
    """

    records: list[Record] = field(default_factory=list)
    lines: int = 0
    nbytes: int = 0
    torn: int = 0


def write_line(number: int, records: Sequence[Record]) -> bytes:
    """The line of this number (0 is the first of the file) that holds these records.

    Raises:
        LocalProtocolError: a field that is not plain data.
    """
    items = [[type(r).__name__, *_CODERS[type(r).__name__][0](r)] for r in records]
    head: list[Any] = [number] if number else [number, [MAGIC]]
    text = json.dumps([*head, *items], separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_log(data: bytes, name: str) -> Log:
    """The records of a file; a last line that a crash has torn is left out.

    Args:
        name: of the file, for texts.
    Raises:
        MembershipError: the file is damaged, or of another format; says where.
    """
    log = Log()
    while log.nbytes < len(data):
        end = data.find(b"\n", log.nbytes) + 1 or len(data)
        line = data[log.nbytes : end]
        items = _items(line)
        if items is None and end == len(data) and _is_torn(line, first=not log.lines):
            log.torn = len(line)
            return log
        if wrong := _wrong(items, log):
            raise _damaged(name, log, wrong)
        log.records += [_record(item, name, log) for item in (items or [])[1 if log.lines else 2 :]]
        log.lines, log.nbytes = log.lines + 1, end
    return log


def _items(line: bytes) -> list[Any] | None:
    """What a whole line holds; None if it is not one."""
    mark, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or mark != b"%08x" % zlib.crc32(text):
        return None
    items = json.loads(text)
    return items if isinstance(items, list) and items else None


def _is_torn(line: bytes, first: bool) -> bool:
    """Whether the last line was not written to its end: nobody has been told what is in it.

    Without its end, or, if the computer has failed, with parts (zeros) that did not reach the disk. A whole line with a
    wrong byte is damage, and so is a file that begins with something else.
    """
    if b"\0" in line:
        return True
    if line.endswith(b"\n") or _items(line[:-1] + b"\n") is not None:
        return False
    begins = _START[: max(0, len(line) - 9)]
    return not first or line[9 : 9 + len(_START)] == begins


def _wrong(items: list[Any] | None, log: Log) -> str:
    if items is None:
        return "its checksum is wrong"
    if items[0] != log.lines:
        return f"it has the number {items[0]}"
    return "" if log.lines or items[1:2] == [[MAGIC]] else f"it does not begin with {MAGIC!r}"


def _record(item: Any, name: str, log: Log) -> Record:
    try:
        record: Record = _CODERS[item[0]][1](item[1:])
    except (KeyError, IndexError, TypeError, RemoteProtocolError) as e:
        raise _damaged(name, log, f"a record of it cannot be read by this version of shoal ({e})") from e
    return record


def _damaged(name: str, log: Log, what: str) -> MembershipError:
    return MembershipError(
        f"the scheduler's log {name} is damaged: in line {log.lines + 1}, at byte {log.nbytes}, {what}. What was "
        "acknowledged cannot be known without it: restore the file, or begin the run anew with another directory."
    )
