"""The machines of a run, as a hosts file names them, and who is started on which of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shoal.errors import ConfigError

__all__ = ["Host", "assign", "parse_hosts", "read_hosts"]

FIELDS = ("slots", "servers", "python", "dir", "address")

_NAME = re.compile(r"(?:(?P<user>[\w.+-]+)@)?(?P<name>[A-Za-z0-9][\w.-]*)(?::(?P<port>\d+))?")


@dataclass(frozen=True, slots=True)
class Host:
    """One machine.

    Args:
        name: what it is called, or its IPv4 address; for ssh also an alias of the user's ssh configuration.
        user: who logs in; "" for whoever ssh would take.
        port: of its ssh server; 0 for the one that ssh would take.
        slots: how many workers it takes.
        servers: how many servers, replicas counted, it takes; -1 for as many as there are to spread.
        python: the program that runs shoal there; "" for the launcher's.
        dir: directory of the job there; "" for one that the launcher chooses.
        address: host under which the others reach it, where it differs from the one that faces the scheduler.
    """

    name: str
    user: str = ""
    port: int = 0
    slots: int = 1
    servers: int = -1
    python: str = ""
    dir: str = ""
    address: str = ""

    @property
    def login(self) -> str:
        """As ssh and rsync want it."""
        return f"{self.user}@{self.name}" if self.user else self.name

    def __str__(self) -> str:
        return f"{self.name}:{self.port}" if self.port else self.name


def read_hosts(path: str) -> tuple[Host, ...]:
    """The machines of a hosts file; see `parse_hosts`.

    Raises:
        ConfigError: it cannot be read, or a line of it is not understood.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is no text"
        raise ConfigError(f"hosts file {path!r} cannot be read: {why}") from e
    return parse_hosts(text, path)


def parse_hosts(text: str, path: str = "hosts.txt") -> tuple[Host, ...]:
    """One machine a line: ``[user@]host[:port] [slots=4] [servers=1] [python=...] [dir=...] [address=...]``.

    >>> parse_hosts("ada@node1:2222 slots=4  # the large one")[0].login
    'ada@node1'

    Raises:
        ConfigError: a line is not understood, says something twice, or names a machine again; or there is none.
    """
    hosts: list[Host] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            host = _host(words, f"{path}:{number}")
            if any((h.login, h.port) == (host.login, host.port) for h in hosts):
                raise ConfigError(f"{path}:{number}: {host} is there already; give it more slots instead")
            hosts.append(host)
    if not hosts:
        raise ConfigError(f"{path} names no host; expected lines such as: ada@node1 slots=4")
    return tuple(hosts)


def _host(words: Sequence[str], where: str) -> Host:
    found = _NAME.fullmatch(words[0])
    if found is None:
        raise ConfigError(f"{where}: expected [user@]host[:port], got {words[0]!r}")
    port = int(found["port"] or 0)
    if found["port"] and not 0 < port < 1 << 16:
        raise ConfigError(f"{where}: expected a port, 1 to 65535, got {found['port']}")
    said: dict[str, str] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals or not value or name not in FIELDS:
            raise ConfigError(f"{where}: expected NAME=VALUE with a name of {', '.join(FIELDS)}; got {word!r}")
        if name in said:
            raise ConfigError(f"{where}: {name} is given twice")
        said[name] = value
    slots, servers = _number(said, "slots", 1, where), _number(said, "servers", -1, where)
    texts = {n: said.get(n, "") for n in ("python", "dir", "address")}
    return Host(found["name"], found["user"] or "", port, slots, servers, **texts)


def _number(said: Mapping[str, str], name: str, default: int, where: str) -> int:
    text = said.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise ConfigError(f"{where}: {name} is a number of processes, 0 or more; got {text!r}")
    return int(text)


@dataclass(slots=True)
class _Room:
    """What is left of the hosts while processes are assigned."""

    hosts: tuple[Host, ...]
    held: dict[Host, int] = field(default_factory=dict)

    def spread(self, what: str, apart: Host | None = None) -> Host:
        """The host for one more server: the one with the fewest, in the order of the file, not ``apart``."""
        able = [h for h in self.hosts if h.servers < 0 or self.held.get(h, 0) < h.servers]
        able = [h for h in able if h != apart] or able
        if not able:
            raise ConfigError(f"no host is left for {what}: raise servers= in the hosts file, or leave it out")
        host = min(able, key=lambda h: self.held.get(h, 0))
        self.held[host] = self.held.get(host, 0) + 1
        return host


def assign(hosts: Sequence[Host], workers: int, servers: int, replicas: int = 0) -> dict[str, Host]:
    """Where each process is started, by name ("worker 0", "server 1", "replica 1").

    Workers fill the slots of each host, in the order of the file; servers are spread, and a replica is on another host
    than its server as far as there is another one.

    >>> got = assign(parse_hosts("a slots=2\\nb slots=1"), workers=3, servers=1)
    >>> {name: str(host) for name, host in got.items()}
    {'server 0': 'a', 'worker 0': 'a', 'worker 1': 'a', 'worker 2': 'b'}

    Raises:
        ConfigError: there are not enough slots.
    """
    slots = [h for h in hosts for _ in range(h.slots)]
    if workers > len(slots):
        told = ", ".join(f"{h} {h.slots}" for h in hosts)
        raise ConfigError(f"{workers} workers need {workers} slots, and the hosts have {len(slots)} ({told})")
    room, placed = _Room(tuple(hosts)), {}
    for rank in range(servers):
        placed[f"server {rank}"] = room.spread(f"server {rank}")
    for rank in range(servers * replicas):
        placed[f"replica {rank}"] = room.spread(f"the replica of server {rank}", apart=placed[f"server {rank}"])
    return placed | {f"worker {rank}": slots[rank] for rank in range(workers)}
