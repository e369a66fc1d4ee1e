"""Miniature copies of the published layouts, traps included; every builder returns the set that reads its folder."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image

from artiagent.config import BenchmarkSet

WIDTH, HEIGHT = 60, 40


def picture(width: int = WIDTH, height: int = HEIGHT, seed: int = 0, form: str = "PNG") -> bytes:
    """An encoded image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(pixels, form)


def encoded(values: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    if form == "NPY":
        np.save(buffer, values)
    else:
        Image.fromarray(values).save(buffer, form)
    return buffer.getvalue()


def artibench_row(**change: Any) -> dict[str, Any]:
    row = {"image": {"bytes": picture(), "path": "a.png"}, "has_artifacts": True}
    return row | {"bboxes": [[1.5, 2.0, 10.2, 20.0]], "explanation": "Odd."} | change


def artibench(folder: Path, *shards: Sequence[dict[str, Any]]) -> BenchmarkSet:
    """Parquet shards ``data/test-<k>.parquet``, and the loose image of each row, cut in half."""
    (folder / "data").mkdir(parents=True)
    clean = artibench_row(has_artifacts=False, bboxes=[], explanation=None)
    for k, rows in enumerate(shards or ([artibench_row()], [clean])):
        pq.write_table(pa.Table.from_pylist(list(rows)), folder / "data" / f"test-{k:05d}.parquet")
    (folder / "a.png").write_bytes(picture()[:400])
    return BenchmarkSet(name="ArtiBench", path=str(folder))


# Rings in each other, a part outside, a polygon without area, one that leaves the image by rounding.
REFERENCES: dict[str, list[dict[str, Any]]] = {
    "one.jpg": [
        {"sentence": "an extra finger", "explanation": "six", "bbox": [2, 2, 20, 20], "segmentation": [
            [2, 2, 20, 2, 20, 20, 2, 20], [5, 5, 10, 5, 10, 10, 5, 10],
        ]},
        {"sentence": "a bent ear", "explanation": "bent", "bbox": [30, 10, 50, 30], "segmentation": [
            [30, 10, 50, 10, 40, 30],
        ]},
    ],
    "two.png": [
        {"sentence": "a wheel", "explanation": "", "bbox": [0, 0, 9, 9], "segmentation": [
            [40, 20, 60 + 1e-13, 20, 60 + 1e-13, 40, 40, 40], [1, 1, 5, 5, 9, 9], [50, 30, 75, 30, 75, 39, 50, 39],
        ]},
    ],
}  # fmt: skip


def synthscars(
    folder: Path, references: dict[str, list[dict[str, Any]]] = REFERENCES, encoding: str = "utf-8", **record: Any
) -> BenchmarkSet:
    """``SynthScars/test``: the images, and annotations whose file names carry the authors' own folders."""
    root = folder / "SynthScars" / "test"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    entries = []
    for k, (name, refs) in enumerate(references.items()):
        form = "JPEG" if name.endswith("jpg") else "PNG"
        (root / "images" / name).write_bytes(picture(seed=k, form=form))
        told = f'"The image shows {refs[0]["sentence"]}."'
        entries.append({str(k): {"img_file_name": f"/data/scars/{name}", "caption": told, "refs": refs} | record})
    (root / "annotations" / "test.json").write_bytes(json.dumps(entries).encode(encoding))
    return BenchmarkSet(name="SynthScars", layout="synthscars", path=str(folder / "SynthScars"))


PROBLEMS: dict[str, dict[str, Any]] = {
    "0a-1.png": {
        "global": [{"desc": "Too smooth."}],
        "regional": [{"region": [10.5, 4.25, 20.0, 8.5], "desc": "No join."}, {"region": [0, 30, 60, 10], "desc": ""}],
    },
    "0b-2.jpg": {"global": [{"desc": ""}], "regional": [{"region": [30, 5, 10, 20], "desc": "Two suns."}]},
}


def loki(folder: Path, problems: dict[str, Any] = PROBLEMS, encoding: str = "utf-16") -> BenchmarkSet:
    """``data_json/image/open_ended_vqa.json`` beside other questions, and ``media_data/image``."""
    (folder / "media_data" / "image").mkdir(parents=True)
    (folder / "data_json" / "image").mkdir(parents=True)
    entries = []
    for k, (name, problem) in enumerate(problems.items()):
        form = "JPEG" if name.endswith("jpg") else "PNG"
        (folder / "media_data" / "image" / name).write_bytes(picture(seed=k, form=form))
        entry = {"image_path": f"media_data/image/{name}", "problems": problem, "id": f"id-{k}", "metric": "judge"}
        entries.append(entry | {"question_type": "image_open_ended_vqa", "choices": [], "answer": ""})
    place = folder / "data_json" / "image"
    (place / "open_ended_vqa.json").write_bytes(json.dumps(entries).encode(encoding))
    (place / "true_or_false.json").write_text("[]")
    return BenchmarkSet(name="LOKI", layout="loki", path=str(folder))


def heat_map(height: int = HEIGHT, width: int = WIDTH, peak: int = 255) -> np.ndarray:
    """uint8 [height, width]: a cone from ``peak`` in the middle of the left half to 0."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot((rows - height / 2) / height, (columns - width / 4) / width)
    return np.clip(peak * (1 - 4 * distance), 0, 255).astype(np.uint8)


MAPS: dict[str, np.ndarray] = {
    "train/11-aa.png": heat_map(),
    "train/22-bb.png": np.zeros((HEIGHT, WIDTH), np.uint8),
    "train/33-cc.png": heat_map(2 * HEIGHT, 2 * WIDTH, peak=200),
    "train/44-dd.png": heat_map(peak=60),  # marked, but nowhere as hot as .3
}


def richhf(folder: Path, maps: dict[str, np.ndarray | bytes] = MAPS, pick_a_pic: bool = True) -> BenchmarkSet:
    """``test.tfrecord`` beside the other splits; images as Pick-a-Pic's rows (each image in several) or a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for name, heat in maps.items():
        data = heat if isinstance(heat, bytes) else encoded(heat)
        features = {"filename": name.encode(), "artifact_map": data, "misalignment_map": encoded(heat_map())}
        records.append(example(features | {"artifact_score": 0.25, "overall_score": 0.5}))
    (folder / "test.tfrecord").write_bytes(tfrecord(records))
    (folder / "train.tfrecord").write_bytes(b"")
    images = folder / "pick-a-pic"
    images.mkdir()
    uids = [Path(name).stem for name in maps]
    if pick_a_pic:
        pictures = {uid: picture(seed=k, form="JPEG") for k, uid in enumerate(uids)} | {"other": picture(form="JPEG")}
        pairs = [("other", uid) for uid in reversed(uids)] + [(uid, "other") for uid in uids]
        rows = [
            {"image_0_uid": a, "jpg_0": pictures[a], "model_0": f"m-{a}",
             "image_1_uid": b, "jpg_1": pictures[b], "model_1": f"m-{b}", "caption": "a cat"}
            for a, b in pairs
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), images / "test-00000-of-00001.parquet", row_group_size=3)
    else:
        for k, uid in enumerate(uids):
            (images / f"{uid}.jpg").write_bytes(picture(seed=k, form="JPEG"))
    return BenchmarkSet(name="RichHF", layout="richhf", path=str(folder), images=str(images))


