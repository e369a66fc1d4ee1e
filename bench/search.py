"""What reward-guided search costs: pictures per second and transformer calls per prompt, for every algorithm.

A few prompts are searched with the default budgets. Per algorithm:

    calls       transformer calls per prompt, and how many of them the returned picture itself needs
    decoded     pictures and estimates per prompt that were decoded and scored
    images/s    of these, all prompts together
    seconds     transformer, decoder, verifier

    python bench/search.py --reward my/reward
    python bench/search.py --generator black-forest-labs/FLUX.1-schnell --reward my/reward --size 1024 --prompts 1
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from toolbox import cpu_model

from artiagent.checkpoints import checkpoint_ref, model_name
from artiagent.config import InputsSection, SearchSection
from artiagent.learning.reward import open_reward
from artiagent.mitigation.generators import Generator, open_generator
from artiagent.mitigation.judges import Judge
from artiagent.mitigation.prompts import read_prompts
from artiagent.mitigation.search.rounds import play_round, searches_of
from artiagent.orchestration import open_model


def timed(seconds: Counter[str], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, its time added to ``seconds[name]``."""

    def measured(*args: Any) -> Any:
        start = time.perf_counter()
        result = call(*args)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds[name] += time.perf_counter() - start
        return result

    return measured


def measure(name: str, section: SearchSection, prompts: list[str], drawer: Generator, verifier: Judge) -> dict:
    """Search all prompts side by side with one algorithm."""
    seconds: Counter[str] = Counter()
    step, decode = drawer.step, drawer.decode
    drawer.step, drawer.decode = timed(seconds, "transformer", step), timed(seconds, "decoder", decode)
    searches = searches_of(name, list(enumerate(prompts)), section, drawer)
    start = time.perf_counter()
    while play_round(searches, drawer, timed(seconds, "verifier", verifier)):
        pass
    wall = time.perf_counter() - start
    drawer.step, drawer.decode = step, decode
    first = searches[0]
    return {
        "rounds": first.round, "candidates": len(first.rows), "calls": first.calls,
        "final_calls": drawer.calls_per_image, "decoded": first.decoded,
        "images_per_second": round(first.decoded * len(prompts) / wall, 2),
        "seconds_per_prompt": round(wall / len(prompts), 2), "seconds": {k: round(v, 1) for k, v in seconds.items()},
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", default=InputsSection().sampler)
    parser.add_argument("--reward", default="models:/artiagent-reward-nano@champion")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--size", type=int, default=SearchSection().size)
    parser.add_argument("--out", type=Path, default=Path("bench/search.json"))
    options = parser.parse_args(arguments)
    section = SearchSection(size=options.size)
    prompts = list(read_prompts(section.prompts, options.prompts))
    load = os.getloadavg()[0]
    drawer = open_generator(
        checkpoint_ref(model_name(options.generator), options.generator), size=section.size, dtype=section.dtype,
        threads=section.threads, batch=section.batch,
    )  # fmt: skip
    verifier = open_reward(open_model(options.reward), member=0, device=section.device)
    drawer.embed(prompts)
    measure("random", section.model_copy(update={"rounds": 1}), prompts, drawer, verifier)  # warm up
    report = {
        "date": datetime.now(UTC).date().isoformat(), "cpu": cpu_model(), "cores": os.cpu_count(),
        "device": str(drawer.device), "torch": torch.__version__, "dtype": str(drawer.pipe.transformer.dtype),
        "command": "python bench/search.py", "load_before": round(load, 1), "generator": drawer.name,
        "size": section.size, "prompts": len(prompts),
        **{name: measure(name, section, prompts, drawer, verifier) for name in section.algorithms},
    }  # fmt: skip
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    for name in section.algorithms:
        found = report[name]
        print(f"{name:<12}{found['calls']:>6} calls{found['images_per_second']:>8.1f} images/s  {found['seconds']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
