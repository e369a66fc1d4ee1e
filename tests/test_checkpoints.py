"""Model folders as references."""

from pathlib import Path

import pytest

from artiagent.checkpoints import checkpoint_ref, locate


def test_digest_follows_names_and_contents(tmp_path: Path) -> None:
    def folder(name: str, **files: str) -> str:
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        return checkpoint_ref("m", str(tmp_path / name)).sha256

    first = folder("a", weights="1", config="2")
    assert folder("b", weights="1", config="2") == first
    assert folder("c", weights="1", config="3") != first
    assert folder("d", weights="1", settings="2") != first


def test_a_missing_folder_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="data/weights/none.*dvc pull"):
        locate("data/weights/none")


def test_a_hub_id_without_cache_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="nobody/nothing"):
        locate("nobody/nothing")
