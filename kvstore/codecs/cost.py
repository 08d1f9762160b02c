"""What compression costs a worker, what it saves, and whether that pays on the link that there is."""

from dataclasses import dataclass
from typing import Any

__all__ = ["Cost", "Link", "pays"]

LEAST_PUSHES, LEAST_S, LEAST_BYTES = 100, 0.25, 1 << 20
"""No verdict before so many slices were encoded, so long was spent on it, and so much has gone over the link."""

DOUBT = 1.5
"""A codec is said not to pay when it costs this many times what it saves."""


@dataclass(slots=True)
class Cost:
    """Seconds and bytes of one store on one worker. Written by one thread at a time; read by any."""

    encoded: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0
    saved_bytes: int = 0

    def sent(self, seconds: float, dense: int, encoded: int) -> None:
        """A slice was encoded: ``dense`` bytes became ``encoded``."""
        self.encoded += 1
        self.encode_s += seconds
        self.saved_bytes += dense - encoded

    def got(self, seconds: float, dense: int, encoded: int) -> None:
        """A value was decoded."""
        self.decode_s += seconds
        self.saved_bytes += dense - encoded

    def report(self, link: "Link") -> dict[str, Any]:
        """Plain data, for the run's report; what is not known yet is None."""
        speed = link.bytes_per_s
        return {
            "encode_s": self.encode_s,
            "decode_s": self.decode_s,
            "bytes_saved": self.saved_bytes,
            "time_saved_s": self.saved_bytes / speed if speed else None,
            "pays": self.pays(link),
        }

    def pays(self, link: "Link") -> bool | None:
        """Whether encoding and decoding take less time than sending the saved bytes would; None: not yet known."""
        if self.encoded < LEAST_PUSHES or link.acknowledged < LEAST_BYTES or not link.bytes_per_s:
            return None
        return pays(self.encode_s + self.decode_s, self.saved_bytes / link.bytes_per_s)

    def complaint(self, what: str, link: "Link") -> str:
        """What to tell the user about codec ``what`` if it does not pay; empty otherwise."""
        if self.pays(link) is not False:
            return ""
        spent, speed = self.encode_s + self.decode_s, link.bytes_per_s
        return (
            f"compression {what} does not pay here: this worker has spent {spent:.2f} s on it, and the "
            f"{self.saved_bytes / 1e6:.0f} MB that it saved would have taken {self.saved_bytes / speed:.2f} s at the "
            f"measured {speed / 1e9:.2f} GB/s. Without it the run would be faster, and its gradients exact."
        )


@dataclass(frozen=True, slots=True)
class Link:
    """What a worker knows of its way to the servers.

    Args:
        acknowledged: bytes of pushes that were acknowledged, and of values that came in answer to them.
        seconds: during which a push was under way. The servers' own work on it is in there, so that the link seems
            slower than it is, and a codec better.
    """

    acknowledged: int
    seconds: float

    @property
    def bytes_per_s(self) -> float:
        """Throughput; 0 if nothing is known."""
        return self.acknowledged / self.seconds if self.seconds > 0 else 0.0


def pays(spent_s: float, saved_s: float) -> bool | None:
    """Whether it is worth ``spent_s`` seconds of encoding and decoding to save ``saved_s`` of sending. In doubt it is;
    None: too soon to say.

    >>> pays(2.0, 1.0), pays(2.0, 10.0), pays(0.1, 0.0)
    (False, True, None)
    """
    return None if spent_s < LEAST_S else spent_s <= DOUBT * saved_s