def tfrecord(records: Sequence[bytes]) -> bytes:
    """The framing, with check sums computed bit by bit."""
    framed = b""
    for record in records:
        length = struct.pack("<Q", len(record))
        framed += length + struct.pack("<I", _masked(length)) + record + struct.pack("<I", _masked(record))
    return framed


def _masked(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def _message_class() -> type:
    """``tf.train.Example`` as its public .proto describes it."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="mini", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    repeated, single = field.LABEL_REPEATED, field.LABEL_OPTIONAL

    def add(name: str, *fields: tuple[str, int, int, int, str]) -> descriptor_pb2.DescriptorProto:
        message = file.message_type.add(name=name)
        for title, number, label, kind, of in fields:
            message.field.add(
                name=title, number=number, label=label, type=kind, type_name=f".mini.{of}" if of else None
            )
        return message

    add("BytesList", ("value", 1, repeated, field.TYPE_BYTES, ""))
    add("FloatList", ("value", 1, repeated, field.TYPE_FLOAT, ""))
    add("Int64List", ("value", 1, repeated, field.TYPE_INT64, ""))
    kinds = (("bytes_list", 1, "BytesList"), ("float_list", 2, "FloatList"), ("int64_list", 3, "Int64List"))
    feature = add("Feature", *((title, number, single, field.TYPE_MESSAGE, of) for title, number, of in kinds))
    feature.oneof_decl.add(name="kind")
    for part in feature.field:
        part.oneof_index = 0
    features = add("Features", ("feature", 1, repeated, field.TYPE_MESSAGE, "Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=single, type=field.TYPE_STRING)
    entry.field.add(name="value", number=2, label=single, type=field.TYPE_MESSAGE, type_name=".mini.Feature")
    add("Example", ("features", 1, single, field.TYPE_MESSAGE, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("mini.Example"))


_EXAMPLE = _message_class()


def example(features: dict[str, bytes | float | int | list[float]]) -> bytes:
    """A serialised Example, written by protobuf's own library."""
    message = _EXAMPLE()
    for name, value in features.items():
        feature = message.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.float_list.value.extend(value if isinstance(value, list) else [value])
    return message.SerializeToString(deterministic=True)
