"""Curated pairs -> two multi-turn conversations each: what the vision-language model is trained on.

Knows the four turns of each side (spec: training, "Conversations") and how sides, sources and hard negatives are
balanced. Does not know tokens or coordinate spaces: boxes stay in source pixels and appear in the text as ``{box:k}``.

A benign injection (labelled clean, made by the same machinery) is a hard negative: its image stands in for the clean
twin of one accepted pair of the same source, so that the set stays 1:1 and paired.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from artiagent.config import InstructionSection
from artiagent.curation.funnel import hard_negative
from artiagent.instruction import prompts
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.records import ARTIFACT_TOOLS, Box, Conversation, DatasetRef, Pair, Scene, Turn, stable_hash
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows

PLACEHOLDER = re.compile(r"\{box:(\d+)\}")
SIDES = re.compile(r"\b(?:left|right)\b", re.IGNORECASE)
BOX_LIST = re.compile(r"\[\{box:\d+\}(?:,\{box:\d+\})*\]")
INSIDE = 0.9  # share of a part's box within another box from which that box shows the part; any less is not asked about
BATCH = 64


@dataclass(frozen=True)
class SeenPart:
    """A part of a scene; ``single``: no other entity bears its entity's name, so that "the dog" can be located."""

    entity: str
    name: str
    box: Box
    single: bool


