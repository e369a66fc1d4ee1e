"""Alerts against a real local server: what is posted, and that nothing about them can fail a run or leak."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipelines.environment import prepare

prepare()

from zenml import pipeline, step  # noqa: E402
from zenml.enums import ExecutionMode  # noqa: E402

from steps import alerts  # noqa: E402
from steps.alerts import WEBHOOK, announce, on_failure  # noqa: E402


class FakeAlerter:
    def __init__(self, error=None):
        self.told, self.error = [], error

    def post(self, message):
        if self.error:
            raise self.error
        self.told.append(message)
        return True


@pytest.fixture
def server():
    """Keeps what is posted; ``status`` is how it answers, "hang" not at all."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.received.append(json.loads(body))
            if made.status == "hang":
                done.wait(10)
                return
            self.send_response(made.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    done = threading.Event()
    made = HTTPServer(("127.0.0.1", 0), Handler)
    made.received, made.status = [], 200
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    done.set()
    made.shutdown()
    made.server_close()


@pytest.fixture
def webhook(server, monkeypatch):
    url = f"http://127.0.0.1:{server.server_port}/hooks/secret-token"
    monkeypatch.setenv(WEBHOOK, url)
    return url


def test_both_channels_are_told(server, webhook):
    alerter = FakeAlerter()
    announce("promotion", "version 2 is champion", {"model": "m"}, alerter)
    assert server.received == [{"text": "version 2 is champion", "event": "promotion", "model": "m"}]
    assert alerter.told == ["version 2 is champion"]


def test_without_channels_nothing_happens(server, monkeypatch):
    monkeypatch.delenv(WEBHOOK, raising=False)
    announce("promotion", "version 2 is champion", {})
    assert server.received == []


@pytest.mark.parametrize("status", [500, 404, "hang"])
def test_a_server_that_fails_or_hangs_fails_nothing_and_its_address_stays_secret(
    server, webhook, status, caplog, monkeypatch
):
    server.status = status
    monkeypatch.setattr(alerts, "TIMEOUT", 0.3)
    with caplog.at_level(logging.WARNING, "artiagent.alerts"):
        announce("failure", "x", {})
    assert "alert not delivered by the webhook" in caplog.text
    assert "secret-token" not in caplog.text and str(server.server_port) not in caplog.text


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://secret-token/", "http://127.0.0.1:1/secret-token", "http://["]
)
def test_bad_addresses_fail_nothing(url, monkeypatch, caplog):
    monkeypatch.setenv(WEBHOOK, url)
    with caplog.at_level(logging.WARNING, "artiagent.alerts"):
        announce("failure", "x", {})
    assert "alert not delivered by the webhook" in caplog.text
    assert "secret-token" not in caplog.text


def test_an_alerter_that_raises_does_not_keep_the_webhook_from_being_told(server, webhook, caplog):
    announce("promotion", "x", {}, FakeAlerter(RuntimeError("token abc")))
    assert len(server.received) == 1
    assert "alerter (RuntimeError)" in caplog.text and "abc" not in caplog.text


def test_the_hook_tells_the_error_in_brief(server, webhook):
    on_failure(ValueError("no usable input; " + "x" * 5000))
    (said,) = server.received
    assert said["event"] == "failure"
    assert said["text"].startswith("artiagent: failure: ValueError: no usable input")
    assert len(said["text"]) < 600


@step(enable_cache=False)
def breaks() -> None:
    raise ValueError("disk full")


@pipeline(
    name="artiagent_alert_test",
    on_failure=on_failure,
    enable_pipeline_logs=False,
    execution_mode=ExecutionMode.FAIL_FAST,
)  # fmt: skip
def failing() -> None:
    breaks()


def test_a_failing_step_of_a_pipeline_calls_the_hook(server, webhook):
    with pytest.raises(ValueError, match="disk full"):
        failing()
    assert [said["event"] for said in server.received] == ["failure"]
    said = server.received[0]
    assert said["pipeline"] == "artiagent_alert_test" and said["step"] == "breaks"
    assert "ValueError: disk full" in said["text"]
