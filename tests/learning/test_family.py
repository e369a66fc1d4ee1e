"""Every family goes the whole way: tokens, labels, both stages, adapter or whole model, folder, an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from artiagent.config import SftSection, SftStage
from artiagent.instruction.conversations import fill_boxes
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.instruction.prompts import BINARY, LOCATE_ARTIFACTS, render
from artiagent.learning.collate import IGNORE, ConversationCollator
from artiagent.learning.family import FAMILIES, ModelFamily, family_of, find_family
from artiagent.learning.sft import finetune
from artiagent.learning.sharding import fsdp_config
from artiagent.learning.stages import adapter, freeze, load_model
from artiagent.records import CheckpointRef, Conversation, DatasetRef
from artiagent.store import read_rows
from artiagent.vlm.local import LocalVlm
from tests.learning.families import NAMES, TILE, write_family

STAGES = (
    SftStage(name="language", train_vision=False, max_steps=2, learning_rate=1e-3),
    SftStage(name="vision", train_vision=True, max_steps=2, learning_rate=1e-3),
)
SECTION = SftSection(
    stages=STAGES, batch_pairs=2, lora_rank=2, threads=1, device="cpu", autocast="none", save_steps=1000, mirror=False,
    image_pixels=5 * TILE * TILE,
)  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    return write_family(request.param, tmp_path_factory.mktemp("weights") / request.param)


@pytest.fixture
def family(base: CheckpointRef) -> ModelFamily:
    return family_of(base.uri)


@pytest.fixture(scope="module")
def rows(conversations: DatasetRef) -> list[dict[str, Any]]:
    stored = list(read_rows(conversations, Conversation))[:4]
    return [{"record": row.record.model_dump_json(), "image": row.images["image"], "mirrored": False} for row in stored]


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in load_file(Path(folder) / "model.safetensors").items()}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_both_stages_leave_a_folder_that_answers(
    base: CheckpointRef, family: ModelFamily, conversations: DatasetRef, tmp_path: Path, method: str
) -> None:
    section = SECTION.model_copy(update={"method": method, "gradient_checkpointing": method == "lora"})
    tuned = finetune(section, conversations, base, tmp_path / "model")
    before, after = weights(base.uri), weights(tuned.uri)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert any(family.is_vision(name) for name in changed) and any(not family.is_vision(name) for name in changed)
    made = json.loads((tmp_path / "model" / "finetune.json").read_text())
    assert made["family"] == family.name and made["base"]["sha256"] == base.sha256
    assert made["data"]["digest"] == conversations.digest and made["section"]["method"] == method
    assert (tmp_path / "model" / "adapter" / "adapter_model.safetensors").is_file() == (method == "lora")
    vlm = LocalVlm(tuned.uri, "cpu", threads=1)
    image = np.zeros((64, 64, 3), np.uint8)
    assert 0 < vlm.yes_no([image], [render(BINARY)])[0] < 1
    assert len(vlm.generate([image], [render(LOCATE_ARTIFACTS)], max_new_tokens=3)) == 1


def test_stage_one_trains_projector_and_language_model_only(base: CheckpointRef, family: ModelFamily) -> None:
    model = load_model(Path(base.uri), torch.float32)
    freeze(model, family, SECTION.model_copy(update={"method": "full"}), train_vision=False)
    parts = {"vision": set(), "projector": set(), "language": set()}
    for name, parameter in model.named_parameters():
        part = "vision" if family.is_vision(name) else "language" if "language_model" in name else "projector"
        parts[part].add(parameter.requires_grad)
    assert parts == {"vision": {False}, "projector": {True}, "language": {True}}
    freeze(model, family, SECTION.model_copy(update={"method": "full"}), train_vision=True)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_frozen_adapters_are_the_vision_encoders(base: CheckpointRef, family: ModelFamily) -> None:
    from peft import get_peft_model

    section = SECTION.model_copy(update={"method": "lora"})
    model = get_peft_model(load_model(Path(base.uri), torch.float32), adapter(section))
    freeze(model, family, section, train_vision=False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name and not family.is_vision(name) for name in trained)
    for part in ("language_model", *family.projectors[:1]):
        assert any(part in name for name in trained)


@pytest.mark.parametrize("context", ["dialogue", "alone"])
def test_labels_are_the_answers_and_their_ends(
    base: CheckpointRef, family: ModelFamily, rows: list, context: str
) -> None:
    processor = family.load_processor(base.uri, None)
    positions = getattr(load_model(Path(base.uri), torch.float32).base_model, "get_rope_index", None)
    batch = ConversationCollator(processor, 2048, context, positions)(rows)
    for index, row in enumerate(rows):
        conversation = Conversation.model_validate_json(row["record"])
        space = CoordinateSpace.from_processor(processor, conversation.width, conversation.height)
        answers = [fill_boxes(turn.text, conversation.boxes, space) for turn in conversation.turns[1::2]]
        kept = batch["labels"][index] != IGNORE
        assert processor.tokenizer.decode(batch["labels"][index][kept]) == "".join(f"{a}<|im_end|>" for a in answers)
        assert (batch["labels"][index][kept] == batch["input_ids"][index][kept]).all()


@torch.inference_mode()
def test_packed_turns_compute_what_separate_questions_compute(
    base: CheckpointRef, family: ModelFamily, rows: list
) -> None:
    processor = family.load_processor(base.uri, None)
    model = AutoModelForImageTextToText.from_pretrained(base.uri, dtype=torch.float32).eval()
    extra = ("labels", "decision", "twins")
    packed = ConversationCollator(processor, 2048, "alone", getattr(model.model, "get_rope_index", None))(rows[:2])
    together = model(**{k: v for k, v in packed.items() if k not in extra}).logits
    for index, row in enumerate(rows[:2]):
        conversation = Conversation.model_validate_json(row["record"])
        places = iter((packed["labels"][index] != IGNORE).nonzero()[:, 0] - 1)
        for turn in range(0, len(conversation.turns), 2):
            single = conversation.model_copy(update={"turns": conversation.turns[turn : turn + 2]})
            batch = ConversationCollator(processor, 2048)([{**row, "record": single.model_dump_json()}])
            alone = model(**{k: v for k, v in batch.items() if k not in extra}).logits
            for position in (batch["labels"][0] != IGNORE).nonzero()[:, 0] - 1:
                assert torch.allclose(together[index, next(places)], alone[0, position], atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (200, 90), (90, 240)])
def test_the_image_budget_bounds_what_the_processor_makes(
    base: CheckpointRef, family: ModelFamily, size: tuple[int, int]
) -> None:
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    for tiles in (1, 3, 5, 9):
        budget = tiles * TILE * TILE
        processor = family.load_processor(base.uri, budget)
        made = processor(text=[processor.image_token], images=[[image]])
        tokens = int((np.asarray(made["input_ids"][0]) == processor.image_token_id).sum())
        assert tokens == family.tokens(processor, width, height)
        seen = np.asarray(made["pixel_values"]).size // 3
        seen //= 1 if family.name == "InternVL" else 2  # Qwen shows an image as two frames
        assert 0 < seen <= budget


def test_the_budget_stays_in_the_saved_processor(base: CheckpointRef, family: ModelFamily, tmp_path: Path) -> None:
    processor = family.load_processor(base.uri, 3 * TILE * TILE)
    processor.save_pretrained(tmp_path)
    again = family.load_processor(tmp_path.as_posix(), None)
    assert family.tokens(again, 640, 480) == family.tokens(processor, 640, 480)
    assert family.tokens(again, 640, 480) <= family.tokens(family.load_processor(base.uri, None), 640, 480)
    with pytest.raises(ValueError, match=r"image budget of 9 px.*raise sft\.image_pixels"):
        family.load_processor(base.uri, 9)


def test_sharding_wraps_the_familys_layers(base: CheckpointRef, family: ModelFamily) -> None:
    model = load_model(Path(base.uri), torch.float32)
    wrapped = fsdp_config(family, model)["transformer_layer_cls_to_wrap"]
    repeated = {
        type(module[0]).__name__
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module)
    } - {"Qwen3VLVisionPatchMerger"}
    assert repeated == set(wrapped)


def test_an_unknown_family_is_refused_by_name(base: CheckpointRef, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'llava'.*Qwen2.5-VL \(qwen2_5_vl\), Qwen3-VL .*InternVL"):
        find_family("llava")
    with pytest.raises(ValueError, match="ends in -HF"):
        find_family("internvl_chat")
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ValueError, match="config.json"):
        family_of(tmp_path)
    with pytest.raises(ValueError, match="expected a transformers model folder"):
        family_of(tmp_path / "none")


def test_the_processor_must_be_the_familys_own(tmp_path: Path) -> None:
    base = write_family("Qwen2.5-VL", tmp_path)
    with pytest.raises(ValueError, match="its processor is Qwen2_5_VLProcessor, expected Qwen3VLProcessor"):
        FAMILIES["Qwen3-VL"].load_processor(base.uri, None)
    assert {family.coordinates for family in FAMILIES.values()} == {"resized_pixels", "per_mille"}
