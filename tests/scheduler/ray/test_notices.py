"""What clouds say before they take a machine away."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from shoal.scheduler.ray.notices import AWS, AZURE, DOUBTS, GCP, Ask, Lookout, Notice, fetch

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def cloud(**answers: tuple[int, str]) -> Callable[[Ask], tuple[int, str]]:
    """A metadata server that has these answers, by the end of the address; nobody at all without any."""

    def answer(ask: Ask) -> tuple[int, str]:
        if not answers:
            raise OSError("no route")
        end = ask.url.partition("?")[0].rpartition("/")[2].replace("-", "_")
        return answers.get(end, (404, ""))

    return answer


def look(name: str, fetch: Callable[[Ask], tuple[int, str]]) -> Notice | None:
    return Lookout((name,), fetch, lambda: NOW).look()


def test_amazon_says_when() -> None:
    said = cloud(token=(200, "t"), instance_action=(200, '{"action": "terminate", "time": "2026-01-02T03:06:05Z"}'))
    assert look("aws", said) == Notice(120.0, "AWS takes the spot instance back (terminate)")


def test_amazons_question_has_a_token() -> None:
    asked: list[Ask] = []

    def answer(ask: Ask) -> tuple[int, str]:
        asked.append(ask)
        return (200, "secret") if ask.method == "PUT" else (404, "")

    assert look("aws", answer) is None
    assert [a.url for a in asked] == [f"{AWS}/api/token", f"{AWS}/meta-data/spot/instance-action"]
    assert asked[1].headers == {"X-aws-ec2-metadata-token": "secret"}


def test_google_says_true() -> None:
    assert look("gcp", cloud(preempted=(200, "TRUE\n"))) == Notice(30.0, "Google takes the spot VM back")
    assert look("gcp", cloud(preempted=(200, "FALSE"))) is None
    assert GCP.headers == {"Metadata-Flavor": "Google"}


def test_microsoft_lists_events() -> None:
    events = (
        '{"Events": [{"EventType": "Freeze"}, {"EventType": "Preempt", "NotBefore": "Fri, 02 Jan 2026 03:04:35 GMT"}]}'
    )
    assert look("azure", cloud(scheduledevents=(200, events))) == Notice(30.0, "Azure takes the VM back (Preempt)")
    assert look("azure", cloud(scheduledevents=(200, '{"Events": [{"EventType": "Reboot"}]}'))) is None
    assert AZURE.headers == {"Metadata": "true"}


@pytest.mark.parametrize("body", ["", "[]", "no json", '{"Events": 3}', '{"Events": ["x"]}', '{"action": []}'])
@pytest.mark.parametrize("name", ["aws", "gcp", "azure"])
def test_an_answer_that_is_not_understood_is_no_notice(name: str, body: str) -> None:
    said = cloud(token=(200, "t"), instance_action=(200, body), preempted=(200, body), scheduledevents=(200, body))
    assert look(name, said) is None


def test_a_cloud_that_never_answers_is_soon_asked_no_more() -> None:
    lookout = Lookout(("aws", "gcp", "azure"), cloud(), lambda: NOW)
    for _ in range(DOUBTS):
        assert not lookout.idle
        assert lookout.look() is None
    assert lookout.idle


def test_a_cloud_that_has_answered_once_is_asked_on() -> None:
    answers: list[str] = ["FALSE", *[""] * 9, "TRUE"]

    def answer(ask: Ask) -> tuple[int, str]:
        body = answers.pop(0)
        if not body:
            raise OSError("busy")
        return 200, body

    lookout = Lookout(("gcp",), answer, lambda: NOW)
    assert [lookout.look() for _ in range(11)][-1] is not None


def test_questions_go_to_the_machines_own_metadata_server() -> None:
    seen: list[tuple[str, str | None]] = []

    class Metadata(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            seen.append((self.path, self.headers["A"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"token")

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/x"
        assert fetch(Ask(url, {"A": "b"}, "PUT")) == (200, "token")
        assert fetch(Ask(url)) == (404, "")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert seen == [("/x", "b")]
