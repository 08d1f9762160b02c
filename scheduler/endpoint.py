"""An HTTP endpoint at which Prometheus reads the numbers of this process: ``GET /metrics``."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from shoal.errors import ConfigError
from shoal.kvstore.exposition import CONTENT_TYPE, families, text
from shoal.scheduler.address import check_host

__all__ = ["Endpoint", "check_ports", "parse_endpoint"]

LOOPBACK = "127.0.0.1"

TIMEOUT_S = 5.0
"""How long a reader may take to ask, so that one that does not holds no thread for long."""


def parse_endpoint(place: str) -> tuple[str, int]:
    """Host and port of ``PORT``, which is on the loopback, or ``HOST:PORT``.

    >>> parse_endpoint("9100"), parse_endpoint("0.0.0.0:9100")
    (('127.0.0.1', 9100), ('0.0.0.0', 9100))

    Raises:
        ConfigError: it is neither.
    """
    host, _, port = place.strip().rpartition(":")
    if not port.isdecimal() or int(port) >= 1 << 16:
        raise ConfigError(f"metrics are read at PORT or HOST:PORT, such as 9100; got {place!r}")
    return check_host(host or LOOPBACK), int(port)


def check_ports(place: str, count: int) -> None:
    """Raise ConfigError unless so many processes can serve their metrics, each at the port behind the last one's."""
    _, port = parse_endpoint(place)
    if not 0 < port <= (1 << 16) - count:
        raise ConfigError(f"{count} processes serve metrics at {count} ports from {place}: give one from 1 to 65000")


class Endpoint:
    """Serves the numbers of this process, on threads of its own, until the process ends or `close` is called.

    Args:
        place: see `parse_endpoint`; port 0 lets the system choose.
    Raises:
        ConfigError: it cannot listen there.
    """

    def __init__(self, place: str) -> None:
        host, port = parse_endpoint(place)
        try:
            self._server = ThreadingHTTPServer((host, port), _Handler)
        except OSError as e:
            raise ConfigError(f"metrics cannot be served at {host}:{port}: {e.strerror}. Choose another port.") from e
        self._server.daemon_threads = True
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="shoal-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        if self.path.partition("?")[0] not in ("/metrics", "/"):
            self.send_error(404, "the metrics are at /metrics")
            return
        body = text(families()).encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Readers come all the time: not worth a line."""
