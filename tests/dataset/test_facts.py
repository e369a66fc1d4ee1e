from collections import Counter

from artiagent.curation.funnel import funnel
from artiagent.dataset.facts import describe
from artiagent.records import Pair
from artiagent.store import read_rows


def test_one_pass_says_what_the_whole_records_say(curated, pairs):
    facts = describe(curated)
    records = [row.record for row in read_rows(curated, Pair, images=())]
    assert facts.funnel == funnel(records)
    assert facts.accepted == sum(pair.accepted for pair in records)
    assert facts.sources == {pair.source_id for pair in records}
    assert facts.groups["scenes"]["rows"] == 20 and facts.groups["photos"]["sources"] == 1
    assert facts.licences.images == Counter(pair.licence for pair in records)
    assert facts.prompts == {"judge: judge_add@1#abc123 nano-vl": 25}
    assert facts.models == {f"generator {'f' * 64}": 25}
    assert facts.settings == {"solver": {"fireflow": 25}, "steps": {"10": 25}}  # what a batch cost is no setting
    assert set(facts.verdicts) == {pair.job_id for pair in pairs}


def test_verdicts_name_every_artifact(pair, make, tmp_path):
    rejected, kept, clean = pair(2, reason="too_similar"), pair(0), pair(4)
    several = pair(8).model_copy(update={"artifacts": (*kept.artifacts, *rejected.artifacts), "job_id": "two"})
    facts = describe(make(tmp_path / "a", [kept, clean, several]))
    assert facts.verdicts == {
        kept.job_id: "add: accepted",
        clean.job_id: "benign/background: clean",
        "two": "add: accepted, distort/shuffle: too_similar",
    }


def test_settings_digest_sees_settings_and_prompts_only(pair, make, tmp_path):
    def digest(name, **changes):
        return describe(make(tmp_path / name, [pair(0, **changes), pair(1, **changes)])).settings_digest

    base = digest("a")
    assert digest("b", caption="another", licence="MIT") == base
    assert digest("c", sampling={"solver": "fireflow", "steps": 25}) != base
    assert digest("d", agents={"judge": "judge_add@2#ffffff nano-vl"}) != base
