"""What perception in shards costs beside looking: the inventory of many images, a shard's start, sealing, joining.

Writes as many copies of a rendered scene as asked for, told apart by bytes behind the image's end, with annotations.
One shard of 64 is perceived. The others' parts are written with its first scene in every row: joining sees no
difference. Every part runs in a process of its own.

    python bench/perceive_shards.py --out /tmp/perceive --count 100000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artiagent.config import InputSet, PerceptionSection
from artiagent.images import encode
from artiagent.nano.scenes import render_scene
from artiagent.perception.inventory import inventory_of
from artiagent.perception.stage import identity, perceive
from artiagent.records import Mask, Scene
from artiagent.shards import Shard
from artiagent.store import DatasetWriter, Row, read_rows

SHARDS, SECTION, SEED = 64, PerceptionSection(), 3


def write_images(root: Path, count: int) -> InputSet:
    scene = render_scene(SEED)
    data = encode(scene.image)
    shapes = [(e.name, "entity", e.mask) for e in scene.entities]
    shapes += [(p.name, p.layer, p.mask) for e in scene.entities for p in e.parts]
    categories = {key: number for number, key in enumerate(dict.fromkeys((name, layer) for name, layer, _ in shapes))}
    outlines = [(categories[name, layer], Mask.encode(mask).model_dump(mode="json")) for name, layer, mask in shapes]
    document: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    document["categories"] = [{"id": n, "name": name, "layer": layer} for (name, layer), n in categories.items()]
    for number in range(count):
        name = f"{number // 1000:03d}/{number:06d}.png"
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(data + number.to_bytes(8, "big"))
        document["images"].append({"id": number, "file_name": name})
        for category, shape in outlines:
            entry = {"id": len(document["annotations"]), "image_id": number, "category_id": category}
            document["annotations"].append(entry | {"segmentation": shape})
    (root / "coco.json").write_text(json.dumps(document))
    return InputSet(name="copies", images=str(root / "images"), annotations=str(root / "coco.json"))


def bare_inventory(root: Path, source: InputSet) -> int:
    return len(inventory_of([source.model_copy(update={"annotations": None})], None).sources)


def inventory(root: Path, source: InputSet) -> int:
    return len(inventory_of([source], root).sources)


def one_shard(root: Path, source: InputSet) -> int:
    return perceive(SECTION, [source], root / "out", None, Shard(5, SHARDS), root).rows


def other_shards(root: Path, source: InputSet) -> int:
    """Everything of a shard's work but the looking."""
    found = inventory_of([source], root)
    row = next(read_rows(perceive(SECTION, [source.model_copy(update={"limit": 1})], root / "one"), Scene))
    entities = row.record.entities
    counts = {"images": 1, "entities": len(entities), "parts": sum(len(entity.parts) for entity in entities)}
    ids = found.sources
    for index in range(SHARDS):
        shard = Shard(index, SHARDS)
        stamp = identity(SECTION, found, None)
        writer: DatasetWriter[Scene] = DatasetWriter(root / "out", "scenes", ("image",), stamp, shard)
        if writer.sealed() is None:
            for key in (ids[i] for i in shard.part(len(ids))):
                writer.write(key, [Row(key, row.record, row.images)], {"calls": [], "skipped": {}, "counts": counts})
            writer.seal()
    return len(ids)


def joined(root: Path, source: InputSet) -> int:
    return perceive(SECTION, [source], root / "out", listed=root).rows


def measured(part: Callable[[Path, InputSet], int], root: Path, source: InputSet) -> dict[str, float]:
    """Result, seconds and peak memory (MiB) of ``part`` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (part, root, source))


def _measure(part: Callable[[Path, InputSet], int], root: Path, source: InputSet) -> dict[str, float]:
    start = time.perf_counter()
    result = part(root, source)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {"result": result, "seconds": round(time.perf_counter() - start, 1), "mib_peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="new folder; emptied in the end")
    parser.add_argument("--count", type=int, default=100_000)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # or its memory would be counted as the others'
        source = pool.apply(write_images, (arguments.out, arguments.count))
    print(f"annotations: {Path(source.annotations).stat().st_size / 1e6:.0f} MB")
    for part in (bare_inventory, inventory, one_shard, other_shards, joined):
        print(f"{part.__name__}: {measured(part, arguments.out, source)}", flush=True)
    shutil.rmtree(arguments.out)


if __name__ == "__main__":
    main()
