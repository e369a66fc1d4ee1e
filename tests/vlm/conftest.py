"""A tiny random Qwen2.5-VL folder in the real on-disk format."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model

    folder = tmp_path_factory.mktemp("weights") / "tiny-vl"
    tokenizer = build_tokenizer()
    save_model(folder, build_model(tokenizer, hidden=48, vision_hidden=32, depth=1), build_processor(tokenizer))
    return folder
