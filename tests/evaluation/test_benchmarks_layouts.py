"""SynthScars, LOKI and RichHF-18K as they are published: each trap is read, each defect is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.evaluation.benchmarks import read_items, read_truth, tally
from artiagent.evaluation.heat import read_heat
from artiagent.evaluation.scoring import scores_of
from artiagent.records import Box, Prediction
from tests.evaluation.layouts import (
    HEIGHT,
    MAPS,
    PROBLEMS,
    REFERENCES,
    WIDTH,
    encoded,
    example,
    heat_map,
    loki,
    picture,
    richhf,
    synthscars,
    tfrecord,
)


def changed(path: Path, change) -> None:
    """Rewrite a JSON file."""
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps(change(content)))


class TestSynthScars:
    def test_references_become_one_mask_and_the_caption_the_explanation(self, tmp_path: Path) -> None:
        one, two = read_truth(synthscars(tmp_path))
        assert (one.item_id, one.faulty, one.boxes) == ("one", True, ())
        assert one.explanation == "The image shows an extra finger."
        mask = one.truth()
        assert mask[7, 7] and mask[15, 15] and mask[15, 40] and not mask[28, 31]  # the inner ring cuts no hole
        assert not mask[:, 21:29].any() and abs(int(mask.sum()) - (18 * 18 + 20 * 20 / 2)) < 40
        assert two.remarks == {"degenerate_polygons": 1, "clipped_polygons": 1}
        assert two.truth()[30:39, 50:].all() and two.truth()[39, 59] and not two.truth()[5, 5]
        assert tally([one, two]) == {"clipped_polygons": 1, "degenerate_polygons": 1}

    def test_an_image_of_which_no_polygon_is_left_is_faulty_without_a_region(self, tmp_path: Path) -> None:
        flat = [{"sentence": "a", "segmentation": [[1, 1, 5, 5, 9, 9], [3, 3, 4, 4]]}]
        (item,) = read_truth(synthscars(tmp_path, {"a.png": flat}))
        assert item.faulty and item.mask is None and not item.localizable
        assert tally([item]) == {"degenerate_polygons": 2, "no_region": 1}

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
    def test_any_unicode_encoding(self, tmp_path: Path, encoding: str) -> None:
        assert len(read_truth(synthscars(tmp_path, encoding=encoding))) == 2

    @pytest.mark.parametrize(
        ("record", "message"),
        [
            ({"caption": None, "refs": None}, r"refs\[0\] has no list 'segmentation'"),
            ({"refs": [{"sentence": "a"}]}, r"refs\[0\] has no list 'segmentation'"),
            ({"refs": [{"segmentation": [["a", "b", 1, 2, 3, 4]]}]}, "is no list of x, y"),
            ({"refs": [{"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}]}, "is no list of x, y"),
            ({"refs": [{"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}]}, "is no list of x, y"),
            ({"refs": [{"segmentation": [[1, 2, 3, 4, 5, 1e9]]}]}, "far outside the image of 60x40"),
            ({"img_file_name": "../../secret.png"}, "images are missing"),
        ],
    )
    def test_broken_records_are_named(self, tmp_path: Path, record: dict[str, Any], message: str) -> None:
        (tmp_path / "secret.png").write_bytes(picture())
        with pytest.raises(ValueError, match=message):
            read_truth(synthscars(tmp_path, {"one.jpg": REFERENCES["one.jpg"]}, **record))

    def test_foreign_files_and_missing_images(self, tmp_path: Path) -> None:
        benchmark = synthscars(tmp_path)
        file = tmp_path / "SynthScars/test/annotations/test.json"
        whole = file.read_bytes()
        file.write_bytes(whole[:-40])
        with pytest.raises(ValueError, match=r"test.json: not whole JSON"):
            read_truth(benchmark)
        file.write_bytes(b"{}")
        with pytest.raises(ValueError, match="expected a list of annotations"):
            read_truth(benchmark)
        file.write_bytes(b'[{"file_name": "a.png"}]')
        with pytest.raises(ValueError, match=r"annotation 0: got .*; expected {id: {img_file_name, caption, refs}}"):
            read_truth(benchmark)
        file.write_bytes(b"[]")
        with pytest.raises(ValueError, match="holds no items"):
            read_truth(benchmark)
        file.write_bytes(whole)
        changed(file, lambda entries: entries + [{"9": next(iter(entries[0].values()))}])
        with pytest.raises(ValueError, match="two annotations of the image"):
            read_truth(benchmark)
        file.write_bytes(whole)
        image = tmp_path / "SynthScars/test/images/two.png"
        image.write_bytes(image.read_bytes()[:500])
        with pytest.raises(ValueError, match=r"two.png: its image cannot be read"):
            read_truth(benchmark)
        image.unlink()
        with pytest.raises(ValueError, match=r"1 of 2 images are missing \(first: '/data/scars/two.png'\)"):
            next(read_items(benchmark))
        with pytest.raises(ValueError, match="expected one test.json below it, found 0"):
            read_truth(benchmark.model_copy(update={"path": str(image.parent)}))

    def test_an_extension_that_differs_is_found_and_two_that_fit_are_not_guessed(self, tmp_path: Path) -> None:
        benchmark = synthscars(tmp_path)
        folder = tmp_path / "SynthScars/test/images"
        (folder / "one.jpg").rename(folder / "one.jpeg")
        assert len(read_truth(benchmark)) == 2
        (folder / "one.png").write_bytes(picture())
        with pytest.raises(ValueError, match="2 images fit the name"):
            read_truth(benchmark)
        (folder / "one.png").rename(folder / "one.jpg")  # the very name wins
        assert len(read_truth(benchmark)) == 2


class TestLoki:
    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig", "utf-8"])
    def test_boxes_are_x_y_width_height(self, tmp_path: Path, encoding: str) -> None:
        first, second = read_truth(loki(tmp_path, encoding=encoding))
        assert first.boxes == (Box(10, 4, 31, 13), Box(0, 30, 60, 40))
        assert second.boxes == (Box(30, 5, 40, 25),)  # as xyxy it would be inverted
        assert (first.explanation, second.explanation) == ("Too smooth. No join.", "Two suns.")
        assert first.item_id == "0a-1" and first.faulty and second.faulty and first.localizable

    @pytest.mark.parametrize(
        ("region", "message"),
        [
            ([30, 5, 40, 25], "leaves the image of 60x40 px"),  # xyxy
            ([30, 5, 0, 20], "no area"),
            ([30, 5, -10, 20], "no area"),
            ([30, 5, 10], r"not \[x, y, width, height\]"),
            ("all", r"not \[x, y, width, height\]"),
            ([30, 5, 10, float("inf")], r"not \[x0, y0, x1, y1\]"),
        ],
    )
    def test_broken_regions_are_named(self, tmp_path: Path, region: Any, message: str) -> None:
        problem = {"global": [{"desc": "x"}], "regional": [{"region": region, "desc": "y"}]}
        with pytest.raises(ValueError, match=message) as error:
            read_truth(loki(tmp_path, {"a.png": problem}))
        assert "a.png" in str(error.value)

    def test_wrong_keys_are_named(self, tmp_path: Path) -> None:
        for k, problem in enumerate(({"global": []}, {"global": [], "regional": [{"region": [1, 2, 3, 4]}]}, None)):
            with pytest.raises(ValueError, match="entry 0: got"):
                read_truth(loki(tmp_path / str(k), {"a.png": problem}))

    def test_images_may_lie_elsewhere(self, tmp_path: Path) -> None:
        benchmark = loki(tmp_path / "json")
        images = tmp_path / "media"
        (tmp_path / "json" / "media_data").rename(images)
        with pytest.raises(ValueError, match="2 of 2 images are missing"):
            read_truth(benchmark)
        assert len(read_truth(benchmark.model_copy(update={"images": str(images)}))) == 2
        plain = [{"file_name": name, "image": picture(form="JPEG")} for name in PROBLEMS]
        pq.write_table(pa.Table.from_pylist(plain), tmp_path / "images.parquet")
        found = list(read_items(benchmark.model_copy(update={"images": str(tmp_path / "images.parquet")})))
        assert [data for _, data in found] == [row["image"] for row in plain]
        pq.write_table(pa.table({"name": ["a"], "image": [b""]}), tmp_path / "images.parquet")
        with pytest.raises(ValueError, match="expected file_name and image, or Pick-a-Pic's"):
            read_truth(benchmark.model_copy(update={"images": str(tmp_path / "images.parquet")}))


class TestRichHF:
    @pytest.mark.parametrize("pick_a_pic", [True, False])
    def test_maps_are_scaled_and_joined_with_their_images(self, tmp_path: Path, pick_a_pic: bool) -> None:
        benchmark = richhf(tmp_path, pick_a_pic=pick_a_pic)
        found = dict((item.item_id, (item, data)) for item, data in read_items(benchmark))
        assert sorted(found) == ["11-aa", "22-bb", "33-cc", "44-dd"]
        assert all(item.faulty for item, _ in found.values())  # nobody said that an unmarked image is clean
        first = found["11-aa"][0]
        assert (first.truth() == (MAPS["train/11-aa.png"] >= 76.5)).all()  # .3 of 255
        for k, name in enumerate(MAPS):
            assert found[Path(name).stem][1] == picture(seed=k, form="JPEG")
        assert first.generator == ("m-11-aa" if pick_a_pic else "")
        assert found["33-cc"][0].truth().shape == (HEIGHT, WIDTH)
        assert {key: found[key][0].localizable for key in found} == {
            "11-aa": True, "22-bb": False, "33-cc": True, "44-dd": False,
        }  # fmt: skip
        assert tally(item for item, _ in found.values()) == {"empty_maps": 1, "no_region": 2, "resized_maps": 1}

    def test_the_threshold_is_the_benchmarks(self, tmp_path: Path) -> None:
        benchmark = richhf(tmp_path)
        areas = []
        for threshold in (0.1, 0.3, 0.9):
            items = read_truth(benchmark.model_copy(update={"heat_threshold": threshold}))
            areas.append({item.item_id: item.truth().sum() for item in items})
        assert areas[0]["11-aa"] > areas[1]["11-aa"] > areas[2]["11-aa"] > 0
        assert areas[0]["44-dd"] > 0 == areas[1]["44-dd"]

    def test_empty_maps_are_reported_apart_and_there_is_no_detection(self, tmp_path: Path) -> None:
        items = read_truth(richhf(tmp_path))
        silent = [
            Prediction(benchmark="r", item_id=i.item_id, model="m", model_sha256="s", prompt_hash="p",
                       verdict=True, score=1.0)
            for i in items
        ]  # fmt: skip
        scores = scores_of(items, silent, ("detection", "localization", "explanation"))
        once = np.ones((1, len(items)), np.float32)
        values = {name: float(score.statistic(once)[0]) for name, score in scores.items()}
        assert values == {
            "iou": 0, "pixel_f1": 0, "empty_on_faulty": 1, "false_alarm_area": 0, "empty_on_clean": 1
        }  # fmt: skip
        assert scores["iou"].n == 2 and scores["empty_on_clean"].n == 2

    def test_exported_maps_of_every_depth_are_the_same_truth(self, tmp_path: Path) -> None:
        benchmark = richhf(tmp_path)
        expected = {item.item_id: item.truth() for item in read_truth(benchmark)}
        forms = {
            "a.png": encoded, "b.png": lambda v: encoded(v.astype(np.uint16) * 257),
            "c.tif": lambda v: encoded(v.astype(np.float32) / 255, "TIFF"),
            "d.npy": lambda v: encoded(v.astype(np.float32) / 255, "NPY"), "e.npy": lambda v: encoded(v[None], "NPY"),
        }  # fmt: skip
        for form, write in forms.items():
            folder = tmp_path / form[0]
            folder.mkdir()
            for name, heat in MAPS.items():
                (folder / f"{Path(name).stem}{form[1:]}").write_bytes(write(heat))
            items = read_truth(benchmark.model_copy(update={"path": str(folder)}))
            assert {item.item_id: item.truth().tobytes() for item in items} == {
                key: mask.tobytes() for key, mask in expected.items()
            }

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "holds no items"),
            (tfrecord([b"no example"]), "record 0 .* expected an Example"),
            (tfrecord([example({"filename": b"a"})]), "expected an Example with filename and artifact_map"),
            (tfrecord([example({"filename": b"a", "artifact_map": b"x"})] * 2), "two maps of the image 'a'"),
            (tfrecord([example({"filename": b"train/zz.png", "artifact_map": b"x"})]), "1 of 1 images are missing"),
            (tfrecord([example({"filename": b"11-aa.png", "artifact_map": b"x"})]), "not a readable heat map"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:681\n", "a Git LFS pointer"),
        ],
        ids=["empty", "no-example", "no-map", "twice", "no-image", "no-heat-map", "pointer"],
    )
    def test_broken_records_are_named(self, tmp_path: Path, data: bytes, message: str) -> None:
        benchmark = richhf(tmp_path)
        (tmp_path / "test.tfrecord").write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_truth(benchmark)

    def test_images_must_be_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="RichHF-18K has no images; set 'images'"):
            read_truth(richhf(tmp_path).model_copy(update={"images": None}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(np.full((4, 4), 7.5, np.float32), "TIFF"), r"values 7.5..7.5; expected 0..1"),
        (encoded(np.full((4, 4), np.nan, np.float32), "NPY"), "expected 0..1"),
        (encoded(np.full((4, 4), -0.1, np.float32), "NPY"), "expected 0..1"),
        (encoded(np.zeros((4, 4), np.int64), "NPY"), "type int64; expected 8 or 16 bit, or float"),
        (encoded(np.zeros((4, 4), np.int32), "TIFF"), "type int32"),
        (encoded(np.zeros((2, 4, 4), np.uint8), "NPY"), r"shape \[2, 4, 4\]; expected one channel"),
        (encoded(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)), "a coloured picture"),
        (encoded(np.array([{"a": 1}], dtype=object), "NPY"), "not a readable heat map .*pickle"),
        (encoded(heat_map())[:60], "not a readable heat map"),
        (b"", "not a readable heat map"),
    ],
)
def test_heat_maps_that_say_nothing_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^here: .*{message}"):
        read_heat(data, "here")


def test_grey_pictures_in_three_channels_and_bits_are_maps() -> None:
    heat = heat_map()
    assert (read_heat(encoded(np.repeat(heat[..., None], 3, axis=2)), "x") == read_heat(encoded(heat), "x")).all()
    assert (read_heat(encoded(heat > 80), "x") == (heat > 80)).all()
