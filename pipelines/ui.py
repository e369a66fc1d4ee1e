"""The two dashboards, on this machine's loopback address only, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from artiagent.store import home
from steps.tracking import connect, tracking_uri

HOST = "127.0.0.1"


def serve(mlflow_port: int, zenml_port: int) -> int:
    """Start MLflow and ZenML and wait; returns 0 after Ctrl-C, 1 when one of them ended by itself.

    Raises ValueError when a port is taken.
    """
    for name, port in (("--mlflow-port", mlflow_port), ("--zenml-port", zenml_port)):
        if not _free(port):
            raise ValueError(f"{name} {port}: already in use on {HOST}; end what listens there or choose another port")
    connect()
    commands = {
        "MLflow": [
            sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri(),
            "--host", HOST, "--port", str(mlflow_port), "--workers", "1",
        ],
        "ZenML": [
            str(Path(sys.executable).with_name("zenml")), "login", "--local", "--blocking",
            "--ip-address", HOST, "--port", str(zenml_port),
        ],
    }  # fmt: skip
    log = home() / "ui.log"
    print(
        f"MLflow  http://{HOST}:{mlflow_port}\nZenML   http://{HOST}:{zenml_port}\nCtrl-C ends both (log: {log})",
        flush=True,
    )
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("wb") as file:
        # Sessions of their own: Ctrl-C reaches this process alone, which ends them in order.
        options = {"stdout": file, "stderr": subprocess.STDOUT, "env": environment, "start_new_session": True}
        servers = {name: subprocess.Popen(command, **options) for name, command in commands.items()}
    try:
        while all(server.poll() is None for server in servers.values()):
            time.sleep(0.5)
        ended = [name for name, server in servers.items() if server.poll() is not None]
        print(f"{', '.join(ended)} ended by itself; see {log}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for server in servers.values():
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
        for server in servers.values():
            server.wait(timeout=20)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0