def build_conversations(section: InstructionSection, curated: DatasetRef, scenes: DatasetRef, out: Path) -> DatasetRef:
    """Write two conversations for each accepted pair of a scored group; rows Conversation, images ("image",).

    With ``section.pairs`` only for so many of them, see `first_pairs`, or fewer where there are no more. The split is
    by source image. Raises ValueError when no pair is left or a conversation breaks the schema.
    """
    if (complete := open_dataset(out)) is not None:
        return complete
    chosen = first_pairs(curated, section.pairs)
    partners = pair_negatives(curated, chosen) if section.hard_negatives else {}
    replaced = frozenset(pair.job_id for pair in partners.values())
    parts = {row.record.source_id: seen_parts(row.record) for row in read_rows(scenes, Scene, ())}
    writer: DatasetWriter[Conversation] = DatasetWriter(out, "conversations", ("image",))
    stamp = stable_hash(section.digest(), curated.digest, scenes.digest, length=12)
    counts: dict[str, int] = defaultdict(int)
    rows = read_rows(curated, Pair)
    with tqdm(desc="converse", unit="pair", total=curated.rows) as progress:
        for index in range(-(-curated.rows // BATCH)):
            made = []
            for row in islice(rows, BATCH):
                if row.key in chosen or row.key in partners:
                    made += _conversations(section, row, parts, partners, replaced)
                progress.update()
            for conversation in made:
                check(conversation.record)
                _count(conversation.record, counts)
            if (key := f"{stamp}-{index:06d}") not in writer:
                writer.write(key, made)
    if not counts["conversations"]:
        raise ValueError(
            f"{curated.uri}: none of {curated.rows} pairs is accepted and in a scored group; see funnel.json"
        )
    return writer.finish(dict(counts))


def first_pairs(curated: DatasetRef, count: int | None) -> frozenset[str]:
    """Job ids of ``count`` usable pairs: the tools in turn, each in the order of job ids, which says nothing about the
    source. So sets that differ in few pairs choose nearly the same ones. None: all usable pairs.
    """
    by_tool: dict[str, list[str]] = defaultdict(list)
    for row in read_rows(curated, Pair, ()):
        if usable(row.record):
            by_tool[row.record.faults[0].injection.tool].append(row.key)
    turns = zip_longest(*(sorted(by_tool[tool]) for tool in ARTIFACT_TOOLS))
    return frozenset(islice((key for turn in turns for key in turn if key), count))


def pair_negatives(curated: DatasetRef, chosen: frozenset[str]) -> dict[str, Pair]:
    """Benign job id -> the chosen pair of the same source whose twin it replaces; every pair at most once."""
    benign: dict[str, list[str]] = defaultdict(list)
    for row in read_rows(curated, Pair, ()):
        if row.record.scored and hard_negative(row.record):
            benign[row.record.source_id].append(row.key)
    partners: dict[str, Pair] = {}
    for row in read_rows(curated, Pair, ()):
        if row.key in chosen and benign[row.record.source_id]:
            partners[benign[row.record.source_id].pop(0)] = row.record
    return partners


def usable(pair: Pair) -> bool:
    """Accepted, in a scored group, and with a fault in it."""
    return pair.scored and pair.accepted and not pair.benign


def split_of(source_id: str, val_share: float, seed: int) -> str:
    """``train`` or ``val``, by the source alone: variants of one source never part."""
    return "val" if int(stable_hash("split", seed, source_id, length=8), 16) / 16**8 < val_share else "train"


def seen_parts(scene: Scene) -> tuple[SeenPart, ...]:
    names = [entity.name for entity in scene.entities]
    return tuple(
        SeenPart(entity.name, part.name, part.box, names.count(entity.name) == 1)
        for entity in scene.entities
        for part in entity.parts
    )


def shows(parts: Iterable[SeenPart], name: str, box: Box) -> bool | None:
    """Whether ``box`` shows a part called ``name``; None where one cannot say (partly inside)."""
    shares = [_overlap(part.box, box) / part.box.area for part in parts if part.name == name]
    if any(share >= INSIDE for share in shares):
        return True
    return None if any(shares) else False


def fill_boxes(text: str, boxes: tuple[Box, ...], space: CoordinateSpace) -> str:
    """Replace each ``{box:k}`` by box k in the model's coordinates."""
    return PLACEHOLDER.sub(lambda match: prompts.format_box(space.to_model(boxes[int(match.group(1))])), text)


def mirrored(conversation: Conversation) -> Conversation:
    """The conversation about the mirrored image, a pair of its own: boxes moved, lists of boxes left to right again,
    turns that name a side left out."""
    boxes = tuple(
        Box(conversation.width - x1, y0, conversation.width - x0, y1) for x0, y0, x1, y1 in conversation.boxes
    )

    def sort(listed: re.Match[str]) -> str:
        numbers = sorted((int(k) for k in PLACEHOLDER.findall(listed.group())), key=lambda k: boxes[k])
        return prompts.format_boxes(_mark(k) for k in numbers)

    exchanges = zip(conversation.turns[::2], conversation.turns[1::2], strict=True)
    kept = (
        turn for exchange in exchanges if not any(SIDES.search(turn.text) for turn in exchange) for turn in exchange
    )
    turns = tuple(turn.model_copy(update={"text": BOX_LIST.sub(sort, turn.text)}) for turn in kept)
    return conversation.model_copy(
        update={"pair_id": f"{conversation.pair_id}-mirrored", "boxes": boxes, "turns": turns}
    )


def check(conversation: Conversation) -> None:
    """Raise ValueError unless turns alternate, begin with the user, end answered, and boxes exist inside the image."""
    roles = [turn.role for turn in conversation.turns]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError(
            f"conversation {conversation.conversation_id}: roles {roles}, expected user and assistant in turn"
        )
    if not all(turn.text for turn in conversation.turns):
        raise ValueError(f"conversation {conversation.conversation_id}: a turn without text")
    frame = Box(0, 0, conversation.width, conversation.height)
    for box in conversation.boxes:
        if not box.area or _overlap(box, frame) != box.area:
            raise ValueError(
                f"conversation {conversation.conversation_id}: box {list(box)} not inside {frame[2]}x{frame[3]} px"
            )
    used = {int(k) for turn in conversation.turns for k in PLACEHOLDER.findall(turn.text)}
    if not used <= set(range(len(conversation.boxes))):
        raise ValueError(
            f"conversation {conversation.conversation_id}: boxes {sorted(used)}, has {len(conversation.boxes)}"
        )


def _conversations(
    section: InstructionSection,
    row: Row[Pair],
    parts: dict[str, tuple[SeenPart, ...]],
    partners: dict[str, Pair],
    replaced: frozenset[str],
) -> Iterator[Row[Conversation]]:
    """What this row has the image for: both sides of an accepted pair, or the negative that replaces another pair's
    twin.
    """
    pair = row.record
    if usable(pair):
        artifact = _artifact_side(section, pair)
        yield Row(artifact.conversation_id, artifact, {"image": row.images["artifact"]})
        if pair.job_id not in replaced:
            clean = _clean_side(section, pair, parts.get(pair.source_id, ()))
            yield Row(clean.conversation_id, clean, {"image": row.images["clean"]})
    elif (partner := partners.get(row.key)) is not None:
        clean = _clean_side(section, partner, parts.get(pair.source_id, ()), benign_of=pair.job_id)
        yield Row(clean.conversation_id, clean, {"image": row.images["artifact"]})


class Answered(NamedTuple):
    """A question of `prompts` with its answer and the fields of its wording."""

    question: str
    answer: str
    fields: dict[str, str] = {}


def _artifact_side(section: InstructionSection, pair: Pair) -> Conversation:
    rng = random.Random(stable_hash("artifact", section.seed, pair.job_id))
    faults = sorted(pair.faults, key=lambda artifact: artifact.box)
    chosen = rng.randrange(len(faults))
    located = prompts.format_boxes(_mark(k) for k in range(len(faults)))
    answers = {
        "binary": Answered(prompts.BINARY, prompts.YES),
        "locate": Answered(prompts.LOCATE_ARTIFACTS, located),
        "region": Answered(prompts.EXPLAIN_BOX, faults[chosen].label, {"box": _mark(chosen)}),
        "explain": Answered(prompts.DESCRIBE_ARTIFACTS, pair.explanation),
    }
    boxes = tuple(fault.box for fault in faults)
    return _record(section, pair, "artifact", boxes=boxes, turns=_turns(section, answers, rng))


def _clean_side(
    section: InstructionSection, pair: Pair, parts: tuple[SeenPart, ...], benign_of: str = ""
) -> Conversation:
    """Twin (or hard negative) of ``pair``; what is asked about stays near its artifacts, where the sides differ."""
    rng = random.Random(stable_hash("clean", section.seed, pair.job_id))
    boxes: list[Box] = []
    answers = {
        "binary": Answered(prompts.BINARY, prompts.NO),
        "explain": Answered(prompts.DESCRIBE_IMAGE, pair.caption),
    }
    if benign_of:
        answers["locate"] = Answered(prompts.LOCATE_ARTIFACTS, prompts.format_boxes(()))
    elif located := _locate_part(pair, parts, rng):
        names, boxes = located
        marks = prompts.format_boxes(_mark(k) for k in range(len(boxes)))
        answers["locate"] = Answered(prompts.LOCATE_PART, marks, names)
    if asked := _part_in_box(pair, parts, rng):
        name, box, truth = asked
        fields = {"part": name, "box": _mark(len(boxes))}
        answers["region"] = Answered(prompts.PART_IN_BOX, prompts.yes_no(truth), fields)
        boxes = [*boxes, box]
    turns = _turns(section, answers, rng)
    return _record(section, pair, "clean", boxes=tuple(boxes), turns=turns, benign_of=benign_of)


def _locate_part(
    pair: Pair, parts: tuple[SeenPart, ...], rng: random.Random
) -> tuple[dict[str, str], list[Box]] | None:
    """A part of an entity that its name identifies, the artifact's own if possible, with the boxes of all its
    instances.
    """
    names = sorted({(part.entity, part.name) for part in parts if part.single})
    own = [(fault.injection.entity, fault.injection.part) for fault in pair.faults]
    if not names:
        return None
    entity, name = rng.choice([pick for pick in names if pick in own] or names)
    found = sorted(part.box for part in parts if (part.entity, part.name) == (entity, name))
    return {"entity": entity, "part": name}, found


def _part_in_box(pair: Pair, parts: tuple[SeenPart, ...], rng: random.Random) -> tuple[str, Box, bool] | None:
    """A question with a sure answer, yes and no equally often where both can be asked; artifacts' boxes come first."""
    names = sorted({part.name for part in parts})
    wanted = rng.random() < 0.5
    for boxes in ([fault.box for fault in pair.faults], [part.box for part in parts]):
        for truth in (wanted, not wanted):
            if sure := [(name, box) for box in boxes for name in names if shows(parts, name, box) is truth]:
                name, box = rng.choice(sure)
                return name, box, truth
    return None


def _turns(section: InstructionSection, answers: dict[str, Answered], rng: random.Random) -> tuple[Turn, ...]:
    """Question and answer of every configured turn that has an answer, the question in one of its wordings."""
    turns: list[Turn] = []
    for name in section.turns:
        if name in answers and answers[name].answer:
            asked = answers[name]
            turns.append(Turn(role="user", text=prompts.paraphrase(asked.question, rng, **asked.fields)))
            turns.append(Turn(role="assistant", text=asked.answer))
    return tuple(turns)


def _record(section: InstructionSection, pair: Pair, side: str, **content: Any) -> Conversation:
    return Conversation(
        conversation_id=f"{pair.job_id}-{side}",
        pair_id=pair.job_id,
        source_id=pair.source_id,
        split=split_of(pair.source_id, section.val_share, section.seed),
        faulty=side == "artifact",
        width=pair.width,
        height=pair.height,
        **content,
    )


def _mark(k: int) -> str:
    return f"{{box:{k}}}"


def _overlap(a: Box, b: Box) -> int:
    return Box(max(a.x0, b.x0), max(a.y0, b.y0), min(a.x1, b.x1), min(a.y1, b.y1)).area


def _count(conversation: Conversation, counts: dict[str, int]) -> None:
    counts["conversations"] += 1
    counts[conversation.split] += 1
    counts["hard_negatives"] += bool(conversation.benign_of)
