"""A child process that serves: told when it is ready, ended with its parent, its exit code passed on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from artiagent.serving.address import is_healthy
from artiagent.serving.process import require_free, run_server
from tests.vlm.servers import free_port

SERVER = """
import http.server, signal, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
if sys.argv[3] == "deaf": signal.signal(signal.SIGINT, signal.SIG_IGN)
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
if sys.argv[2] != "-": threading.Timer(float(sys.argv[2]), lambda: server.shutdown()).start()
try: server.serve_forever()
except KeyboardInterrupt: sys.exit(0)
sys.exit(7)
"""


def command(port: int, ends_after: str = "-", hears: str = "hears") -> list[str]:
    return [sys.executable, "-c", SERVER, str(port), ends_after, hears]


def test_the_servers_own_exit_code_comes_back() -> None:
    port, told = free_port(), []
    assert run_server(command(port, "1.5"), f"http://127.0.0.1:{port}", lambda: told.append(1)) == 7
    assert told == [1]


@pytest.mark.parametrize(("program", "code"), [("raise SystemExit(5)", 5), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_a_server_that_dies_at_once_is_never_announced(program: str, code: int) -> None:
    told: list[int] = []
    run = [sys.executable, "-c", program]
    assert run_server(run, f"http://127.0.0.1:{free_port()}", lambda: told.append(1)) == code
    assert not told


def test_an_interrupt_ends_the_server(monkeypatch) -> None:
    port = free_port()

    def interrupt() -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    before = signal.getsignal(signal.SIGTERM)
    assert run_server(command(port), f"http://127.0.0.1:{port}", interrupt) == 0
    assert not is_healthy(f"http://127.0.0.1:{port}") and signal.getsignal(signal.SIGTERM) == before


def test_a_deaf_server_is_ended_all_the_same_and_with_its_parent(monkeypatch) -> None:
    port = free_port()
    program = (
        "import sys; from artiagent.serving import process; process._PATIENCE = (0.3, 5.0)\n"
        f"sys.exit(process.run_server({command(port, '-', 'deaf')!r}, 'http://127.0.0.1:{port}', "
        "lambda: print('ready', flush=True)))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    parent.terminate()
    assert parent.wait(20) == 0
    parent.stdout.close()
    until = time.monotonic() + 5
    while is_healthy(f"http://127.0.0.1:{port}"):
        assert time.monotonic() < until
    require_free("127.0.0.1", port)
