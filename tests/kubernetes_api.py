"""A Kubernetes API on this machine, for what is sent to a cluster."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4


class KubernetesApi:
    """Answers every POST with what it got, a uid added; subclasses keep what was made, and say what there is."""

    def __init__(self) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"]))
                api.made(self.path.rsplit("/", 1)[-1], json.loads(text))
                made = json.loads(text)
                made["metadata"]["uid"] = str(uuid4())
                self.answer(201, made)

            def do_GET(self) -> None:
                self.answer(200, api.there())

            def answer(self, code: int, value: dict[str, Any]) -> None:
                body = json.dumps(value).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def made(self, kind: str, body: dict[str, Any]) -> None:
        """A POST; ``kind`` as in its path: jobs, services, secrets."""
        raise NotImplementedError

    def there(self) -> dict[str, Any]:
        """The answer to any GET."""
        return {"items": []}

    def client(self, *_: object) -> Any:
        """Of the Kubernetes package."""
        from kubernetes.client import ApiClient, Configuration

        return ApiClient(Configuration(host=self.url))
