"""The command ``shoal keys``, and the options by which every other command is given a key."""

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.kvstore.wire.keys import Access

__all__ = ["access_of", "add_options", "key_options", "keys"]

YES = ("1", "yes", "on", "true")


def add_options(p: argparse.ArgumentParser) -> None:
    """What ``shoal keys`` takes."""
    p.add_argument("action", choices=("new", "show"), help="make a key, or say which one it is (never its secret)")
    p.add_argument("place", metavar="DIR", help="directory of the key")
    text = (
        "let containers read it that get it as a mounted secret and run as another user (file mode 0444, in DIR: 0700)"
    )
    p.add_argument("--container", action="store_true", help=text)


def keys(o: argparse.Namespace) -> int:
    """Make a key, or name one.

    Raises:
        ConfigError: see `new_keys` and `load_keys`.
    """
    from shoal.kvstore.wire.keys import load_keys, new_keys

    if o.action == "new":
        path = new_keys(o.place, container=o.container)
        print(
            f"{path}: key {load_keys(str(path)).name}, of whoever has this file: copy it to the cluster's machines only"
        )
    else:
        print(f"key {load_keys(o.place).name}")
    return 0


def key_options(p: argparse.ArgumentParser, *, listens: bool = True) -> None:
    """``--keys`` and, for a process that listens, ``--insecure``."""
    text = "the cluster's key: DIR of shoal keys new, or a file such as a mounted secret (default: $SHOAL_KEYS)"
    p.add_argument("--keys", metavar="DIR", default=os.environ.get("SHOAL_KEYS", ""), help=text)
    if listens:
        text = "listen without a key where other machines can reach this process (also SHOAL_INSECURE=1)"
        p.add_argument("--insecure", action="store_true", help=text, default=_said("SHOAL_INSECURE"))


def access_of(o: argparse.Namespace) -> "Access":
    """What those options say; with a key nobody else is let in, whatever else is said.

    Raises:
        ConfigError: the key cannot be read or used.
    """
    from shoal.kvstore.wire.keys import Access, load_keys

    return Access(load_keys(o.keys)) if o.keys else Access(None, bool(getattr(o, "insecure", False)))


def _said(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in YES
