"""Calls of server functions: each part of a slice in turn; one that writes is run once, whoever asks how often."""

from collections import OrderedDict
from dataclasses import replace
from math import prod
from typing import Any

from shoal.errors import ConfigError, RemoteProtocolError, ShoalError
from shoal.kvstore import functions
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.table import Table
from shoal.kvstore.wire.messages import Call, Called, CallPart, Refused
from shoal.kvstore.wire.schema import listed

__all__ = ["Calls"]

_write_call, _read_call = listed(Call)
_write_called, _read_called = listed(Called)

KEPT = 16
"""Results of functions that write that are kept for the workers that have not asked yet, and for repetitions."""


class Calls:
    """The functions of one server.

    Args:
        table: its arrays.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._results: OrderedDict[tuple[int, int], tuple[Call, Called]] = OrderedDict()
        self.wrote = False  # whether the last call may have changed values

    def freeze(self) -> list[Any]:
        """The results that are kept, as plain data."""
        return [[_write_call(call), _write_called(called)] for call, called in self._results.values()]

    def thaw(self, data: list[Any]) -> None:
        """Keep the results that were frozen, or that have come with a slice."""
        for call, called in data:
            self._keep(_read_call(call), _read_called(called))

    def answer(self, core: ServerCore, m: Call) -> Called | Refused:
        """Run the function, unless it writes and has run.

        Raises:
            Exception: a function that writes has failed, so that nobody knows what it has written.
        """
        self.wrote = False
        try:
            function = functions.find(m.name, f"on server {core.rank}")
            if function.writes != (m.index >= 0):
                raise ConfigError(f"server function {m.name!r} is not the same on server {core.rank}: load one plug-in")
            self._check(core, m)
        except ShoalError as e:
            return Refused(seq=m.seq, error=type(e).__name__, text=f"call: {e}")
        if function.writes:
            return self._once(core, function, m)
        try:
            return self._run(core, function, m)
        except Exception as e:
            error, text = functions.remote_text(e, f"server function {m.name!r} failed on server {core.rank}")
            return Refused(seq=m.seq, error=error, text=text)

    def _once(self, core: ServerCore, function: functions.Function, m: Call) -> Called | Refused:
        newest = max((index for store, index in self._results if store == m.store), default=-1)
        if m.index < newest and (m.store, m.index) not in self._results:  # it has run long ago
            return Called(seq=m.seq, server=core.rank, results=(None,) * len(m.parts))
        first, called = self._results.get(
            (m.store, m.index), (replace(m, parts=()), Called(seq=0, server=0, results=()))
        )
        alike = (first.name, first.args) == (m.name, m.args) and (core.moves or first.parts in ((), m.parts))
        if not alike:
            text = (
                f"worker {m.worker} calls {m.name!r} with {m.args} on {len(m.parts)} parts; worker {first.worker} "
                f"called {first.name!r} with {first.args} on {len(first.parts)}. A function that writes is called by "
                "every worker, in the same way."
            )
            return Refused(seq=m.seq, error="ConfigError", text=text)
        missing = tuple(p for p in m.parts if p not in first.parts)
        if missing:  # all of them, or what has moved here since
            self.wrote = True
            for part in missing:
                self._table.touch(self._table.cells[part.slice])
            new = self._run(core, function, replace(m, parts=missing))
            first, called = self._keep(replace(first, parts=missing), new)
        found = dict(zip(first.parts, called.results, strict=True))
        return Called(seq=m.seq, server=core.rank, results=tuple(found[p] for p in m.parts))

    def _keep(self, m: Call, called: Called) -> tuple[Call, Called]:
        """Keep results, beside those of the same call that are kept already; all of them."""
        before = self._results.get((m.store, m.index))
        if before is not None:
            fresh = [i for i, p in enumerate(m.parts) if p not in before[0].parts]
            results = tuple(called.results[i] for i in fresh)
            m = replace(before[0], parts=(*before[0].parts, *(m.parts[i] for i in fresh)))
            called = replace(called, results=(*before[1].results, *results))
        self._results[m.store, m.index] = m, called
        while len(self._results) > KEPT:
            self._results.popitem(last=False)
        return m, called

    def of(self, slice_id: int) -> list[Any]:
        """What functions that write have returned for a slice, as plain data, for the server that it moves to."""
        told = []
        for m, called in self._results.values():
            mine = [i for i, p in enumerate(m.parts) if p.slice == slice_id]
            if mine:
                part = replace(m, parts=tuple(m.parts[i] for i in mine))
                results = tuple(called.results[i] for i in mine)
                told.append([_write_call(part), _write_called(replace(called, results=results))])
        return told

    def _run(self, core: ServerCore, function: functions.Function, m: Call) -> Called:
        results = tuple(self._part(core, function, m, part) for part in m.parts)
        functions.plain(results, f"server function {m.name!r}")
        return Called(seq=m.seq, server=core.rank, results=results)

    def _part(self, core: ServerCore, function: functions.Function, m: Call, part: CallPart) -> Any:
        entry, cell = core.entries[part.slice], self._table.cells[part.slice]
        seen = {"version": entry.version, "clock": entry.progress.floor, "args": m.args}
        return functions.run(function, part, cell.value, cell.state or {}, **seen)

    @staticmethod
    def _check(core: ServerCore, m: Call) -> None:
        for part in m.parts:
            entry = core.entries.get(part.slice)
            size = -1 if entry is None or entry.store != m.store else prod(entry.shape)
            if not 0 <= part.offset <= part.offset + part.stop - part.start <= size:
                raise RemoteProtocolError(f"elements {part.start}:{part.stop} of {part.key!r} are not in {part.slice}")
