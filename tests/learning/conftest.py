"""Tiny random models in their real on-disk formats, and curated pairs with a fault that can be seen."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import InstructionSection
from artiagent.images import encode
from artiagent.instruction.conversations import build_conversations
from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model
from artiagent.records import (
    Artifact,
    Box,
    CheckpointRef,
    DatasetRef,
    Entity,
    Injection,
    Mask,
    Pair,
    Part,
    PatchMapping,
    Scene,
)
from artiagent.store import DatasetWriter, Row

SIZE = 64
PAIRS = 24
NOTHING = Mask.encode(np.zeros((SIZE, SIZE), bool))


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    folder = tmp_path_factory.mktemp("weights") / "tiny-vl"
    tokenizer = build_tokenizer()
    save_model(folder, build_model(tokenizer, hidden=48, vision_hidden=32, depth=1), build_processor(tokenizer))
    return checkpoint_ref("tiny", str(folder))


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    folder = tmp_path_factory.mktemp("weights") / "tiny-clip"
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = small | {"image_size": 32, "patch_size": 8}
    text = small | {"vocab_size": 64, "max_position_embeddings": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False).save_pretrained(folder)
    return checkpoint_ref("tiny-clip", str(folder))


def make_pair(k: int, rng: np.random.Generator) -> tuple[Pair, dict[str, bytes]]:
    """Two variants a source; the artifact is a bright red square on a dim picture."""
    clean = rng.integers(0, 90, (SIZE, SIZE, 3), dtype=np.uint8)
    x, y = (int(v) * 8 for v in rng.integers(0, 6, 2))
    box = Box(x, y, x + 16, y + 16)
    spoilt = clean.copy()
    spoilt[box.slices] = (250, 20, 20)
    mapping = PatchMapping(grid=(8, 8), targets=(0,), references=(1,))
    artifact = Artifact(
        injection=Injection(tool="add", entity="dog", entity_id="0", part="ear", seed=k, mapping=mapping),
        box=box, region=NOTHING, accepted=True, label="extra ear", explanation="There is an extra ear.",
    )  # fmt: skip
    pair = Pair(
        job_id=f"j{k:03d}", source_id=f"s{k // 2:03d}", group="scenes", variant=k % 2, width=SIZE, height=SIZE,
        prompt="a dog", artifacts=(artifact,), backbone="b", backbone_sha256="0", sampling={},
        caption="a dog", explanation="The dog has an extra ear.",
    )  # fmt: skip
    return pair, {"clean": encode(clean), "artifact": encode(spoilt)}


def make_scene(source: str) -> Scene:
    ear = Part(id="0.ear", name="ear", layer="peripheral", mask=NOTHING, box=Box(48, 48, 56, 56))
    dog = Entity(id="0", name="dog", mask=NOTHING, box=Box(0, 0, 60, 60), parts=(ear,))
    return Scene(
        source_id=source, group="scenes", width=SIZE, height=SIZE, image_sha256="0", caption="a dog", entities=(dog,)
    )


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    rng = np.random.default_rng(0)
    writer: DatasetWriter[Pair] = DatasetWriter(tmp_path_factory.mktemp("data"), "curated", ("clean", "artifact"))
    rows = [make_pair(k, rng) for k in range(PAIRS)]
    writer.write("all", [Row(pair.job_id, pair, images) for pair, images in rows])
    return writer.finish()


@pytest.fixture(scope="session")
def conversations(curated: DatasetRef, tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    folder = tmp_path_factory.mktemp("data")
    writer: DatasetWriter[Scene] = DatasetWriter(folder / "scenes", "scenes")
    writer.write("all", [Row(f"s{k:03d}", make_scene(f"s{k:03d}")) for k in range(PAIRS // 2)])
    return build_conversations(InstructionSection(), curated, writer.finish(), folder / "conversations")
