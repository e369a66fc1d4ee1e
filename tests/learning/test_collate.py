"""Labels cover exactly the answers, and a packed turn is the same computation as the turn asked alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from artiagent.images import decode, encode
from artiagent.instruction.conversations import fill_boxes
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.instruction.prompts import NO, YES
from artiagent.learning.collate import IGNORE, ConversationCollator
from artiagent.records import CheckpointRef, Conversation, DatasetRef
from artiagent.store import read_rows

EXTRA = ("labels", "decision", "twins")


@pytest.fixture(scope="module")
def rows(conversations: DatasetRef) -> list[dict[str, Any]]:
    stored = list(read_rows(conversations, Conversation))[:4]
    return [{"record": row.record.model_dump_json(), "image": row.images["image"], "mirrored": False} for row in stored]


@pytest.fixture(scope="module")
def processor(tiny_vlm: CheckpointRef) -> Any:
    return AutoProcessor.from_pretrained(Path(tiny_vlm.uri))


@pytest.fixture(scope="module")
def model(tiny_vlm: CheckpointRef) -> Any:
    return AutoModelForImageTextToText.from_pretrained(Path(tiny_vlm.uri), dtype=torch.float32).eval()


def answers(row: dict[str, Any]) -> list[str]:
    conversation = Conversation.model_validate_json(row["record"])
    space = CoordinateSpace(conversation.width, conversation.height, conversation.width, conversation.height)
    return [fill_boxes(turn.text, conversation.boxes, space) for turn in conversation.turns[1::2]]


@pytest.mark.parametrize("context", ["dialogue", "alone"])
def test_labels_are_the_answers_and_their_ends(rows: list, processor: Any, model: Any, context: str) -> None:
    batch = ConversationCollator(processor, 2048, context, model.model.get_rope_index)(rows)
    for index, row in enumerate(rows):
        labels = batch["labels"][index]
        text = processor.tokenizer.decode(labels[labels != IGNORE])
        assert text == "".join(f"{answer}<|im_end|>" for answer in answers(row))
        kept = labels != IGNORE
        assert (labels[kept] == batch["input_ids"][index][kept]).all()


def test_decision_precedes_the_binary_answer_and_twins_are_paired(rows: list, processor: Any) -> None:
    batch = ConversationCollator(processor, 2048)(rows)
    for index, row in enumerate(rows):
        predicted = batch["labels"][index, batch["decision"][index] + 1]
        assert processor.tokenizer.decode(predicted) == (
            YES if Conversation.model_validate_json(row["record"]).faulty else NO
        )
    assert batch["twins"].tolist() == [[0, 1], [2, 3]]
    assert ConversationCollator(processor, 2048)(rows[:1])["twins"].shape == (0, 2)


def test_a_dialogue_is_tokenised_as_the_chat_template_renders_it(rows: list, processor: Any) -> None:
    conversation = Conversation.model_validate_json(rows[0]["record"])
    batch = ConversationCollator(processor, 2048)(rows[:1])
    space = CoordinateSpace(64, 64, 64, 64)
    texts = [fill_boxes(turn.text, conversation.boxes, space) for turn in conversation.turns]
    messages = [
        {"role": turn.role, "content": [*([{"type": "image"}] if k == 0 else []), {"type": "text", "text": texts[k]}]}
        for k, turn in enumerate(conversation.turns)
    ]
    rendered = processor.apply_chat_template(messages, tokenize=False).rstrip("\n")
    tokens = batch["input_ids"][0][batch["attention_mask"][0].bool()]
    whole = processor.tokenizer.decode(tokens).replace("<|image_pad|>" * 16, "<|image_pad|>")
    assert whole == rendered


@torch.inference_mode()
def test_packed_turns_compute_what_separate_questions_compute(rows: list, processor: Any, model: Any) -> None:
    packed = ConversationCollator(processor, 2048, "alone", model.model.get_rope_index)(rows)
    together = model(**{k: v for k, v in packed.items() if k not in EXTRA}).logits
    for index, row in enumerate(rows):
        conversation = Conversation.model_validate_json(row["record"])
        places = iter((packed["labels"][index] != IGNORE).nonzero()[:, 0] - 1)
        for turn in range(0, len(conversation.turns), 2):
            single = conversation.model_copy(update={"turns": conversation.turns[turn : turn + 2]})
            batch = ConversationCollator(processor, 2048)([{**row, "record": single.model_dump_json()}])
            alone = model(**{k: v for k, v in batch.items() if k not in EXTRA}).logits
            for position in (batch["labels"][0] != IGNORE).nonzero()[:, 0] - 1:
                assert torch.allclose(together[index, next(places)], alone[0, position], atol=1e-5)


def test_turns_that_do_not_fit_are_left_out(rows: list, processor: Any) -> None:
    whole = ConversationCollator(processor, 2048)(rows[:1])
    width = whole["input_ids"].shape[1]
    shorter = ConversationCollator(processor, width - 1)(rows[:1])
    text = processor.tokenizer.decode(shorter["labels"][0][shorter["labels"][0] != IGNORE])
    assert text == "".join(f"{answer}<|im_end|>" for answer in answers(rows[0])[:-1])
    with pytest.raises(ValueError, match="max_length=20"):
        ConversationCollator(processor, 20)(rows[:1])


def test_a_template_that_rewrites_earlier_turns_is_refused(rows: list, tiny_vlm: CheckpointRef) -> None:
    processor = AutoProcessor.from_pretrained(Path(tiny_vlm.uri))
    processor.chat_template = "{{ messages | length }}" + processor.chat_template
    with pytest.raises(ValueError, match="rewrites earlier turns"):
        ConversationCollator(processor, 2048)(rows[:1])


def test_a_mirrored_row_is_a_mirrored_picture_with_its_own_pair(rows: list, processor: Any) -> None:
    both = [{**row, "mirrored": flag} for flag in (False, True) for row in rows]
    collate = ConversationCollator(processor, 2048)
    batch = collate(both)
    flipped = [np.asarray(decode(row["image"]))[:, ::-1] for row in rows]
    expected = collate([{**row, "image": encode(image, "png")} for row, image in zip(rows, flipped, strict=True)])
    assert torch.equal(batch["pixel_values"][len(batch["pixel_values"]) // 2 :], expected["pixel_values"])
    pairs = len(collate(rows)["twins"])
    assert len(batch["twins"]) == 2 * pairs and (batch["twins"][:pairs] < len(rows)).all()
