import json

from artiagent.dataset.diff import compare, text
from artiagent.dataset.facts import describe


def test_a_set_differs_from_itself_in_nothing(curated):
    found = compare(describe(curated), describe(curated))
    assert found["jobs"] == {"shared": 25, "added": 0, "removed": 0}
    assert found["verdicts"] == {"changed": 0, "moves": {}, "examples": {}}
    assert not any(found[topic] for topic in found if topic not in ("sets", "jobs", "sources", "verdicts"))
    assert "verdicts of shared jobs: none changed" in text(found)


def test_what_changed_is_counted_by_topic(curated, pair, make, tmp_path):
    kept = [pair(n, reason="too_similar" if n % 3 == 2 else None) for n in range(15)]
    kept[0] = pair(0, reason="judge_rejected")
    kept[2] = pair(2)
    added = [pair(n, group="hands", licence="CC BY-NC 4.0") for n in range(3)]
    settings = {"sampling": {"solver": "fireflow", "steps": 25}, "agents": {"judge": "judge_add@2#ffffff gpt-4o"}}
    ref = make(tmp_path / "b", [p.model_copy(update=settings) for p in (*kept, *added)])
    (tmp_path / "b" / "audit.json").unlink()
    found = compare(describe(curated), describe(ref))
    assert found["jobs"] == {"shared": 15, "added": 3, "removed": 10}
    assert found["sources"] == {"shared": 3, "added": 1, "removed": 2}
    assert found["verdicts"]["changed"] == 2
    assert found["verdicts"]["moves"] == {
        "add: accepted -> add: judge_rejected": 1,
        "distort/shuffle: too_similar -> distort/shuffle: accepted": 1,
    }
    assert found["verdicts"]["examples"][kept[0].job_id] == ["add: accepted", "add: judge_rejected"]
    assert found["counts"] == {"pairs": [25, 18], "accepted": [15, 11], "hard negatives": [4, 2]}
    assert found["types"]["add judge_rejected"] == [None, 1]
    assert found["types"]["fuse (unscored) tried"] == [1, None]
    assert "add (unscored) tried" not in found["types"]  # one and one
    assert found["licences"] == {"CC-BY-2.0 (vultilion)": [5, None], "CC0-1.0": [20, 15], "CC BY-NC 4.0": [None, 3]}
    assert found["settings"] == {"steps": ["10", "25"]}
    assert found["prompts"] == {
        "judge: judge_add@1#abc123 nano-vl": [25, None], "judge: judge_add@2#ffffff gpt-4o": [None, 18],
    }  # fmt: skip
    assert found["audit"]["verdict"] == ["insufficient n", None]
    assert found["groups"]["hands sources"] == [None, 1]
    json.dumps(found)
    shown = text(found)
    for expected in ("jobs: 15 shared, 3 added, 10 removed", "steps", "add: accepted -> add: judge_rejected"):
        assert expected in shown


def test_sides_are_not_mixed_up(curated, pair, make, tmp_path):
    ref = make(tmp_path / "b", [pair(0)])
    one, other = compare(describe(curated), describe(ref)), compare(describe(ref), describe(curated))
    assert one["counts"]["pairs"] == other["counts"]["pairs"][::-1] == [25, 1]
    assert (one["jobs"]["removed"], one["jobs"]["added"]) == (24, 0)
