"""Payloads by reference: between processes of one host only the header travels, the array stays where it lies.

How two transports come to share memory: the listening one offers a unix socket with an abstract name (which exists in
one network namespace only) and a token; the other one connects to it. The kernel tells each the other's user id, which
must be its own. Then each passes its regions (`shoal.kvstore.wire.shm`) through that socket, and the other confirms
those that it has mapped. Whatever fails, at whatever moment: the payloads travel in the message, as between hosts.

From then on a payload that lies in a confirmed region is not sent, and small messages take the unix socket between the
two: that is one system call, where ZeroMQ takes two threads. The header of its message is then preceded by
``0xC1``, with which no header begins, and by where the payloads lie: ``0xC1, n, n * (index, region, offset, length)``.
"""

import logging
import os
import secrets
import socket
import struct
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from shoal.errors import RemoteProtocolError
from shoal.kvstore.eventlog import event
from shoal.kvstore.wire.arena import Arena, Block
from shoal.kvstore.wire.packet import PACK_BYTES, PACK_FRAMES, pack, size_of
from shoal.kvstore.wire.shm import NONCE_BYTES, Mapped, Region, address_of

__all__ = ["MIN_BYTES", "Sharing", "switched_off"]

log = logging.getLogger("shoal.wire")

MIN_BYTES = 4096
"""Smaller payloads travel in the message: that takes no longer than finding out where they lie."""

LIMIT_BYTES = 1 << 40
"""Most that one process shares; what the machine and its container have left is the narrower bound."""

MAX_REGIONS = 1024
"""Regions of one peer that are mapped; more than any honest peer makes."""

MAX_STRANGERS = 64
"""Connections whose token has not come yet; a further one is closed."""

BURST = 64
"""Packets of one peer that are read at once, so that it cannot starve the others or the clock."""

PACKET_BYTES = 2 * PACK_BYTES
"""Longer ones are cut, and malformed by that."""

TAG = 0xC1
_HEAD = struct.Struct("<BB")
_REFERENCE = struct.Struct("<BIQQ")
_ANNOUNCE = struct.Struct(f"<cIQ{NONCE_BYTES}s")
_CONFIRM = struct.Struct("<cI")
_TOKEN_BYTES = 16
_MESSAGE = b"M\0\0\0\0\0\0\0"  # in front of a message: eight bytes, so that arrays in it stay aligned
_AT = len(_MESSAGE)
_REFERS = bytes([TAG])
_FDS_BYTES = socket.CMSG_SPACE(4 * array("i").itemsize)
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def switched_off() -> bool:
    """Whether the user wants no shared memory (``SHOAL_SHM=0``)."""
    return os.environ.get("SHOAL_SHM", "").strip().lower() in ("0", "no", "off", "false")


@dataclass(eq=False)
class _Link:
    """What is shared with one peer."""

    sock: socket.socket
    peer: str = ""  # "" until its token has come
    taken_up: bool = False  # it is this side that has connected
    announced: set[int] = field(default_factory=set)
    confirmed: set[int] = field(default_factory=set)  # regions of ours that the peer has mapped
    theirs: dict[int, Mapped] = field(default_factory=dict)


