"""Publishing with real DVC: idempotent, with its card, and only with the acknowledgement that a set needs."""

import json
from pathlib import Path

import pytest

from artiagent.config import Config, InputSet
from artiagent.publish import PublishError, check_publishable, find_pointer, licences_named, publish, pull
from artiagent.records import Pair
from artiagent.run_config import parse_config
from artiagent.store import DatasetWriter, Row, open_dataset

DEV = "black-forest-labs/FLUX.1-dev"


def curated(folder, *licences, models=None, summary=None):
    writer = DatasetWriter(folder, "curated", ("clean", "artifact"))
    for n, licence in enumerate(licences):
        pair = Pair(
            job_id=f"j{n}", source_id=f"s{n}", group="g", variant=0, width=8, height=8, prompt="", artifacts=(),
            backbone="generator", backbone_sha256="0", sampling={}, licence=licence, licences=models or {},
        )  # fmt: skip
        writer.write(f"{n}", [Row(pair.job_id, pair, {"clean": b"clean", "artifact": b"artifact"})])
    return writer.finish(summary)


@pytest.fixture
def dataset(tmp_path):
    return curated(tmp_path / "curated", "CC0-1.0", "not stated", summary={"lineage.run": "nano-1"})


def objects(remote):
    return {p.relative_to(remote) for p in remote.rglob("*") if p.is_file() and p.suffix != ".tmp"}


def test_published_once_and_only_again_for_another_remote(dataset, tmp_path):
    repository, remote = tmp_path / "repository", tmp_path / "remote"
    pointer = publish(dataset, str(remote), repository)
    assert (pointer.files, pointer.rows, pointer.remote) == (3, 2, str(remote))
    assert (pointer.acknowledged, pointer.lineage) == ({}, {"run": "nano-1"})
    assert (repository / pointer.path).is_file()
    assert (remote / "files" / "md5" / pointer.md5[:2] / pointer.md5[2:]).is_file()
    assert len(objects(remote)) == 5  # shard, manifest, card, the folder's listing; and the pointer
    assert find_pointer(dataset.digest, tmp_path / "elsewhere", str(remote)) == pointer
    assert not list(repository.glob(".pushing/*"))
    assert all(path.stat().st_mode & 0o200 for path in Path(dataset.uri).iterdir())  # not left protected
    assert find_pointer(dataset.digest, repository) == pointer
    assert open_dataset(Path(dataset.uri)).digest == dataset.digest
    card = (Path(dataset.uri) / "README.md").read_text()
    assert "- run: `nano-1`" in card and "1 pairs not stated (images)" in card  # unknown: named, and no obstacle

    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert publish(dataset, str(remote), repository) == pointer
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before

    moved = publish(dataset, str(tmp_path / "other"), repository)
    assert moved == pointer.model_copy(update={"remote": str(tmp_path / "other")})
    assert objects(tmp_path / "other") == objects(remote)
    pulled = pull(moved, tmp_path / "third")
    assert open_dataset(pulled).digest == dataset.digest


def test_restricted_material_needs_to_be_acknowledged(tmp_path):
    terms = ("CC0-1.0", "Attribution-NonCommercial License", "CC BY-ND 2.0", "CC BY-ND 2.0")
    dev = {f"generator: {DEV}": "FLUX.1-dev Non-Commercial License"}
    dataset = curated(tmp_path / "curated", *terms, models=dev)
    repository = tmp_path / "repository"
    with pytest.raises(PublishError) as refused:
        publish(dataset, str(tmp_path / "remote"), repository)
    for expected in (
        dataset.digest[:12], "1 rows Attribution-NonCommercial License (images)", "2 rows CC BY-ND 2.0 (images)",
        f"4 rows FLUX.1-dev Non-Commercial License (generator: {DEV})", "--acknowledge-noncommercial",
        "registry.acknowledge_noncommercial: true",
    ):  # fmt: skip
        assert expected in str(refused.value)
    assert not repository.exists() and not (tmp_path / "remote").exists()
    assert not (tmp_path / "curated" / "README.md").exists()

    pointer = publish(dataset, str(tmp_path / "remote"), repository, acknowledged=True)
    assert pointer.acknowledged["CC BY-ND 2.0 (images)"] == 2 and len(pointer.acknowledged) == 3
    assert "Acknowledged by whoever" in (tmp_path / "curated" / "README.md").read_text()
    assert publish(dataset, str(tmp_path / "remote"), repository) == pointer  # it is out already


def test_failure_leaves_no_pointer(dataset, tmp_path):
    (tmp_path / "remote").write_text("a file where the remote's folder should be")
    with pytest.raises(PublishError, match="Not a directory"):
        publish(dataset, str(tmp_path / "remote"), tmp_path / "repository")
    assert find_pointer(dataset.digest, tmp_path / "repository") is None


