"""Vision-language models behind one protocol: what agents ask, and who answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from artiagent.records import CheckpointRef

if TYPE_CHECKING:
    from artiagent.config import VlmSection
    from artiagent.vlm.protocol import Vlm


def load_vlm(section: VlmSection, base: CheckpointRef | None, setting: str) -> Vlm:
    """The backend that a section names, ready to be asked.

    Args:
        section: backend and its options.
        base: model folder of a ``local`` backend whose section names no model.
        setting: where the section stands in the configuration, for messages: "curation.vlm".
    """
    if section.backend == "openai":
        from artiagent.store import home
        from artiagent.vlm.openai import OpenAiVlm

        return OpenAiVlm(section, home() / "vlm-cache" if section.cache else None, setting)
    from artiagent.checkpoints import locate
    from artiagent.vlm.local import LocalVlm

    if section.model is None and base is None:
        raise ValueError(f"{setting}.model: no model given; name a folder or hub id, or set {setting}.backend")
    return LocalVlm(
        locate(section.model) if section.model else base.uri, section.device, section.dtype, section.threads,
        section.batch, section.max_tokens, section.coordinates, section.image_side,
    )  # fmt: skip
