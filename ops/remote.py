"""Files at URLs: ``s3://``, ``gs://``, ``abfs://``, ``file://``, ``memory://``, and whatever else fsspec can open.

An object is published whole or not at all, without a rename, which object stores do not have: it is made here and sent
by one request (several parts that one request completes, if it is large), and the stores show it when that has
succeeded. ``file://`` is a rename on a local disk. Who reads checks what he has read all the same (`ops.tensorfile`).
"""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shoal.errors import CheckpointError, ConfigError

__all__ = ["check", "fetch", "fetched", "is_url", "join", "listing", "publish", "remove"]

PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "hf": "huggingface_hub",
}
"""By protocol, the package that fsspec needs for it; ``shoal[cloud]`` brings the first three."""

LOCAL = "file://"


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether this names an object at a URL, not a file.

    >>> is_url("s3://bucket/a"), is_url("/tmp/a"), is_url("a:b")
    (True, False, False)
    """
    scheme, found, _ = os.fspath(path).partition("://")
    return bool(found) and scheme.isalnum()


def join(url: str, name: str) -> str:
    """An object below a URL.

    >>> join("s3://bucket/run/", "a"), join("/tmp/run", "a")
    ('s3://bucket/run/a', '/tmp/run/a')
    """
    return f"{url.rstrip('/')}/{name}"


def check(url: str) -> None:
    """Raise ConfigError if this machine lacks what the protocol of ``url`` needs. Nothing is asked of the store."""
    _system(url)


def publish(local: str | os.PathLike[str], url: str) -> None:
    """Put a copy of a file of this machine at ``url``, in one step; what was there before is replaced.

    Raises:
        CheckpointError: the store refuses; what was there before is still there.
        ConfigError: the protocol is unknown, or its package is not installed.
    """
    if url.startswith(LOCAL):
        return _publish_here(Path(local), Path(url.removeprefix(LOCAL)))
    with _failing(f"cannot write {url!r}"):
        _system(url).put_file(os.fspath(local), url)


def fetch(url: str, folder: str | os.PathLike[str] = "") -> Path:
    """A copy of an object on this machine, which stays: for data. Once it is there it is not fetched again.

    Args:
        url: of the object; a path of this machine is returned as it is.
        folder: where copies are kept; ``$SHOAL_CACHE``, or shoal in the user's cache, if not given.
    Raises:
        CheckpointError: there is no such object, or less of it came than the store says it has.
        ConfigError: the protocol is unknown, or its package is not installed.
    """
    if not is_url(url):
        return Path(url)
    base = folder or os.environ.get("SHOAL_CACHE") or Path("~/.cache/shoal/objects").expanduser()
    target = Path(base) / url.replace("://", "/").lstrip("/")
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with fetched(url, target.parent) as copy:
            os.replace(copy, target)
    return target


@contextmanager
def fetched(url: str, folder: str | os.PathLike[str] = "") -> Iterator[Path]:
    """A copy of an object on this machine, which is removed afterwards unless it was moved away.

    Raises:
        CheckpointError, ConfigError: see `fetch`.
    """
    system = _system(url)
    handle, name = tempfile.mkstemp(prefix=".shoal-", dir=folder or None)
    os.close(handle)
    try:
        with _failing(f"cannot read {url!r}"):
            size = int(system.info(url)["size"])
            system.get_file(url, name)
            came = os.path.getsize(name)
        if came != size:
            raise CheckpointError(f"cannot read {url!r}: {came} bytes of {size} came. Try again.")
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def listing(url: str) -> list[str]:
    """Names of the objects directly below ``url``, sorted; none if there is no such place.

    Raises:
        CheckpointError: the store refuses.
        ConfigError: see `fetch`.
    """
    system = _system(url)
    with _failing(f"cannot list {url!r}"):
        system.invalidate_cache()
        try:
            found = system.ls(url, detail=False)
        except FileNotFoundError:
            return []
    return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found)


def remove(url: str) -> None:
    """Remove an object; it is no error if there is none.

    Raises:
        CheckpointError: the store refuses.
        ConfigError: see `fetch`.
    """
    with _failing(f"cannot remove {url!r}"):
        try:
            _system(url).rm_file(url)
        except FileNotFoundError:
            return


def _publish_here(local: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(local.read_bytes())
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, target)
    except OSError as e:
        raise CheckpointError(f"cannot write 'file://{target}': {e}") from e
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _system(url: str) -> Any:
    """The file system of a protocol; keys and regions are those of the environment."""
    protocol = url.partition("://")[0]
    try:
        import fsspec
    except ImportError as e:
        raise ConfigError(f"{url!r} needs the package fsspec: pip install 'shoal[cloud]'") from e
    try:
        return fsspec.filesystem(protocol)
    except ImportError as e:
        package = PACKAGES.get(protocol, "")
        what = f"pip install {package}, or 'shoal[cloud]'" if package else str(e)
        raise ConfigError(f"{url!r} needs a package that is not installed: {what}") from e
    except ValueError as e:
        raise ConfigError(f"{url!r}: unknown protocol {protocol!r}; known are {', '.join(PACKAGES)}, file") from e


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """What a store's package raises, as our own error: every one has its own, and none is ours to know."""
    try:
        yield
    except (CheckpointError, ConfigError):
        raise
    except FileNotFoundError as e:
        raise CheckpointError(f"{what}: there is no such object, bucket or container") from e
    except Exception as e:
        raise CheckpointError(f"{what}: {type(e).__name__}: {e}") from e
