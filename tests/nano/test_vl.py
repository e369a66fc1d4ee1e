"""nano-VL: its files, the truth of its questions, packing, and a training that resumes."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2Tokenizer

from artiagent.instruction import prompts
from artiagent.nano.augment import LIGHT_ONLY, Chances, _mix, _warp, augmented_view
from artiagent.nano.scene_pool import StoredScene
from artiagent.nano.scenes import TRAIN_SEEDS, RenderedScene, render_scene
from artiagent.nano.views import View, patch_classes, patch_labels, view_of
from artiagent.nano.vl import Pretraining, train_vl
from artiagent.nano.vl_batches import Packer, ask_many
from artiagent.nano.vl_evaluation import Asked, score
from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model
from artiagent.nano.vl_tasks import ASK, Exchange, aligned, ask_mismatch, ask_part_in_box, shows, visible_parts
from artiagent.records import Box

TINY = {"hidden": 48, "vision_hidden": 32, "depth": 1}


@pytest.fixture(scope="module")
def processor() -> Qwen2_5_VLProcessor:
    return build_processor(build_tokenizer())


@pytest.fixture(scope="module")
def scenes() -> list[RenderedScene]:
    return [render_scene(TRAIN_SEEDS[10_000_000 + i]) for i in range(12)]


@pytest.fixture(scope="module")
def views(scenes: list[RenderedScene]) -> list[View]:
    return [view_of(scene) for scene in scenes]


@pytest.fixture(scope="module")
def folder(processor: Qwen2_5_VLProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vl")
    save_model(path, build_model(processor.tokenizer, **TINY), processor)
    return path


def test_integers_and_verdicts_are_single_tokens(processor: Qwen2_5_VLProcessor) -> None:
    tokenizer = processor.tokenizer
    box = prompts.format_box([0, 12, 128, 256])
    assert tokenizer.tokenize(box) == ["[", "0", ",", "12", ",", "128", ",", "256", "]"]
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in (prompts.YES, prompts.NO))
    assert all(len(tokenizer(str(n), add_special_tokens=False).input_ids) == 1 for n in range(257))
    assert tokenizer.tokenize("1280") == ["1", "2", "8", "0"]


def test_text_survives_the_tokenizer(processor: Qwen2_5_VLProcessor) -> None:
    text = "The dog's fifth leg, naïve 17 px [3,40,128,9] \N{SNOWMAN}\n"
    assert processor.tokenizer.decode(processor.tokenizer(text).input_ids) == text


def test_the_folder_reloads_and_answers(folder: Path, scenes: list[RenderedScene]) -> None:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert model.dtype == torch.float16
    assert isinstance(processor.tokenizer, Qwen2Tokenizer)
    content = [{"type": "image"}, {"type": "text", "text": prompts.render(prompts.BINARY)}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.fromarray(scenes[0].image)], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 16, 16]]
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 64
    produced = model.float().generate(**inputs, max_new_tokens=3, do_sample=False)
    assert inputs["input_ids"].shape[1] < produced.shape[1] <= inputs["input_ids"].shape[1] + 3


def test_the_generation_mask_covers_the_answers_and_nothing_else(folder: Path, scenes: list[RenderedScene]) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    image = {"type": "image", "image": Image.fromarray(scenes[0].image)}
    messages = [
        {"role": "user", "content": [image, {"type": "text", "text": "Is there a leg in [1,2,3,4]?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": prompts.NO}]},
        {"role": "user", "content": "Describe the image."},
        {"role": "assistant", "content": "a red dog"},
    ]
    made = processor.apply_chat_template(
        [messages], tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    mask = torch.as_tensor(made["assistant_masks"]).bool()
    kept = processor.tokenizer.decode(made["input_ids"][mask])
    assert kept == f"{prompts.NO}<|im_end|>a red dog<|im_end|>"


def test_pixels_are_the_processors(processor: Qwen2_5_VLProcessor, views: list[View]) -> None:
    packed = Packer(processor, 128).pixels(np.stack([view.image for view in views[:2]]))
    made = processor.image_processor([Image.fromarray(view.image) for view in views[:2]], return_tensors="pt")
    torch.testing.assert_close(packed, made.pixel_values, atol=1e-5, rtol=0)


def test_a_packed_question_reads_the_same_logits_as_one_asked_alone(
    processor: Qwen2_5_VLProcessor, views: list[View]
) -> None:
    packer = Packer(processor, 128)
    model = build_model(processor.tokenizer, seed=1, **TINY).eval()
    batch = packer.batch([views[0]], [ask_many(views[0], random.Random(3), 10)], random.Random(1))
    with torch.no_grad():
        packed = model.lm_head(Pretraining(model).encode(batch)[0])[0]
    ids, prefix = batch.input_ids[0], len(packer.prefix)
    used = int((ids != processor.tokenizer.pad_token_id).nonzero().max()) + 1
    first = int(packer.prefix_positions.max()) + 1
    starts = [i for i in range(prefix, used) if batch.position_ids[0, 0, i] == first]
    assert len(starts) >= 3
    for start, end in zip(starts, [*starts[1:], used], strict=True):
        text = processor.tokenizer.decode(torch.cat([ids[:prefix], ids[start:end]]))
        alone = processor(
            text=[text.replace("<|image_pad|>" * 64, "<|image_pad|>")],
            images=[Image.fromarray(views[0].image)],
            return_tensors="pt",
        )
        with torch.no_grad():
            expected = model(**alone).logits[0, prefix:]
        torch.testing.assert_close(packed[start:end], expected, atol=1e-4, rtol=1e-4)


def test_only_answers_are_learned(processor: Qwen2_5_VLProcessor, views: list[View]) -> None:
    packer = Packer(processor, 128)
    exchanges = ask_many(views[1], random.Random(5), 4)
    batch = packer.batch([views[1]], [exchanges], random.Random(0))
    learned = processor.tokenizer.decode(batch.labels[0][batch.labels[0] >= 0])
    assert learned == "".join(f"{exchange.answer}<|im_end|>" for exchange in exchanges)


@pytest.mark.parametrize("augmented", [False, True])
def test_part_in_box_is_balanced_and_true(scenes: list[RenderedScene], augmented: bool) -> None:
    rng = random.Random(0)
    answers = []
    for scene in scenes:
        view = (
            augmented_view(scene, rng, Chances(warp=0.5, erase=0.5, mix=0.5, paste=1.0))
            if augmented
            else view_of(scene)
        )
        for exchange in filter(None, (ask_part_in_box(view, rng) for _ in range(25))):
            box = exchange.fields["box"]
            inside = np.zeros(view.image.shape[:2], bool)
            inside[box.slices] = True
            parts = [part for part in view.named(exchange.fields["part"]) if part.area]
            shares = [(part.mask & inside).sum() / part.area for part in parts]
            truth = exchange.answer == prompts.YES
            assert max(shares, default=0.0) >= 0.7 if truth else max(shares, default=0.0) <= 0.1
            answers.append(truth)
    assert len(answers) > 250
    assert 0.4 < np.mean(answers) < 0.6


def test_counts_places_and_presence_agree_with_the_masks(views: list[View]) -> None:
    rng = random.Random(1)
    checked = {task: 0 for task in (prompts.COUNT, prompts.LOCATE_PART, prompts.PRESENCE)}
    for view in views:
        for task in list(checked) * 8:
            if (exchange := ASK[task](view, rng)) is None:
                continue
            owner = view.kinds.index(exchange.fields["entity"])
            parts = [part for part in view.named(exchange.fields["part"], owner) if part.area >= 24]
            boxes = sorted(list(part.box) for part in parts)
            expected = {
                prompts.COUNT: str(len(parts)),
                prompts.LOCATE_PART: prompts.format_boxes(boxes),
                prompts.PRESENCE: prompts.yes_no(bool(parts)),
            }
            assert exchange.answer == expected[task]
            checked[task] += 1
    assert min(checked.values()) > 20


def test_a_hidden_part_is_gone_and_a_half_hidden_one_is_not_asked_about(scenes: list[RenderedScene]) -> None:
    scene = scenes[0]
    part = max(scene.entities[0].parts, key=lambda p: p.mask.sum())
    whole = view_of(scene).named(part.name, 0)
    seen = max(whole, key=lambda p: p.area)
    assert shows(view_of(scene), part.name, seen.box) is True
    others = np.logical_or.reduce([p.mask for e in scene.entities for p in e.parts if p.name == part.name])
    assert shows(view_of(scene, hidden=others), part.name, seen.box) is False
    rows = np.flatnonzero(part.mask.any(1))
    half = part.mask.copy()
    half[: rows[len(rows) // 4]] = False
    assert shows(view_of(scene, hidden=half | (others & ~part.mask)), part.name, seen.box) is None


def test_a_mirrored_scene_keeps_masks_and_drops_a_caption_about_sides(scenes: list[RenderedScene]) -> None:
    for scene in scenes:
        mirrored = StoredScene.pack(scene).unpack(flip=True)
        assert np.array_equal(mirrored.image, scene.image[:, ::-1])
        for entity, other in zip(scene.entities, mirrored.entities, strict=True):
            assert np.array_equal(entity.mask[:, ::-1], other.mask)
            assert [p.name for p in entity.parts] == [p.name for p in other.parts]
            assert all(np.array_equal(a.mask[:, ::-1], b.mask) for a, b in zip(entity.parts, other.parts, strict=True))
        assert mirrored.caption == ("" if " left " in scene.caption else scene.caption)


def test_erasing_changes_pixels_exactly_where_masks_lost_theirs(scenes: list[RenderedScene]) -> None:
    rng = random.Random(2)
    lost = 0
    for scene in scenes:
        erased, plain = augmented_view(scene, rng, Chances(erase=1.0)), view_of(scene)
        assert erased.image.shape == scene.image.shape
        lost += sum(a.area < b.area for a, b in zip(erased.parts, plain.parts, strict=True))
    assert lost > 5


def test_a_pasted_copy_shows_where_it_is_pasted_and_is_not_counted(scenes: list[RenderedScene]) -> None:
    rng = random.Random(6)
    pasted = 0
    for scene in scenes:
        view = augmented_view(scene, rng, Chances(paste=1.0))
        for copy in (part for part in view.parts if part.pasted):
            assert shows(view, copy.name, copy.box) is True
            assert visible_parts(view, copy.owner, copy.name) is None
            assert not any((copy.mask & part.mask).any() for part in view.parts if part is not copy)
            pasted += 1
    assert pasted >= 6


def test_warping_bends_the_masks_with_the_picture(scenes: list[RenderedScene]) -> None:
    rng = random.Random(4)
    moved = 0
    for scene in scenes:
        coded = replace(scene, image=np.repeat(scene.entities[0].mask[..., None], 3, 2).astype(np.uint8) * 255)
        bent = _warp(coded, rng)
        assert np.array_equal(bent.entities[0].mask, bent.image[..., 0] > 0)
        moved += int((bent.entities[0].mask != scene.entities[0].mask).any())
    assert moved >= 4


def test_what_an_augmentation_left_is_marked_and_light_is_not(scenes: list[RenderedScene]) -> None:
    rng = random.Random(5)
    assert not any(augmented_view(scene, rng, LIGHT_ONLY).altered.any() for scene in scenes)
    for scene in scenes:
        view = augmented_view(scene, rng, Chances(erase=1.0, paste=1.0))
        hidden = np.logical_or.reduce([entity.mask for entity in scene.entities]) & (view.owners == 0)
        assert view.altered.any()
        assert view.altered[hidden].mean() > 0.5 if hidden.sum() > 30 else True


def test_what_a_mixed_in_copy_outweighs_is_hidden(scenes: list[RenderedScene]) -> None:
    rng = random.Random(8)
    for scene in scenes:
        image, hidden = _mix(scene, scene.image, np.zeros((128, 128), bool), rng)
        changed = (image != scene.image).any(2)
        assert 0 < hidden.sum() < 128 * 64
        assert (changed & ~hidden).sum() < 128 * 64
        assert not changed[0, 0] or not changed[-1, -1]


def test_the_heads_learn_what_is_seen_and_what_was_there(processor: Qwen2_5_VLProcessor, scenes: list) -> None:
    packer = Packer(processor, 128)
    scene = scenes[0]
    whole = view_of(scene)
    bare = view_of(scene, hidden=scene.entities[0].mask, image=np.zeros_like(scene.image))
    batch = packer.batch([bare], [[]], random.Random(0), [whole])
    seen, before = batch.targets.labels.chunk(2, 2)
    assert before.sum() > seen.sum()
    colours = batch.targets.colours.chunk(2, 2)
    assert (colours[0] == -1).all()
    assert (colours[1] > -1).any()
    assert not batch.targets.altered.any()
    # Token 0 holds the four patches of the upper left corner, row by row.
    expected = patch_labels(whole, 8)[:2, :2].reshape(-1)
    assert before[0, 0].tolist() == expected.astype(float).tolist()


def test_patch_labels_mark_kind_and_part(views: list[View]) -> None:
    labels = patch_labels(views[0], 8)
    part = max(views[0].parts, key=lambda p: p.area)
    row, column = (int(axis.mean()) // 8 for axis in np.nonzero(part.mask))
    covered = part.mask[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].mean()
    for name in (part.name, views[0].kinds[part.owner]):
        assert labels[row, column, patch_classes()[name]] == (covered >= 0.25)
    assert labels.shape == (16, 16, len(patch_classes()))


def test_scores_of_answers() -> None:
    image = np.zeros((16, 16, 3), np.uint8)

    def scored(task: str, truth: str, said: str) -> float | None:
        return score(Asked(image, Exchange(task, truth)), said)

    assert scored(prompts.PRESENCE, "Yes", "Yes") == 1.0
    assert scored(prompts.PRESENCE, "Yes", "yes, perhaps") is None
    assert scored(prompts.COUNT, "4", "3") == 0.0
    assert scored(prompts.DESCRIBE_IMAGE, "a red dog", "the red cat") == pytest.approx(1 / 3)
    assert scored(prompts.LOCATE_PART, "[[0,0,4,4]]", "[[0,0,4,8]]") == 0.5
    assert scored(prompts.LOCATE_PART, "[[0,0,4,4]]", "[[0,0,4") is None


def test_boxes_are_rounded_outwards_to_the_patch_grid() -> None:
    assert aligned(Box(7, 8, 17, 24)) == Box(0, 8, 24, 24)


def test_training_resumes_where_it_was_killed(tmp_path: Path) -> None:
    settings = {"minutes": 60.0, "batch": 2, "scenes": 4, "held_out": 2, "seed": 3, **TINY}
    first = train_vl(tmp_path / "a", tmp_path / "work", steps=2, **settings)
    second = train_vl(tmp_path / "a", tmp_path / "work", steps=4, **settings)
    whole = train_vl(tmp_path / "b", tmp_path / "other", steps=4, **settings)
    assert (first["steps"], second["steps"], whole["steps"]) == (2, 4, 4)
    assert [point["step"] for point in second["curve"]] == [2, 4]
    saved = json.loads((tmp_path / "a" / "training.json").read_text())
    assert saved["held_out"] == second["held_out"]
    assert 0 <= saved["held_out"]["part_in_box_accuracy"] <= 1
    assert not list(tmp_path.glob(".a.*"))


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    settings = {"minutes": 60.0, "batch": 1, "scenes": 1, "held_out": 1, "steps": 1}
    train_vl(tmp_path / "a", tmp_path / "work", **settings, **TINY)
    with pytest.raises(ValueError, match="another recipe"):
        train_vl(tmp_path / "a", tmp_path / "work", **settings, **{**TINY, "hidden": 96})


def test_what_was_altered_is_asked_for_region_by_region(scenes: list[RenderedScene]) -> None:
    assert ask_mismatch(view_of(scenes[0]), random.Random(0)).answer == "[]"
    altered = np.zeros((128, 128), bool)
    altered[8:24, 64:80] = altered[8:24, 83:90] = True  # 3 px apart: one region
    altered[40:60, 10:30] = True
    altered[100, 100:104] = True  # a speck
    view = replace(view_of(scenes[0]), altered=altered)
    assert ask_mismatch(view, random.Random(0)).answer == "[[10,40,30,60],[64,8,90,24]]"
    many = np.zeros((128, 128), bool)
    many[::32, :] = many[1::32, :] = True
    assert ask_mismatch(replace(view, altered=many), random.Random(0)) is None


def test_the_language_model_learns_places_from_the_mark_before_the_image(processor: Qwen2_5_VLProcessor) -> None:
    """Random pictures say nothing of a place: what is learned comes from rotary distances to the token before them."""
    torch.manual_seed(0)
    learner = Pretraining(build_model(processor.tokenizer, hidden=48, vision_hidden=32, depth=2))
    packer, rng = Packer(processor, 128, row=90), np.random.default_rng(0)
    blank = view_of(render_scene(TRAIN_SEEDS[0]))
    optimizer = torch.optim.AdamW(learner.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        views = [replace(blank, image=rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)) for _ in range(4)]
        batch = packer.batch(views, [[]] * 4, random.Random(0))
        loss = learner._place_loss(batch, learner.encode(batch)[2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.1 < losses[0]  # knowing nothing leaves .33
