"""The cluster's key: a file with one secret, from which every process derives the same two pairs of CURVE keys.

Whoever has the secret belongs to the cluster. The pair of the listening side and that of the connecting side differ, so
that neither can be used in the other's place; a process needs both, because it may listen and connect.
"""

import hashlib
import ipaddress
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from shoal.errors import ConfigError

__all__ = ["FILE", "LOOPBACK", "Access", "Keys", "load_keys", "new_keys", "on_loopback"]

FILE = "cluster.key"
"""Name of the file in a directory of keys."""

SECRET_BYTES = 32

MOUNTS = ("/run/secrets/", "/var/run/secrets/")
"""Where a container finds its secrets. Nobody else is in it, and runtimes set the modes there themselves."""

_MAX_FILE_BYTES = 4096
_SECRET = re.compile(rf"[0-9a-fA-F]{{{2 * SECRET_BYTES}}}")


@dataclass(frozen=True, slots=True)
class Keys:
    """A cluster's secret (32 bytes), and what is derived from it."""

    secret: bytes = field(repr=False)

    def derive(self, side: str) -> bytes:
        """The secret Curve25519 key of one side, 32 bytes.

        Args:
            side: "listen" or "connect".
        """
        return hashlib.blake2b(side.encode(), digest_size=SECRET_BYTES, key=self.secret, person=b"shoal curve").digest()

    @property
    def name(self) -> str:
        """Eight hex digits that tell keys apart, and from which nothing else follows; for logs."""
        return hashlib.blake2b(key=self.secret, digest_size=4, person=b"shoal name").hexdigest()


@dataclass(frozen=True, slots=True)
class Access:
    """Who may reach the listening sockets of a process.

    Args:
        keys: those who have the same; None for everybody who can reach the address.
        insecure: without keys, listen on addresses that other machines reach too.
    """

    keys: Keys | None = None
    insecure: bool = False

    def check(self, host: str) -> None:
        """Raise ConfigError if other machines could reach ``host``, without a key."""
        if self.keys is None and not self.insecure and not on_loopback(host):
            raise ConfigError(
                f"listening on {host} without a key would let in everybody who can reach it. Make one (shoal keys new "
                "DIR), copy DIR to the other machines, and start every process with --keys DIR (SHOAL_KEYS); or say "
                "--insecure, in a network that you trust."
            )


LOOPBACK = Access()
"""Everybody, on the loopback only."""


def on_loopback(host: str) -> bool:
    """Whether only processes of this machine reach ``host``; a name other than localhost counts as an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_keys(directory: str, *, container: bool = False) -> Path:
    """Write a new secret to ``directory``/cluster.key; the file.

    Args:
        container: let containers read it that run as another user and get it as a mounted secret (mode 0444); it is
            then the directory (0700) that keeps others of this machine from it.
    Raises:
        ConfigError: there is one already, others can look into the directory, or it cannot be written.
    """
    path = Path(directory) / FILE
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(path.parent.stat().st_mode) & 0o077:
            raise ConfigError(f"others can look into {path.parent}: chmod 700 {path.parent}, or name a new directory")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as e:
        raise ConfigError(
            f"{path} is there already, and a run may be using it: name another directory, or remove it first"
        ) from e
    except OSError as e:
        raise ConfigError(f"a key cannot be written to {path}: {e.strerror or e}") from e
    with os.fdopen(fd, "w") as f:
        f.write(f"# key of a shoal cluster: whoever can read this file can join\n{secrets.token_hex(SECRET_BYTES)}\n")
        f.flush()
        os.fsync(f.fileno())
        os.fchmod(f.fileno(), 0o444 if container else 0o600)
    return path


def load_keys(path: str) -> Keys:
    """The key in a file, or in the directory that `new_keys` has made.

    Raises:
        ConfigError: there is none, others can read it (says what to do), or it is no key.
    """
    file = Path(path) / FILE if os.path.isdir(path) else Path(path)
    try:
        with open(file, "rb") as f:
            info = os.fstat(f.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise ConfigError(f"{file} is not a file with a key")
            _check_private(file, info)
            text = f.read(_MAX_FILE_BYTES).decode("ascii", "replace")
    except OSError as e:
        raise ConfigError(
            f"no key can be read from {file}: {e.strerror or e}. Make one with: shoal keys new DIR"
        ) from e
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1 or not _SECRET.fullmatch(lines[0]):
        raise ConfigError(
            f"{file} holds no key: expected one line of {2 * SECRET_BYTES} hex digits, as of shoal keys new"
        )
    return Keys(bytes.fromhex(lines[0]))


def _check_private(file: Path, info: os.stat_result) -> None:
    """Nobody but the owner may get at the file: by its mode, or by that of its directory."""
    if os.path.realpath(file).startswith(MOUNTS):
        return
    if info.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"the key {file} belongs to user {info.st_uid}, who can read and change it: chown it, or copy it"
        )
    mode = stat.S_IMODE(info.st_mode)
    if mode & 0o022 or (mode & 0o055 and stat.S_IMODE(file.parent.stat().st_mode) & 0o077):
        raise ConfigError(f"others can get at the key {file} (mode {mode:04o}): chmod 600 {file}")
