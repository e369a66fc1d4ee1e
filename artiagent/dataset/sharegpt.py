"""Conversations as ShareGPT JSON: ``train.json``, ``val.json``, ``images/``; ``dataset_info.json`` for LLaMA-Factory.

An item has ``messages`` (role, content; ``<image>`` opens the first) and ``images``. Boxes, templates until here,
become numbers: pixels of the image as exported, or thousandths of its sides. No trainer moves them when it resizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from artiagent.dataset.files import JsonList, image_name
from artiagent.instruction.conversations import fill_boxes
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.records import Conversation, DatasetRef
from artiagent.store import read_rows

SPACES = ("pixels", "per-mille")
PAIRLESS = """\
Made from the set of conversations `{digest}`. Conversations do not carry licences: they are in the card of the curated
set behind them; an export of that set has the licence in every item.
"""


def write_sharegpt(
    conversations: DatasetRef, out: Path, split: str | None, space: str, origins: Mapping[str, tuple[str, str]]
) -> None:
    """Write the conversations into the folder ``out``, an existing one.

    Args:
        conversations: set of Conversation records with the image "image".
        out: folder.
        split: only this one; None: one file each.
        space: one of SPACES.
        origins: pair id -> licence and file name of the source image, where known.
    """
    (out / "images").mkdir()
    files: dict[str, JsonList] = {}
    rows = tqdm(read_rows(conversations, Conversation), "export", total=conversations.rows, unit="conversation")
    with ExitStack() as stack:
        for number, row in enumerate(rows, start=1):
            spoken = row.record
            if split in (None, spoken.split):
                name = f"images/{image_name(number, row.images['image'])}"
                (out / name).write_bytes(row.images["image"])
                if spoken.split not in files:
                    files[spoken.split] = stack.enter_context(JsonList(out / f"{spoken.split}.json"))
                files[spoken.split].add(item(spoken, name, space, origins))
    info = {f"artiagent_{name}": _entry(name) for name in files}
    (out / "dataset_info.json").write_text(json.dumps(info, indent=1))


def item(spoken: Conversation, image: str, space: str, origins: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """One conversation as a ShareGPT item."""
    units = unit_space(space, spoken.width, spoken.height)
    messages = [{"role": turn.role, "content": fill_boxes(turn.text, spoken.boxes, units)} for turn in spoken.turns]
    messages[0]["content"] = f"<image>\n{messages[0]['content']}"
    licence, origin = origins.get(spoken.pair_id, (None, None))
    stated = {"licence": licence, "origin": origin} if licence is not None else {}
    identity = {"id": spoken.conversation_id, "pair_id": spoken.pair_id, "source_id": spoken.source_id}
    return {**identity, "messages": messages, "images": [image], **stated}


def unit_space(name: str, width: int, height: int) -> CoordinateSpace:
    """Units of boxes for an image of so many pixels. Raises ValueError for a name that is not among SPACES."""
    if name not in SPACES:
        raise ValueError(f"space {name!r}: expected {' or '.join(SPACES)}")
    model = (1000, 1000) if name == "per-mille" else (width, height)
    return CoordinateSpace(width, height, *model)


def _entry(split: str) -> dict[str, Any]:
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images"}
    return {"file_name": f"{split}.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