def test_pointers_from_before_cards_are_read(tmp_path):
    (tmp_path / "pointers").mkdir()
    old = {"kind": "curated", "digest": "ab", "md5": "m", "path": "p.dvc", "size": 1, "files": 2, "remote": "r"}
    (tmp_path / "pointers" / "ab.json").write_text(json.dumps(old))
    assert find_pointer("ab", tmp_path).acknowledged == {}


def configured(**tree):
    return parse_config({"inputs": {"sets": []}, **tree})


def coco_file(folder, *ids):
    folder.mkdir(parents=True)
    names = {1: "Attribution-NonCommercial-ShareAlike License", 4: "Attribution License", 7: "No known restrictions"}
    document = {
        "info": {"year": 2017},
        "licenses": [{"url": "http://x/", "id": key, "name": name} for key, name in names.items()],
        "images": [{"license": n, "file_name": f"{k}.jpg", "id": k} for k, n in enumerate(ids)],
        "annotations": [{"id": 1, "caption": "a sign that says \"license\": 1"}],
    }  # fmt: skip
    (folder / "instances_val2017.json").write_text(json.dumps(document, indent=1))
    return folder / "instances_val2017.json"


def with_set(**fields):
    sets = [{"name": "own", "images": "x", **fields}]
    return configured(inputs={"sets": sets})


def test_the_embedded_default_and_one_s_own_images_need_nothing(tmp_path):
    check_publishable(Config())
    check_publishable(with_set(images=str(tmp_path)))
    check_publishable(with_set(images=str(tmp_path), licence="CC-BY-4.0"))
    check_publishable(with_set(layout="caltech101"))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (with_set(layout="celeba_hq"), "input set 'own': CelebA agreement"),
        (with_set(layout="hands11k"), "academic"),
        (with_set(licence="CC BY-NC 4.0"), "input set 'own': CC BY-NC 4.0"),
        (configured(inputs={"sets": [], "generator": DEV}), f"generator {DEV}: FLUX.1-dev Non-Commercial License"),
        (
            configured(curation={"vlm": {"model": "Qwen/Qwen2.5-VL-3B-Instruct"}}),
            "judge Qwen/Qwen2.5-VL-3B-Instruct: Qwen Research License",
        ),
        (
            configured(inputs={"sets": [], "vlm": "Qwen/Qwen2.5-VL-3B-Instruct"}, perception={"vocabulary": "vlm"}),
            "perception Qwen/Qwen2.5-VL-3B-Instruct",
        ),
    ],
)
def test_what_will_be_refused_is_refused_before_any_work(config, named):
    with pytest.raises(PublishError, match="--acknowledge-noncommercial") as refused:
        check_publishable(config)
    assert named in str(refused.value)
    registry = config.registry.model_copy(update={"acknowledge_noncommercial": True})
    check_publishable(config.model_copy(update={"registry": registry}))


def test_models_that_take_no_part_are_not_asked_about():
    curation = {"judge": "none", "explain": "template", "vlm": {"model": "Qwen/Qwen2.5-VL-3B-Instruct"}}
    check_publishable(configured(curation=curation))
    check_publishable(configured(perception={"detection": {"detector": "x/cc-by-nc"}}))


def test_licences_of_coco_are_read_from_its_file(tmp_path, monkeypatch):
    free = coco_file(tmp_path / "free" / "annotations", 4, 7, 4)
    mixed = coco_file(tmp_path / "mixed" / "annotations", 4, 1)
    for size in (2**24, 100):  # in one piece, and cut anywhere
        monkeypatch.setattr("artiagent.publish._SCAN", size)
        assert licences_named(free) == {"Attribution License", "No known restrictions"}
        assert licences_named(mixed) == {"Attribution License", "Attribution-NonCommercial-ShareAlike License"}
    check_publishable(with_set(layout="coco", images=str(tmp_path / "free")))
    check_publishable(with_set(images=str(tmp_path), annotations=str(free)))
    for fields in (
        {"layout": "coco", "images": str(tmp_path / "mixed")},
        {"images": str(tmp_path), "annotations": str(mixed)},
    ):
        with pytest.raises(PublishError, match="input set 'own': Attribution-NonCommercial-ShareAlike License"):
            check_publishable(with_set(**fields))


def test_an_own_licence_does_not_hide_what_the_annotations_say(tmp_path):
    mixed = coco_file(tmp_path / "annotations", 1)
    source = InputSet(name="own", images=str(tmp_path), annotations=str(mixed), licence="CC0-1.0")
    with pytest.raises(PublishError, match="NonCommercial"):
        check_publishable(configured(inputs={"sets": [source.model_dump()]}))
