"""How many answers the backend ``openai`` sustains, how many cache hits, and whether its memory stays flat.

The server is a process of its own that answers every chat completion after ``--delay`` seconds. Three phases, each in a
process of its own, all with distinct 128 px images:

    answers   64-way concurrency against a server that takes a second
    hits      the same questions again and again, all in the cache
    memory    100,000 different questions to a server that answers at once, every answer kept in the cache

    python bench/vlm.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import numpy as np
import psutil
from toolbox import cpu_model

from artiagent.config import VlmSection
from artiagent.vlm.openai import OpenAiVlm
from artiagent.vlm.prompt import Prompt
from artiagent.vlm.protocol import Request

SIDE, CONCURRENCY, DELAY = 128, 64, 1.0
SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}
MARKS = (1_000, 10_000, 100_000)
BARS = {"answers": "at least 50 answers/s", "hits": "at least 2,000 hits/s", "memory": "flat"}


def serve(delay: float, connection: Connection) -> None:
    """Runs in a process of its own until it is terminated; sends its port."""
    asyncio.run(_serve(delay, connection))


async def _serve(delay: float, connection: Connection) -> None:
    from aiohttp import web

    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": '{"label": "a tail"}'}}
    body = json.dumps({"choices": [message], "usage": {"prompt_tokens": 120, "completion_tokens": 8}})

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(delay)
        return web.Response(text=body, content_type="application/json")

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    connection.send(site._server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


def questions(start: int, noise: bool) -> Iterator[Request]:
    """Distinct questions about distinct images: noise costs most to encode, flat images little."""
    rng = np.random.default_rng(start)
    for number in range(start, sys.maxsize):
        shape = (SIDE, SIDE, 3)
        image = rng.integers(0, 256, shape, dtype=np.uint8) if noise else np.full(shape, number % 256, np.uint8)
        image[0, :4, 0] = [number >> shift & 255 for shift in (0, 8, 16, 24)]
        yield Request("label", Prompt("label", 1, "0" * 12, f"What is in picture {number}?", SCHEMA), (image,))


def backend(port: int, folder: Path) -> OpenAiVlm:
    url = f"http://127.0.0.1:{port}/v1"
    return OpenAiVlm(VlmSection(backend="openai", model="m", base_url=url, concurrency=CONCURRENCY), folder)


def measure_answers(port: int, folder: Path, count: int) -> dict[str, float]:
    vlm = backend(port, folder)
    started, busy = time.perf_counter(), cpu_seconds()
    arrived = [time.perf_counter() for _ in vlm.ask(islice(questions(0, noise=True), count))]
    assert vlm.spent()["requests"] == count and not vlm.spent()["failed"]
    middle = arrived[count // 10 : -count // 10]  # without the start and the last, half-empty round
    return {
        "answers": count,
        "per_second": round(count / (arrived[-1] - started), 1),
        "per_second_sustained": round((len(middle) - 1) / (middle[-1] - middle[0]), 1),
        "client_cpu_ms_each": round(1000 * (cpu_seconds() - busy) / count, 2),
    }


def measure_hits(port: int, folder: Path, count: int) -> dict[str, float]:
    known = list(islice(questions(0, noise=True), 500))
    for _ in backend(port, folder).ask(known):
        pass
    vlm = backend(port, folder)
    asked = [known[n % len(known)] for n in range(count)]
    started, busy = time.perf_counter(), cpu_seconds()
    assert sum(answer.cached for answer in vlm.ask(asked)) == count
    seconds = time.perf_counter() - started
    cpu = 1e6 * (cpu_seconds() - busy) / count
    return {"hits": count, "per_second": round(count / seconds), "cpu_us_each": round(cpu, 1)}


def measure_memory(port: int, folder: Path, count: int) -> dict[str, object]:
    vlm, memory, started = backend(port, folder), {}, time.perf_counter()
    for number, _ in enumerate(vlm.ask(islice(questions(0, noise=False), count)), start=1):
        if number in MARKS:
            memory[str(number)] = round(psutil.Process().memory_info().rss / 2**20, 1)
    cache = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    assert vlm.spent()["requests"] == count and not vlm.spent()["failed"]
    seconds = time.perf_counter() - started
    return {"items": count, "rss_mb": memory, "seconds": round(seconds, 1), "cache_mb": round(cache, 1)}


def cpu_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def run(measure: Callable[..., dict], connection: Connection, port: int, folder: Path, count: int) -> None:
    connection.send(measure(port, folder, count))


def in_process(measure: Callable[..., dict], delay: float, count: int) -> dict:
    """A server and a client, a process each, and an empty cache."""
    context = get_context("spawn")
    (served, serving), (receiver, sender) = context.Pipe(duplex=False), context.Pipe(duplex=False)
    server = context.Process(target=serve, args=(delay, serving), daemon=True)
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        client = context.Process(target=run, args=(measure, sender, served.recv(), Path(folder), count))
        client.start()
        sender.close()
        try:
            return receiver.recv()
        finally:
            client.join()
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=3000)
    parser.add_argument("--hits", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=100_000, help="of the memory phase")
    parser.add_argument("--delay", type=float, default=DELAY, help="seconds the server takes in the first phase")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), help="JSON file to write")
    args = parser.parse_args()
    phases = {
        "answers": partial(in_process, measure_answers, args.delay, args.answers),
        "hits": partial(in_process, measure_hits, 0.0, args.hits),
        "memory": partial(in_process, measure_memory, 0.0, args.items),
    }
    report: dict[str, object] = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
        "aiohttp": aiohttp.__version__,
        "image_side": SIDE,
        "concurrency": CONCURRENCY,
        "delay": args.delay,
        "command": "python bench/vlm.py",
    }
    for name, phase in phases.items():
        load = round(os.getloadavg()[0], 1)  # of others too: the cores are shared
        report[name] = {**phase(), "load_before": load, "bar": BARS[name]}
        print(f"{name:<8}", json.dumps(report[name]), flush=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
