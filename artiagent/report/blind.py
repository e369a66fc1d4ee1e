"""Sheets for a blind judgement: pairs side by side in random order, unlabelled; the key lies in a file of its own.

Whoever judges sees the pictures only and says for each pair which side is the artifact and of which type it is.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from artiagent.images import decode, encode
from artiagent.instruction.conversations import usable
from artiagent.records import ARTIFACT_TOOLS, FAULT_OF_TOOL, DatasetRef, Pair
from artiagent.store import Row, read_rows, write_atomic

KEY = "key.json"
SCALE, MARGIN, COLUMNS, PER_SHEET = 3, 12, 2, 10


def write_sheets(curated: DatasetRef | Path, out: Path, *, per_tool: int = 10, seed: int = 0) -> list[Path]:
    """Draw `per_tool` accepted pairs of a single artifact for each tool, one per source; write sheets and ``key.json``.

    Raises ValueError where a tool has fewer.
    """
    chosen = _drawn(curated, per_tool, random.Random(seed))
    rng = random.Random(seed + 1)
    rng.shuffle(chosen)
    key, sheets = {}, []
    for number, row in enumerate(chosen, start=1):
        (artifact,) = row.record.artifacts
        key[str(number)] = {
            "side": rng.choice(("left", "right")),
            "type": FAULT_OF_TOOL[artifact.injection.tool],
            "part": artifact.injection.part,
            "entity": artifact.injection.entity,
            "job_id": row.key,
        }
    for start in range(0, len(chosen), PER_SHEET):
        rows = chosen[start : start + PER_SHEET]
        sheet = _sheet(rows, [key[str(start + k + 1)]["side"] for k in range(len(rows))], start + 1)
        path = out / f"sheet-{start // PER_SHEET + 1}.png"
        write_atomic(path, encode(sheet))
        sheets.append(path)
    write_atomic(out / KEY, (json.dumps(key, indent=1) + "\n").encode())
    return sheets


def score_verdicts(key: Mapping[str, Mapping[str, str]], verdicts: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Right sides and right types of verdicts ``{"1": {"side": "left", "type": "omission"}}``, in all and per type."""
    if missing := sorted(set(key) - set(verdicts), key=int):
        raise ValueError(
            f"no verdict on pair {missing[0]} ({len(missing)} missing); expected one for each of {len(key)}"
        )
    right: dict[str, dict[str, int]] = defaultdict(lambda: {"n": 0, "side": 0, "type": 0})
    for number, truth in key.items():
        for row in (right["all"], right[truth["type"]]):
            row["n"] += 1
            row["side"] += verdicts[number]["side"] == truth["side"]
            row["type"] += verdicts[number]["type"] == truth["type"]
    return dict(right)


def _drawn(curated: DatasetRef | Path, per_tool: int, rng: random.Random) -> list[Row[Pair]]:
    found: dict[str, list[Row[Pair]]] = defaultdict(list)
    for row in read_rows(curated, Pair):
        if usable(row.record) and len(row.record.artifacts) == 1:
            found[row.record.artifacts[0].injection.tool].append(row)
    chosen: list[Row[Pair]] = []
    sources: set[str] = set()
    for tool in ARTIFACT_TOOLS:
        rows = found[tool]
        rng.shuffle(rows)
        fresh = [row for row in rows if row.record.source_id not in sources]
        picked = (fresh + [row for row in rows if row.record.source_id in sources])[:per_tool]
        if len(picked) < per_tool:
            raise ValueError(f"{tool}: {len(picked)} accepted pairs of a single artifact; {per_tool} are wanted")
        sources |= {row.record.source_id for row in picked}
        chosen += picked
    return chosen


def _sheet(rows: list[Row[Pair]], sides: list[str], first: int) -> np.ndarray:
    """uint8 [H, W, 3]: numbered pairs, two in a row, pixels enlarged."""
    width = max(row.record.width for row in rows) * SCALE
    height = max(row.record.height for row in rows) * SCALE
    cell = (2 * width + 3 * MARGIN, height + 3 * MARGIN)
    canvas = Image.new("RGB", (COLUMNS * cell[0], -(-len(rows) // COLUMNS) * cell[1]), "white")
    pen = ImageDraw.Draw(canvas)
    for k, (row, side) in enumerate(zip(rows, sides, strict=True)):
        x, y = k % COLUMNS * cell[0], k // COLUMNS * cell[1]
        pen.text((x + MARGIN, y + 4), f"{first + k}", fill="black")
        order = ("artifact", "clean") if side == "left" else ("clean", "artifact")
        for place, name in enumerate(order):
            picture = Image.fromarray(decode(row.images[name]))
            picture = picture.resize((picture.width * SCALE, picture.height * SCALE), Image.Resampling.BICUBIC)
            canvas.paste(picture, (x + MARGIN + place * (width + MARGIN), y + 2 * MARGIN))
    return np.asarray(canvas)
