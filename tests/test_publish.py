import pytest

from artiagent.publish import PublishError, find_pointer, publish
from artiagent.records import DatasetRef


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "curated"
    folder.mkdir()
    (folder / "curated-00000-of-00001.parquet").write_bytes(b"rows")
    (folder / "manifest.json").write_text("{}")
    return DatasetRef(kind="curated", uri=str(folder), digest="ab" * 32, rows=1)


def objects(remote):
    return {p.relative_to(remote) for p in remote.rglob("*") if p.is_file() and p.suffix != ".tmp"}


def test_published_once_and_only_again_for_another_remote(dataset, tmp_path):
    repository, remote = tmp_path / "repository", tmp_path / "remote"
    pointer = publish(dataset, str(remote), repository)
    assert (pointer.files, pointer.size, pointer.remote) == (2, 6, str(remote))
    assert (repository / pointer.path).is_file()
    assert (remote / "files" / "md5" / pointer.md5[:2] / pointer.md5[2:]).is_file()
    assert len(objects(remote)) == 3  # two files and the folder's listing
    assert find_pointer(dataset.digest, repository) == pointer

    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert publish(dataset, str(remote), repository) == pointer
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before

    moved = publish(dataset, str(tmp_path / "other"), repository)
    assert moved == pointer.model_copy(update={"remote": str(tmp_path / "other")})
    assert objects(tmp_path / "other") == objects(remote)


def test_failure_leaves_no_pointer(dataset, tmp_path):
    (tmp_path / "remote").write_text("a file where the remote's folder should be")
    with pytest.raises(PublishError, match="dvc add"):
        publish(dataset, str(tmp_path / "remote"), tmp_path / "repository")
    assert find_pointer(dataset.digest, tmp_path / "repository") is None
