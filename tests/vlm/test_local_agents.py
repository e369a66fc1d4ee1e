"""The local backend as agents use it: several images per call, kinds mixed, any chat model's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from artiagent.config import VlmSection
from artiagent.records import CheckpointRef
from artiagent.vlm import load_vlm
from artiagent.vlm.local import LocalVlm
from artiagent.vlm.prompt import question, render
from artiagent.vlm.protocol import Request

TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((128, 128), (96, 160), (64, 64))]


@pytest.fixture(scope="module")
def vlm(tiny_vlm: Path) -> LocalVlm:
    return LocalVlm(tiny_vlm, device="cpu", threads=1, batch_size=2, max_tokens=5)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another family: LLaVA from its own classes, tiny and random, with a processor of its own."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        Qwen2Config,
    )

    from artiagent.nano.vl_model import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=64, patch_size=16),
        text_config=Qwen2Config(**sizes, vocab_size=len(tokenizer), num_key_value_heads=2),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}), tokenizer,
        patch_size=16, vision_feature_select_strategy="default", chat_template=TEMPLATE, num_additional_image_tokens=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("weights") / "tiny-llava"
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def mixed(images: list[np.ndarray]) -> list[Request]:
    """Free and yes/no questions by turns, with one to three images."""
    free = render("caption", version=1)
    asked = question("binary", "Does this image contain visual artifacts?")
    return [
        Request("caption", free, (images[0],), "a"),
        Request("presence", asked, (images[1],), "b", yes_no=True),
        Request("judge", free, tuple(images), "c"),
        Request("presence", asked, (images[0],), "d", yes_no=True),
        Request("caption", free, (images[2],), "e"),
    ]


def test_answers_come_in_order_and_are_those_of_bare_questions(vlm: LocalVlm, images: list[np.ndarray]) -> None:
    answers = list(vlm.ask(mixed(images)))
    text, asked = "Describe the image.", "Does this image contain visual artifacts?"
    assert answers[0].text == vlm.generate([images[0]], [text], 5)[0]
    assert answers[4].text == vlm.generate([images[2]], [text], 5)[0]
    chances = vlm.yes_no([images[1], images[0]], [asked, asked])
    assert [answers[1].probability, answers[3].probability] == pytest.approx(chances, abs=1e-5)
    assert answers[1].text == ("Yes" if chances[0] >= 0.5 else "No") and answers[0].probability is None
    assert answers[2].tokens_in > answers[0].tokens_in + 64 and all(0 < a.tokens_out <= 5 for a in answers)
    assert {a.error for a in answers} == {""}


def test_what_was_spent_is_counted(tiny_vlm: Path, images: list[np.ndarray]) -> None:
    vlm = LocalVlm(tiny_vlm, device="cpu", threads=1, max_tokens=3)
    answers = list(vlm.ask(mixed(images)))
    assert vlm.spent() == {
        "calls": 5, "tokens_in": sum(a.tokens_in for a in answers), "tokens_out": sum(a.tokens_out for a in answers),
    }  # fmt: skip


def test_requests_are_taken_as_a_stream(vlm: LocalVlm, images: list[np.ndarray]) -> None:
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield mixed(images)[1]

    next(iter(vlm.ask(endless())))
    assert len(drawn) == 8  # four batches of two


def test_large_images_are_scaled_and_boxes_with_them(tiny_vlm: Path, images: list[np.ndarray]) -> None:
    vlm = LocalVlm(tiny_vlm, device="cpu", threads=1, image_side=64)
    (small,) = vlm.ask([Request("caption", render("caption"), (images[1],))])
    (whole,) = LocalVlm(tiny_vlm, device="cpu", threads=1).ask([Request("caption", render("caption"), (images[1],))])
    seen = LocalVlm(tiny_vlm, device="cpu", threads=1, image_side=96).space(256, 256)
    assert seen.to_model((0, 0, 256, 128)) == [0, 0, 96, 48] and small.tokens_in < whole.tokens_in
    assert LocalVlm(tiny_vlm, "cpu", threads=1, coordinates="per_mille").space(256, 128).to_model((0, 0, 128, 128)) == [
        0, 0, 500, 1000,
    ]  # fmt: skip


def test_another_family_answers_through_the_same_backend(llava: Path, images: list[np.ndarray]) -> None:
    vlm = LocalVlm(llava, device="cpu", threads=1, batch_size=3, max_tokens=4, coordinates="pixels")
    answers = list(vlm.ask(mixed(images)))
    alone = [next(vlm.ask([request])) for request in mixed(images)]
    assert [a.text for a in answers] == [a.text for a in alone]
    assert 0 < answers[1].probability < 1 and answers[2].tokens_in > answers[0].tokens_in
    assert vlm.space(100, 50).to_model((10, 10, 50, 50)) == [10, 10, 50, 50]
    with pytest.raises(ValueError, match="LlavaProcessor: coordinate convention unknown"):
        LocalVlm(llava, device="cpu", threads=1).space(100, 50)


def test_the_section_chooses_the_model(tiny_vlm: Path, llava: Path) -> None:
    base = CheckpointRef(name="base", uri=str(tiny_vlm), sha256="0")
    section = VlmSection(device="cpu", threads=1)
    assert load_vlm(section, base, "curation.vlm").name == "tiny-vl"
    assert load_vlm(section.model_copy(update={"model": str(llava)}), base, "curation.vlm").name == "tiny-llava"
    with pytest.raises(ValueError, match=r"curation\.vlm\.model: no model given"):
        load_vlm(section, None, "curation.vlm")
