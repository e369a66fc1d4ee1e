"""Curated sets in miniature: two input sets, all tools, accepted, rejected and benign pairs, and what lies beside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from artiagent.images import encode
from artiagent.licences import with_model
from artiagent.records import AgentCall, Artifact, Box, DatasetRef, Injection, Mask, Pair, PatchMapping, stable_hash
from artiagent.store import DatasetWriter, Row
from artiagent.vlm.calls import CALLS, write_calls

SIDE, PATCH = 48, 8
TOOLS = (("add", ""), ("remove", ""), ("distort", "shuffle"), ("fuse", ""), ("benign", "background"))
PROMPT = "judge_add@1#abc123 nano-vl"
AUDIT = {
    "verdict": "insufficient n", "upper": 0.58, "least_pairs": 300,
    "probes": {"ring": {"verdict": "insufficient n", "auroc": None, "low": None, "high": None, "n": 3}},
    "edges": {"benign": {"auroc": 0.7, "low": 0.64, "high": 0.77, "n": 52}},
}  # fmt: skip


def artifact_of(number: int, reason: str | None) -> Artifact:
    tool, kernel = TOOLS[number % len(TOOLS)]
    x, y = PATCH * (1 + number % 3), PATCH * (1 + number % 2)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y : y + PATCH, x : x + 2 * PATCH] = True
    grid = SIDE // PATCH
    targets = tuple(y // PATCH * grid + x // PATCH + k for k in (0, 1))
    accepted = reason is None and tool != "benign"
    return Artifact(
        injection=Injection(
            tool=tool, kernel=kernel, entity="dog", entity_id="e", part="tail", seed=0, other_entity="cat",
            mapping=PatchMapping(grid=(grid, grid), targets=targets, references=(0, 1)),
        ),
        box=Box(x, y, x + 2 * PATCH, y + PATCH), mask=Mask.encode(mask), region=Mask.encode(mask),
        accepted=accepted, reason=reason,
        label="extra tail" if accepted else "", explanation="There is an extra tail on the dog." if accepted else "",
    )  # fmt: skip


def pair_of(number: int, *, reason: str | None = None, group: str = "scenes", **changes) -> Pair:
    """Five pairs of a source, one for every tool."""
    source = 8 + number // len(TOOLS)  # of 8 to 11 the last is in the split "val"
    made = Pair(
        job_id=f"{group}-s{source}-v{number}", source_id=f"{group}-s{source}", group=group, scored=group == "scenes",
        variant=number % len(TOOLS), width=SIDE, height=SIDE, prompt="a dog", artifacts=(artifact_of(number, reason),),
        backbone="generator", backbone_sha256="f" * 64, sampling={"solver": "fireflow", "steps": 10, "batch": number},
        caption="a dog and a cat", explanation="The dog has one tail too many. No real dog has that many tails.",
        licence="CC0-1.0", origin=f"scene_{source}.png", agents={"judge": PROMPT},
    )  # fmt: skip
    return with_model(made, "generator", "data/weights/nano-flux").model_copy(update=changes)


def picture(seed: str) -> bytes:
    rng = np.random.default_rng(int(stable_hash(seed, length=8), 16))
    return encode(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def row_of(pair: Pair) -> Row[Pair]:
    clean = picture(pair.source_id)  # variants share the twin
    return Row(pair.job_id, pair, {"clean": clean, "artifact": picture(pair.job_id)})


def write_curated(folder: Path, pairs: list[Pair], summary: dict | None = None) -> DatasetRef:
    writer: DatasetWriter[Pair] = DatasetWriter(folder, "curated", ("clean", "artifact"))
    for start in range(0, len(pairs), 7):
        writer.write(f"{start:05d}", [row_of(pair) for pair in pairs[start : start + 7]])
    ref = writer.finish(summary, shards=2)
    (folder / "audit.json").write_text(json.dumps(AUDIT))
    used = {"metric": "ssim", "judge": "presence", "writer": "template"}
    (folder / "funnel.json").write_text(json.dumps(used))
    call = AgentCall(key="j", task="presence", prompt="presence@1", prompt_hash="abc", model="nano-vl", status="ok")
    write_calls(folder / CALLS, [call, call])
    return ref


def standard_pairs() -> list[Pair]:
    """Twenty scored pairs of four sources (every third rejected), five unscored ones under another licence."""
    scored = [pair_of(n, reason="too_similar" if n % 3 == 2 else None) for n in range(20)]
    return scored + [pair_of(n, group="photos", licence="CC-BY-2.0 (vultilion)") for n in range(5)]


@pytest.fixture
def make() -> Callable[..., DatasetRef]:
    return write_curated


@pytest.fixture
def pair() -> Callable[..., Pair]:
    return pair_of


@pytest.fixture
def pairs() -> list[Pair]:
    return standard_pairs()


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    return write_curated(tmp_path_factory.mktemp("curated") / "a", standard_pairs())
