"""Every exception that shoal raises on purpose.

    ShoalError
    ├── ShapeError(ValueError)           shapes do not fit; the message has both
    ├── DTypeError(TypeError)            dtypes do not fit; the message has both
    ├── DeferredInitializationError      a parameter was read before its shape was known
    ├── AutogradError                    there is no recorded graph to go through, or it would become wrong
    ├── GraphError                       a model cannot be traced, or a saved graph cannot be run
    ├── DataError                        a data set is missing or malformed
    ├── CheckpointError                  a saved file is missing, damaged, or of another model
    ├── ConfigError(ValueError)          an option is unknown, or two options contradict each other
    ├── DeviceError(ValueError)          arrays are on different devices; the message has the operator and both
    │   └── CaptureError                 what was asked of a GPU cannot be part of a recording
    ├── MembershipError                  the cluster is not, or no longer, what this process needs
    │   ├── NodeLostError                a process of the cluster died or fell silent; names it
    │   └── JoinRefusedError             the scheduler does not take this process in
    └── StoreError
        ├── KeyNotInitializedError(KeyError)   nobody has called ``init`` for the key
        ├── StaleWorkerError                   a newer incarnation of this worker exists
        ├── RemoteError                        a server failed to carry out a request; has its traceback
        ├── StoreTimeoutError(TimeoutError)    a wait passed its deadline; names who is waited for
        └── ProtocolError
            ├── LocalProtocolError             this process broke the protocol (a bug of ours)
            └── RemoteProtocolError            a peer sent something that is not the protocol

All can be pickled, so that launchers such as Ray can carry them.
"""

from collections.abc import Iterable

__all__ = [
    "AutogradError",
    "CaptureError",
    "CheckpointError",
    "ConfigError",
    "DTypeError",
    "DataError",
    "DeferredInitializationError",
    "DeviceError",
    "GraphError",
    "JoinRefusedError",
    "KeyNotInitializedError",
    "LocalProtocolError",
    "MembershipError",
    "NodeLostError",
    "ProtocolError",
    "RemoteError",
    "RemoteProtocolError",
    "ShapeError",
    "ShoalError",
    "StaleWorkerError",
    "StoreError",
    "StoreTimeoutError",
]


class ShoalError(Exception):
    """Root of the tree: catch this to catch everything that shoal raises on purpose."""

    def __str__(self) -> str:  # KeyError would print the repr of its message
        return " ".join(str(a) for a in self.args)


class ShapeError(ShoalError, ValueError):
    """Shapes do not fit; the message has both."""


class DTypeError(ShoalError, TypeError):
    """Dtypes do not fit; the message has both."""


class DeferredInitializationError(ShoalError):
    """A parameter was read before its shape was known: run one batch through the model first."""


class AutogradError(ShoalError):
    """There is no recorded graph to differentiate, it has been freed, or a write would make its gradients wrong."""


class GraphError(ShoalError):
    """A model cannot be traced into a graph, or a saved graph cannot be loaded or run."""


class DataError(ShoalError):
    """A data set is missing or malformed; the message has the command that gets it."""


class CheckpointError(ShoalError):
    """A saved file is missing, damaged, or belongs to another model."""


class ConfigError(ShoalError, ValueError):
    """An option is unknown, or two options contradict each other."""

    unregistered = False  # whether it is a name that another process may know


class DeviceError(ShoalError, ValueError):
    """Arrays are on different devices, or a device is asked for what it cannot do; names the operator and both."""


class CaptureError(DeviceError):
    """What was asked of a GPU cannot be part of a recording: new memory, waiting, a library that forbids it."""


class MembershipError(ShoalError):
    """The cluster is not, or no longer, what this process needs."""


class NodeLostError(MembershipError):
    """A process of the cluster died or fell silent; the message names it."""


class JoinRefusedError(MembershipError):
    """The scheduler does not take this process into the cluster; the message says why."""


class StoreError(ShoalError):
    """The key-value store could not do what was asked."""


class KeyNotInitializedError(StoreError, KeyError):
    """Nobody has called ``init`` for this key."""


class StaleWorkerError(StoreError):
    """A newer incarnation of this worker has joined; this one must stop."""


class RemoteError(StoreError):
    """A server failed to carry out a request; the message ends with the server's traceback."""


class StoreTimeoutError(StoreError, TimeoutError):
    """A wait passed its deadline; the message names who is waited for, the key and the clock."""


class ProtocolError(StoreError):
    """Somebody broke the protocol."""


class LocalProtocolError(ProtocolError):
    """This process broke the protocol: a bug in shoal."""


class RemoteProtocolError(ProtocolError):
    """A peer sent something that is not the protocol."""


def named(name: str, text: str, otherwise: type[ShoalError]) -> ShoalError:
    """The error that a peer has named by its class; a name that is not in `__all__` gives ``otherwise``."""
    cls = globals()[name] if name in __all__ else None
    return cls(text) if cls is not None else otherwise(f"{name}: {text}")


def meant(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The end of a message about an unknown name: which known one is near, or nothing.

    >>> meant("asyn", ["sync", "async"])
    ". Did you mean 'async'?"
    """
    import difflib  # only once something is wrong

    near = difflib.get_close_matches(name, list(known), 1, cutoff)
    return f". Did you mean {near[0]!r}?" if near else ""


def unregistered(text: str) -> ConfigError:
    """The error for a name that is not registered in this process, and may be in another one; see `lacking`."""
    error = ConfigError(text)
    error.unregistered = True
    return error


def lacking(error: BaseException, who: str = "a server") -> str:
    """The text of an error for another process, which may have registered what ``who``, this one, has not."""
    text = str(error)
    if not getattr(error, "unregistered", False):
        return text
    return (
        f"{text}{' ' if text.endswith('?') else '. '}That is what {who} knows, which does not run the training script: "
        "start every process with the file that registers the name, shoal run --plugin FILE"
    )


def noted(error: ShoalError, note: str) -> ShoalError:
    """``error`` with a note, such as the traceback of another process; it is shown below the message."""
    if note:
        error.add_note(note)
    return error


def again(error: ShoalError) -> ShoalError:
    """A new error of the same class, with the same text and notes: one that was raised has a traceback of its own."""
    made = type(error)(str(error))
    for note in getattr(error, "__notes__", ()):
        made.add_note(note)
    return made
