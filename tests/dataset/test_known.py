import shutil
from pathlib import Path

import pytest

from artiagent.dataset.known import UnknownSet, known_sets, resolve
from artiagent.publish import Pointer, publish


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def store(home, make, pair):
    """Two sets where the pipeline would keep them."""
    return [make(home / "store" / "curated" / name, [pair(n)]) for n, name in enumerate("ab")]


def test_found_by_folder_and_by_the_beginning_of_a_digest(store):
    first, second = store
    assert resolve(first.uri).digest == resolve(first.digest[:8]).digest == first.digest
    assert resolve(second.digest.upper()[:12]).uri == second.uri
    assert [entry.digest for entry in known_sets()] == sorted(ref.digest for ref in store)


def test_what_is_not_meant_is_refused_with_what_there_is(store, home, tmp_path):
    known = store[0].digest[:12]
    with pytest.raises(UnknownSet, match=f"no known digest begins so.*{known}"):
        resolve("ffffffff" if not known.startswith("ffffffff") else "00000000")
    with pytest.raises(UnknownSet, match="no known digest begins so"):
        resolve(known[:3])  # too short to mean anything
    with pytest.raises(UnknownSet, match="no complete data set there"):
        resolve(str(tmp_path))
    with pytest.raises(UnknownSet, match="a set of curated, expected scenes"):
        resolve(store[0].uri, ("scenes",))
    for digest in ("abcd1" * 10, "abcd2" * 10):
        pointer = Pointer(kind="curated", digest=digest, md5="m", path="p.dvc", size=1, files=1, remote="r")
        (home / "datasets" / "pointers").mkdir(parents=True, exist_ok=True)
        (home / "datasets" / "pointers" / f"{digest}.json").write_text(pointer.model_dump_json())
    with pytest.raises(UnknownSet, match="more than one digest begins so .these: abcd1abcd1ab, abcd2abcd2ab"):
        resolve("abcd")


def test_a_published_set_is_fetched_when_it_is_nowhere_else(store, home):
    made = store[0].model_copy(update={"summary": {"lineage.run": "nano-1"}})
    pointer = publish(made, "remote")
    shutil.rmtree(made.uri)
    assert [entry.folder for entry in known_sets() if entry.digest == made.digest] == [None]
    fetched = resolve(made.digest[:10])
    assert fetched.digest == made.digest and fetched.rows == 1
    assert fetched.summary["lineage.run"] == "nano-1"
    assert "nano-1" in (Path(fetched.uri) / "README.md").read_text()  # the card travels
    assert fetched.uri == str(home / "datasets" / pointer.path.removesuffix(".dvc"))
