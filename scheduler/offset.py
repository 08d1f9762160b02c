"""How far a process's clock is from the scheduler's, from the round trips of heartbeats (as NTP does, RFC 5905)."""

__all__ = ["DRIFT", "Offset"]

DRIFT = 50e-6
"""Two quartz clocks run apart by at most so many seconds a second: an estimate gets worse as it gets older."""


class Offset:
    """``value_s`` added to this process's clock gives the scheduler's; it is wrong by at most ``error_s``.

    The scheduler has read its clock between the heartbeat's leaving and the answer's coming: the middle is the best
    guess, half of the round trip its error. The shortest round trip tells most.
    """

    __slots__ = ("_at", "_term", "error_s", "trips", "value_s")

    def __init__(self) -> None:
        self.value_s, self.error_s, self.trips = 0.0, float("inf"), 0
        self._at, self._term = 0.0, 0

    def hear(self, sent: float, clock: float, now: float, term: int = 0) -> None:
        """An answer came ``now`` to what was ``sent`` then; ``clock`` is what the scheduler's clock said in between.

        Args:
            term: of the scheduler; one that has been restarted may have another clock.
        """
        if not (0.0 < sent <= now < float("inf") and 0.0 < clock < float("inf")):
            return  # nan is none of these
        if term != self._term:
            self.error_s, self._term = float("inf"), term
        self.trips += 1
        error_s = (now - sent) / 2
        if error_s <= self.error_s + DRIFT * (now - self._at):
            self.value_s, self.error_s, self._at = clock - (sent + now) / 2, error_s, now
