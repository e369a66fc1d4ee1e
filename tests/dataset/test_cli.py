import json

import pytest

from artiagent import cli


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_list_card_and_diff_speak_of_digests(home, make, pair, capsys, tmp_path):
    assert cli.main(["data", "list"]) == 0
    assert "no curated sets yet" in capsys.readouterr().out
    left, right = (make(home / "store" / "curated" / str(n), [pair(n), pair(9)]) for n in range(2))
    assert cli.main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(ref.digest[:16] for ref in (left, right))
    assert all("2 pairs  not published" in line for line in lines)
    assert cli.main(["data", "card", left.digest[:8]]) == 0
    assert left.digest in capsys.readouterr().out
    assert cli.main(["data", "card", left.digest[:8], "--out", str(tmp_path / "card")]) == 0
    assert left.digest in (tmp_path / "card" / "README.md").read_text()
    assert cli.main(["data", "diff", left.digest[:8], right.uri]) == 0
    assert "jobs: 1 shared, 1 added, 1 removed" in capsys.readouterr().out
    assert cli.main(["data", "diff", left.digest[:8], right.uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == {"shared": 1, "added": 1, "removed": 1}


@pytest.mark.parametrize("form", ["coco", "datasets", "sharegpt"])
def test_export(home, curated, capsys, tmp_path, form):
    assert cli.main(["data", "export", curated.uri, "--format", form, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "README.md").is_file()
    assert cli.main(["data", "export", curated.uri, "--format", form, "--out", str(tmp_path / "out")]) == 2
    assert "not empty; choose another folder" in capsys.readouterr().err


def test_publish_says_what_is_to_acknowledge(home, make, pair, capsys, tmp_path):
    ref = make(tmp_path / "a", [pair(0, licence="CC BY-NC 4.0")])
    assert cli.main(["data", "publish", ref.uri]) == 2
    assert "1 rows CC BY-NC 4.0 (images)" in capsys.readouterr().err
    assert cli.main(["data", "publish", ref.uri, "--acknowledge-noncommercial"]) == 0
    assert f"curated {ref.digest[:16]}: 7 files" in capsys.readouterr().out
    assert cli.main(["data", "list"]) == 0
    assert f"published to {home / 'remote'}" in capsys.readouterr().out
    assert cli.main(["data", "card", ref.digest[:8]]) == 0
    assert "Acknowledged by whoever" in capsys.readouterr().out


def test_a_set_that_is_not_there(home, capsys):
    assert cli.main(["data", "card", "deadbeef"]) == 2
    assert "no such folder, and no known digest begins so (known: none yet" in capsys.readouterr().err