class Sharing:
    """What one transport shares with its peers. On the transport's thread, but for `arena`.

    Args:
        watch, unwatch: begin and end to call `readable` when a file descriptor is.
        limit_bytes: most that this process shares; 0 for nothing at all.
    """

    def __init__(
        self, watch: Callable[[int], None], unwatch: Callable[[int], None], limit_bytes: int = LIMIT_BYTES
    ) -> None:
        self.arena = Arena(0 if switched_off() else limit_bytes)
        self._watch, self._unwatch = watch, unwatch
        self._listener: socket.socket | None = None
        self._tokens: dict[bytes, str] = {}
        self._sockets: dict[int, _Link] = {}
        self._links: dict[str, _Link] = {}
        self.broken: set[str] = set()  # peers whose offer was taken up, and whose link has ended by itself since
        self._small: list[tuple[str, bytes]] = []  # messages that have come, by sender
        self._large: deque[tuple[str, bytes]] = deque()  # ... with references
        self.spared_bytes = 0  # of payloads that were left out of messages, in both directions

    # --- how a link comes about ---------------------------------------------------------------------------------------

    def offer(self, peer: str) -> tuple[str, str]:
        """Name and token with which ``peer`` may connect, once; two empty strings if nothing is shared here.

        A peer that asks again before it has connected is told the same: it may be connecting with what it has.
        """
        if self.arena.refusal or not self.arena.limit_bytes or not self._listen():
            return "", ""
        assert self._listener is not None
        token = next((t for t, p in self._tokens.items() if p == peer), None) or secrets.token_bytes(_TOKEN_BYTES)
        self._tokens[token] = peer
        return self._listener.getsockname()[1:].decode(), token.hex()

    def accept(self, peer: str, name: str, token: str) -> None:
        """Take up the offer of ``peer``. That it fails, as it must between hosts, is no error."""
        self.drop(peer)
        if not name or self.arena.refusal or not self.arena.limit_bytes:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            sock.connect(f"\0{name}")
            _check_user(sock)
            sock.send(bytes.fromhex(token))
        except (OSError, ValueError) as e:
            sock.close()
            log.debug("no shared memory with %s, its payloads travel by TCP: %s", peer, e)
            return
        link = self._attend(sock)
        link.taken_up = True
        self._join(link, peer)

    def drop(self, peer: str) -> None:
        """Share nothing with ``peer`` any more; arrays that were read from its memory stay valid."""
        self.broken.discard(peer)
        link = self._links.get(peer)
        if link is not None:
            self._end(link, "", wanted=True)

    def shares(self, peer: str) -> bool:
        """Whether there is a link to ``peer``."""
        return peer in self._links

    def peers(self) -> list[str]:
        """With whom memory is shared now."""
        return list(self._links)

    def close(self) -> None:
        """End every link; arrays stay valid, and nothing is shared any more."""
        for link in list(self._sockets.values()):
            self._end(link, "", wanted=True)
        if self._listener is not None:
            self._unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None
        self.arena.close()

    def _listen(self) -> bool:
        if self._listener is not None:
            return True
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        except OSError as e:
            self.arena.refusal = f"no unix socket: {e}"
            return False
        try:
            listener.bind(f"\0shoal-{secrets.token_hex(16)}")
            listener.listen(128)
        except OSError as e:
            listener.close()
            self.arena.refusal = f"no unix socket with an abstract name: {e}"
            log.info("memory is not shared: %s", self.arena.refusal)
            return False
        self._listener = listener
        self._watch(listener.fileno())
        return True

    def _attend(self, sock: socket.socket) -> _Link:
        link = self._sockets[sock.fileno()] = _Link(sock)
        self._watch(sock.fileno())
        return link

    def _join(self, link: _Link, peer: str) -> None:
        self.drop(peer)
        link.peer, self._links[peer] = peer, link
        for region in list(self.arena.regions):
            self._announce(link, region)

    def _end(self, link: _Link, reason: str, wanted: bool = False) -> None:
        if self._sockets.pop(link.sock.fileno(), None) is None:
            return
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            if link.taken_up and not wanted:
                self.broken.add(link.peer)
        self._unwatch(link.sock.fileno())
        link.sock.close()
        if reason:
            text, peer = "memory is no longer shared with %s, its payloads travel by TCP: %s", link.peer or "?"
            log.info(text, peer, reason, extra=event("memory link ended", reason, peer=peer))

    # --- what comes through its socket --------------------------------------------------------------------------------

    def readable(self, fd: int) -> None:
        """Something has come: a connection, a token, a region or a confirmation."""
        link = self._sockets.get(fd)
        if link is None:
            self._admit()
            return
        try:
            for _ in range(BURST):
                if self._sockets.get(fd) is not link or not self._read(link):
                    return
        except (OSError, ValueError, struct.error) as e:
            self._end(link, str(e))

    def _admit(self) -> None:
        assert self._listener is not None
        with suppress(OSError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            try:
                _check_user(sock)
                if sum(not x.peer for x in self._sockets.values()) >= MAX_STRANGERS:
                    raise OSError("too many connections that say nothing")
            except OSError as e:
                sock.close()
                log.info("a process that wants to share memory is turned away: %s", e)
                return
            self._attend(sock)

    def _read(self, link: _Link) -> bool:
        """Take one packet; false if there is none."""
        try:
            data, beside, flags, _ = link.sock.recvmsg(PACKET_BYTES, _FDS_BYTES, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        if data[:1] == b"M" and link.peer and not beside:
            (self._large if data[_AT : _AT + 1] == _REFERS else self._small).append((link.peer, data))
            return True
        fds = [fd for _, kind, raw in beside if kind == socket.SCM_RIGHTS for fd in _fds(raw)]
        try:
            if not data:
                self._end(link, "")  # the peer has ended
                return False
            if flags & socket.MSG_CTRUNC:
                raise OSError("this process may not open more files")
            self._understand(link, data, fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _understand(self, link: _Link, data: bytes, fds: list[int]) -> None:
        if not link.peer:
            peer = self._tokens.pop(data, "")
            if not peer:
                raise ValueError("an unknown token")
            self._join(link, peer)
            log.debug("memory is shared with %s", peer, extra=event("memory link", "both are on one host", peer=peer))
        elif data[:1] == b"R" and len(fds) == 1:
            self._map(link, data, fds.pop())
        elif data[:1] == b"C":
            link.confirmed.add(_CONFIRM.unpack(data)[1])
        else:
            raise ValueError("something that is neither a region nor a confirmation")

    def _map(self, link: _Link, packet: bytes, fd: int) -> None:
        _, number, size, nonce = _ANNOUNCE.unpack(packet)
        mapped = Mapped(fd, size, nonce)
        if number in link.theirs or len(link.theirs) >= MAX_REGIONS:
            raise ValueError(f"region {number} twice, or more than {MAX_REGIONS}")
        link.theirs[number] = mapped
        link.sock.send(_CONFIRM.pack(b"C", number))

    def _announce(self, link: _Link, region: Region) -> None:
        link.announced.add(region.number)
        packet = _ANNOUNCE.pack(b"R", region.number, region.size, region.nonce)
        try:
            socket.send_fds(link.sock, [packet], [region.fd])
        except OSError as e:
            self._end(link, f"region {region.number} cannot be passed: {e}")

    # --- small messages -----------------------------------------------------------------------------------------------

    def ring(self, peer: str, frames: list[Any]) -> bool:
        """Give ``peer`` a small message through the socket between the two; false if it must go another way."""
        link = self._links.get(peer)
        if link is None or len(frames) > PACK_FRAMES or sum(map(size_of, frames)) > PACK_BYTES:
            return False
        try:
            link.sock.send(_MESSAGE + (frames[0] if len(frames) == 1 else pack(frames)))
        except BlockingIOError:  # it does not read
            return False
        except OSError as e:
            self._end(link, str(e))
            return False
        return True

    @property
    def filled(self) -> bool:
        """Whether `take` has something."""
        return bool(self._large or self._small)

    def take(self) -> Iterator[tuple[str, list[list[Any]]]]:
        """What came through those sockets: peers and their messages, each of one frame, as it was sent.

        Those with references, which stand for large payloads, come last, and one at a time: the others overtake them.
        """
        if self._small:
            small, self._small = self._small, []
            for peer, data in small:
                yield peer, [[memoryview(data)[_AT:]]]
        if self._large:
            peer, data = self._large.popleft()
            yield peer, [[memoryview(data)[_AT:]]]

    # --- payloads -----------------------------------------------------------------------------------------------------

    def place(self, peer: str, nbytes: int) -> Block | None:
        """Memory from which ``peer`` will read ``nbytes`` by reference; None if they must travel."""
        link = self._links.get(peer)
        if link is None or nbytes < MIN_BYTES:
            return None
        block = self.arena.allocate(nbytes)
        return block if block is not None and self._knows(link, block.region) else None

    def refer(self, peer: str, frames: list[Any]) -> list[Any]:
        """The frames to send instead of ``frames`` (header, payloads): those that ``peer`` can read are left out."""
        link = self._links.get(peer)
        if link is None or len(frames) < 2:
            return frames
        references, left = [], []
        for index, frame in enumerate(frames[1:256]):
            found = self._locate(link, frame)
            if found is None:
                left.append(frame)
            else:
                self.spared_bytes += found[2]
                references.append(_REFERENCE.pack(index, *found))
        if not references:
            return frames
        head = b"".join((_HEAD.pack(TAG, len(references)), *references, frames[0]))
        return [head, *left, *frames[256:]]

    def _locate(self, link: _Link, frame: Any) -> tuple[int, int, int] | None:
        nbytes = size_of(frame)
        if nbytes < MIN_BYTES:
            return None
        found = self.arena.find(address_of(frame), nbytes)
        if found is None or not self._knows(link, found[0]):
            return None
        return found[0].number, found[1], nbytes

    def _knows(self, link: _Link, region: Region) -> bool:
        """Whether the peer has mapped the region; if it has not heard of it, it does now."""
        if region.number in link.confirmed:
            return True
        if region.number not in link.announced:
            self._announce(link, region)
        return False

    def resolve(self, peer: str, frames: Sequence[Any]) -> Sequence[Any]:
        """The message that `refer` made ``frames`` of: payloads that were left out are views of the peer's memory.

        Raises:
            RemoteProtocolError: a reference to what this peer does not share.
        """
        if not frames or len(frames[0]) < 2 or frames[0][0] != TAG:
            return frames
        head = memoryview(frames[0])
        stop = _HEAD.size + head[1] * _REFERENCE.size
        if head.nbytes < stop:
            raise RemoteProtocolError(f"a header of {head.nbytes} bytes with {head[1]} references")
        payloads = list(frames[1:])
        for index, region, offset, length in _REFERENCE.iter_unpack(head[_HEAD.size : stop]):
            if index > len(payloads):
                raise RemoteProtocolError(f"a reference for payload {index} of {len(payloads)}")
            payloads.insert(index, self._view(peer, region, offset, length))
            self.spared_bytes += length
        return [head[stop:], *payloads]

    def locate(self, address: int, nbytes: int) -> tuple[Mapped, int] | None:
        """The region of a peer in which these bytes of this process's memory lie, and where; None if in none."""
        for link in self._links.values():
            for mapped in link.theirs.values():
                offset = address - mapped.address
                if offset >= 0 and offset + nbytes <= mapped.size:
                    return mapped, offset
        return None

    def _view(self, peer: str, region: int, offset: int, length: int) -> memoryview:
        link = self._links.get(peer)
        mapped = link.theirs.get(region) if link is not None else None
        if mapped is None:
            raise RemoteProtocolError(f"a reference to region {region}, which {peer} does not share")
        if offset + length > mapped.size:
            raise RemoteProtocolError(f"a reference to {length} bytes at {offset} of a region of {mapped.size}")
        return mapped.view[offset : offset + length]


def _fds(raw: bytes) -> list[int]:
    fds = array("i")
    fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    return fds.tolist()


def _check_user(sock: socket.socket) -> None:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid = _CREDENTIALS.unpack(raw)[1]
    if uid != os.geteuid():
        raise OSError(f"it runs as user {uid}, this process as {os.geteuid()}")
