"""``artiagent serve``: a promoted model behind an existing server, and its health check."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from artiagent.orchestration import open_model

if TYPE_CHECKING:
    from artiagent.config import EvaluationSection

LOOPBACK = ("127.0.0.1", "::1", "localhost")
BACKENDS = ("transformers", "vllm")
EXAMPLES = """examples:
  artiagent serve                                    # the champion, on http://127.0.0.1:8000
  artiagent serve --model my/model --port 8001
  artiagent serve --backend vllm --dry-run           # the command, for a machine that has it
  artiagent serve --check http://127.0.0.1:8000      # exit code 1 when it is not well
  artiagent inspect picture.png --server http://127.0.0.1:8000
"""


def add_commands(
    commands: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser], config_options: Callable
) -> None:
    made = add(commands, "serve", "a model behind transformers serve or vLLM, until Ctrl-C; or its health check", serve)
    made.epilog, made.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    config_options(made)
    made.add_argument("--model", help="model folder or models:/ uri; default: the profile's champion")
    made.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0], help="default %(default)s")
    made.add_argument("--host", default=LOOPBACK[0], help="default %(default)s: this machine only")
    made.add_argument("--port", type=int, default=8000, help="default %(default)s")
    made.add_argument("--dry-run", action="store_true", help="print the server's command and do not start it")
    made.add_argument("--check", metavar="URL", help="ask a running server one question; exit code 1 if it is not well")


def serve(arguments: argparse.Namespace) -> int:
    """Start a server for a model folder and wait for its end, or check one that runs."""
    from artiagent.run_config import load_config

    config = load_config(arguments.config, arguments.set)
    if arguments.check:
        return _check(arguments.check, config.evaluation)
    from artiagent.serving.address import address
    from artiagent.serving.backends import Listen, command_line, prepare
    from artiagent.serving.process import require_free, run_server

    if not arguments.dry_run:
        prepare(arguments.backend)
        require_free(arguments.host, arguments.port)
    model = open_model(arguments.model or f"models:/{config.registry.vlm_name}@champion")
    command = command_line(arguments.backend, model, config.evaluation, Listen(arguments.host, arguments.port))
    if arguments.host not in LOOPBACK:
        print(
            f"warning: --host {arguments.host}: whoever reaches port {arguments.port} can use the model, without a key",
            file=sys.stderr,
        )
    if arguments.dry_run:
        print(shlex.join(command))
        return 0
    url = address(arguments.host, arguments.port)

    def announce() -> None:
        print(f"{model.name} is served on {url}  (Ctrl-C ends it)", flush=True)
        print(f"try: artiagent inspect picture.png --server {url}", flush=True)

    print(f"starting {shlex.join(command)}", flush=True)
    return run_server(command, url, announce)


def _check(url: str, section: EvaluationSection) -> int:
    from artiagent.serving.check import check_server

    health = check_server(url, section.vlm)
    if health.problem:
        print(f"not well: {health.problem}", file=sys.stderr)
        return 1
    print(f"well: {health.url} holds {health.model}; answered {health.answer!r} in {1000 * health.seconds:.0f} ms")
    return 0
