"""Notices that a machine is about to be taken away, as its cloud gives them: what is asked, and what answers mean.

Only `Lookout` asks; everything else is pure. Sources: AWS EC2 spot instance interruption notices (IMDSv2,
``spot/instance-action``), Google Compute Engine (``instance/preempted``), Azure scheduled events (``Preempt`` and
``Terminate``).
"""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple, TypeAlias

__all__ = ["CLOUDS", "Ask", "Lookout", "Notice", "fetch"]

PERIOD_S = 5.0
"""Between two questions; AWS advises this, and the shortest warning of all is 30 s."""

TIMEOUT_S = 1.0

GCP_S, AZURE_S = 30.0, 30.0
"""How long Google, and Azure at least, let a machine go on after the notice."""

DOUBTS = 3
"""So many questions without any answer, and this is no machine of that cloud."""


class Ask(NamedTuple):
    """A request to the machine's own metadata server."""

    url: str
    headers: Mapping[str, str] = {}
    method: str = "GET"


Fetch: TypeAlias = Callable[[Ask], tuple[int, str]]
"""Status and body; OSError if nobody answers."""


class Notice(NamedTuple):
    """A machine goes: in so many seconds, and why."""

    left_s: float
    why: str


AWS = "http://169.254.169.254/latest"
GCP = Ask("http://metadata.google.internal/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
AZURE = Ask("http://169.254.169.254/metadata/scheduledevents?api-version=2020-07-01", {"Metadata": "true"})


def aws(fetch: Fetch, now: datetime) -> Notice | None:
    """Of Amazon: 404 while there is none."""
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    status, token = fetch(Ask(f"{AWS}/api/token", ttl, "PUT"))
    if status != 200:
        raise OSError(f"the metadata server gives no token ({status})")
    status, body = fetch(Ask(f"{AWS}/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}))
    if status != 200:
        return None
    said = _json(body)
    if said.get("action") not in ("terminate", "stop", "hibernate"):
        return None
    at = _time(str(said.get("time", "")))
    left_s = (at - now).total_seconds() if at else 120.0
    return Notice(max(0.0, left_s), f"AWS takes the spot instance back ({said['action']})")


def gcp(fetch: Fetch, now: datetime) -> Notice | None:
    """Of Google: TRUE once the machine is being preempted."""
    status, body = fetch(GCP)
    if status != 200:
        raise OSError(f"the metadata server answers {status}")
    return Notice(GCP_S, "Google takes the spot VM back") if body.strip().upper() == "TRUE" else None


def azure(fetch: Fetch, now: datetime) -> Notice | None:
    """Of Microsoft: events, of which those count that end the machine."""
    status, body = fetch(AZURE)
    if status != 200:
        raise OSError(f"the metadata server answers {status}")
    events = _json(body).get("Events")
    for event in events if isinstance(events, list) else []:
        kind = event.get("EventType") if isinstance(event, dict) else None
        if kind in ("Preempt", "Terminate"):
            at = _time(str(event.get("NotBefore", "")))
            left_s = (at - now).total_seconds() if at else AZURE_S
            return Notice(max(0.0, left_s), f"Azure takes the VM back ({kind})")
    return None


CLOUDS: dict[str, Callable[[Fetch, datetime], Notice | None]] = {"aws": aws, "gcp": gcp, "azure": azure}


def _json(body: str) -> dict[str, object]:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _time(text: str) -> datetime | None:
    """As AWS (ISO) and Azure (as in mail) write it; None if it is neither."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            at = parse(text)
        except (ValueError, TypeError):
            continue
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return None


def fetch(ask: Ask) -> tuple[int, str]:
    """Ask for real, without any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(ask.url, headers=dict(ask.headers), method=ask.method)
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read(1 << 16).decode("utf-8", "replace")
    except urllib.error.HTTPError as e:
        with e:
            return e.code, ""


class Lookout:
    """Asks one machine's cloud, as often as it is called.

    Args:
        clouds: whose machine it may be; those that do not answer are soon asked no more.
        fetch: how to ask.
        clock: the time.
    """

    def __init__(
        self,
        clouds: tuple[str, ...] = tuple(CLOUDS),
        fetch: Fetch = fetch,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._fetch, self._clock = fetch, clock
        self._silent = dict.fromkeys(clouds, 0)
        self._known: set[str] = set()

    @property
    def idle(self) -> bool:
        """Whether there is nobody left to ask."""
        return not self._silent

    def look(self) -> Notice | None:
        """The notice, if there is one."""
        for cloud in list(self._silent):
            try:
                notice = CLOUDS[cloud](self._fetch, self._clock())
            except OSError:
                self._silent[cloud] += 1
                if cloud not in self._known and self._silent[cloud] >= DOUBTS:
                    del self._silent[cloud]
                continue
            self._known.add(cloud)
            if notice is not None:
                return notice
        return None
