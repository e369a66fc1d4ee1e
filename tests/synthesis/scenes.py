"""Rendered scenes as the Scene records that perception would write for them."""

from collections.abc import Iterable
from pathlib import Path

from artiagent.grid import mask_box
from artiagent.images import encode
from artiagent.nano.scenes import RenderedScene, render_scene
from artiagent.records import DatasetRef, Entity, Mask, Part, Scene, stable_hash
from artiagent.store import DatasetWriter, Row


def scene_record(rendered: RenderedScene) -> Scene:
    entities = []
    for e in rendered.entities:
        parts = tuple(
            Part(id=f"{e.id}-{k}", name=p.name, layer=p.layer, mask=Mask.encode(p.mask), box=mask_box(p.mask))
            for k, p in enumerate(e.parts)
        )
        entities.append(Entity(id=f"e{e.id}", name=e.name, mask=Mask.encode(e.mask), box=mask_box(e.mask), parts=parts))
    height, width = rendered.image.shape[:2]
    return Scene(
        source_id=f"scenes-{rendered.seed:06d}",
        group="scenes",
        width=width,
        height=height,
        image_sha256=stable_hash(rendered.image.tobytes()),
        caption=rendered.caption,
        entities=tuple(entities),
        licence="CC0-1.0",
        origin=f"scene_{rendered.seed:06d}.png",
        grounding="grounding_dino:grounding-dino-tiny+sam2:sam2.1-hiera-tiny",
        agents={"vocabulary": "vocabulary@1#abc123 gpt-4o"},
    )


def write_scenes(out: Path, seeds: Iterable[int]) -> DatasetRef:
    writer: DatasetWriter[Scene] = DatasetWriter(out, "scenes", ("image",))
    for seed in seeds:
        rendered = render_scene(seed)
        record = scene_record(rendered)
        writer.write(record.source_id, [Row(record.source_id, record, {"image": encode(rendered.image)})])
    return writer.finish()
