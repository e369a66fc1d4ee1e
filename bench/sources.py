"""What large input sets cost: a folder of 200,000 files, and COCO's largest annotation file at its published size.

Nothing is downloaded: the folder holds empty files, and the annotation file is generated with as many images, instances
and coordinates as instances_train2017.json (118,287, 860,001, some 450 MB). Every part runs in a process of its own.

    python bench/sources.py --out /tmp/sources
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from artiagent.config import InputSet
from artiagent.perception.sources import image_names, iter_images, known_grounder, left_out

FILES, IMAGES, INSTANCES, POINTS = 200_000, 118_287, 860_001, 26


def write_folder(root: Path, files: int) -> InputSet:
    for number in range(files):
        path = root / f"{number % 100:02d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return InputSet(name="folder", images=str(root))


def write_coco(root: Path, images: int, instances: int) -> InputSet:
    """A tree whose image files are empty; polygons of POINTS points on average."""
    rng = np.random.default_rng(0)
    (root / "train2017").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    names = [f"{number:012d}.jpg" for number in range(images)]
    for name in names:
        (root / "train2017" / name).touch()
    with (root / "annotations" / "instances_train2017.json").open("w") as file:
        listed = [
            {"id": k, "file_name": n, "width": 640, "height": 480, "license": 1 + k % 8, "coco_url": f"http://x/{n}",
             "date_captured": "2013-11-14 17:02:52", "flickr_url": "http://farm.static/1234567890_abcdef.jpg"}
            for k, n in enumerate(names)
        ]  # fmt: skip
        file.write('{"info": {}, "images": ' + json.dumps(listed) + ', "annotations": [')
        for key in range(instances):
            flat = np.round(rng.uniform(0, 480, 2 * int(rng.integers(8, 2 * POINTS - 8))), 2).tolist()
            note = {"id": key, "image_id": int(rng.integers(images)), "category_id": 1 + key % 80, "iscrowd": 0}
            note |= {"area": 1234.5, "bbox": flat[:4], "segmentation": [flat]}
            file.write((", " if key else "") + json.dumps(note))
        categories = [{"id": 1 + k, "name": "kind " + chr(97 + k // 26) + chr(97 + k % 26)} for k in range(80)]
        licences = [{"id": 1 + k, "name": f"licence {k}"} for k in range(8)]
        file.write('], "categories": ' + json.dumps(categories) + ', "licenses": ' + json.dumps(licences) + "}")
    return InputSet(name="coco", layout="coco", images=str(root))


def measured(part: Callable[[InputSet], int], source: InputSet) -> dict[str, float]:
    """Result, seconds and peak memory (MiB) of ``part`` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (part, source))


def _measure(part: Callable[[InputSet], int], source: InputSet) -> dict[str, float]:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    result = part(source)
    peak, after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, psutil.Process().memory_info().rss
    return {
        "result": result,
        "seconds": round(time.perf_counter() - start, 2),
        "mib_before": before >> 10,
        "mib_peak": peak >> 10,
        "mib_after": after >> 20,
    }


def names(source: InputSet) -> int:
    return len(image_names(source))


def streamed(source: InputSet) -> int:
    return sum(len(image.read()) == 0 for image in iter_images(source))


def plainly(source: InputSet) -> int:
    """For comparison: the file as plain Python objects."""
    document = json.loads((Path(source.images) / "annotations" / "instances_train2017.json").read_bytes())
    return len(document["images"])


def everything(source: InputSet) -> int:
    """What the stage asks for in turn: names, left out, annotations."""
    assert known_grounder(source) is not None
    return len(image_names(source)) + len(left_out(source))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the published size")
    arguments = parser.parse_args()
    folder = write_folder(arguments.out / "folder", int(FILES * arguments.scale))
    coco = write_coco(arguments.out / "coco", *(int(number * arguments.scale) for number in (IMAGES, INSTANCES)))
    file = Path(coco.images) / "annotations" / "instances_train2017.json"
    print(f"{file.name}: {file.stat().st_size / 1e6:.0f} MB")
    few = coco.model_copy(update={"categories": ("kind aa", "kind ab"), "instances": (1, 2)})
    for title, part, source in (
        ("folder, names", names, folder), ("folder, read", streamed, folder), ("coco, names", names, coco),
        ("coco, json.loads alone", plainly, coco),
        ("coco, all", everything, coco), ("coco, two categories, all", everything, few),
    ):  # fmt: skip
        print(f"{title}: {measured(part, source)}", flush=True)


if __name__ == "__main__":
    main()
