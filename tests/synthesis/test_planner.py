"""The plan is global, seeded and balanced; it depends on nothing but scenes and section."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from artiagent.config import PlanningSection
from artiagent.records import ARTIFACT_TOOLS, DatasetRef, Job
from artiagent.store import DatasetWriter, StoreError, open_dataset, read_json, read_rows
from artiagent.synthesis import planner
from artiagent.synthesis.planner import plan
from tests.synthesis.scenes import write_scenes

SECTION = PlanningSection(benign_share=0.5, artifacts=(0.6, 0.4))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    return write_scenes(tmp_path_factory.mktemp("scenes"), range(30))


@pytest.fixture(scope="module")
def jobs(scenes: DatasetRef, tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    ref = plan(SECTION, scenes, 8, tmp_path_factory.mktemp("jobs") / "a")
    return [row.record for row in read_rows(ref, Job)]


def test_every_source_gets_its_variants(jobs: list[Job]) -> None:
    per_source = Counter(job.source_id for job in jobs if not job.benign)
    assert len(per_source) == 30
    assert set(per_source.values()) == {SECTION.variants}
    assert len({job.job_id for job in jobs}) == len(jobs)


def test_jobs_are_written_as_their_records_would_be(scenes: DatasetRef, tmp_path: Path) -> None:
    ref = plan(SECTION, scenes, 8, tmp_path / "jobs")
    for key, text, _ in read_json(ref):
        job = Job.model_validate_json(text)
        assert (job.job_id, job.model_dump_json()) == (key, text)


def test_tools_balance(jobs: list[Job]) -> None:
    tools = Counter(i.tool for job in jobs if not job.benign for i in job.injections)
    assert set(tools) == set(ARTIFACT_TOOLS)
    assert min(tools.values()) >= 0.6 * max(tools.values())


def test_artifacts_of_one_image_touch_disjoint_patches(jobs: list[Job]) -> None:
    several = [job for job in jobs if len(job.injections) > 1]
    assert several
    for job in several:
        sets = [{*i.mapping.targets, *i.mapping.references} for i in job.injections]
        assert len(set.union(*sets)) == sum(map(len, sets))


def test_layers_decide_the_tool(jobs: list[Job], scenes: DatasetRef) -> None:
    from artiagent.records import Scene

    layers = {
        (row.record.source_id, p.id): p.layer
        for row in read_rows(scenes, Scene)
        for e in row.record.entities
        for p in e.parts
    }
    for job in jobs:
        for i in job.injections:
            if i.tool in ("add", "remove"):
                assert layers[job.source_id, i.part_id] in ("peripheral", "both")
            if i.tool == "distort":
                assert layers[job.source_id, i.part_id] in ("intermediate", "both")


def test_benign_jobs_hold_benign_injections_only(jobs: list[Job]) -> None:
    benign = [job for job in jobs if any(i.tool == "benign" for i in job.injections)]
    assert 5 <= len(benign) <= 25
    assert all(job.benign for job in benign)


def test_same_plan_in_a_new_process(scenes: DatasetRef, tmp_path: Path) -> None:
    here = plan(SECTION, scenes, 8, tmp_path / "here").digest
    code = (
        "import sys; from pathlib import Path; from artiagent.config import PlanningSection;"
        "from artiagent.records import DatasetRef; from artiagent.synthesis.planner import plan;"
        "s=PlanningSection.model_validate_json(sys.argv[1]); r=DatasetRef.model_validate_json(sys.argv[2]);"
        "print(plan(s, r, 8, Path(sys.argv[3])).digest)"
    )
    reference = scenes.model_dump_json()
    arguments = [sys.executable, "-c", code, SECTION.model_dump_json(), reference, str(tmp_path / "there")]
    root = Path(__file__).parents[2]
    done = subprocess.run(arguments, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here


def test_seed_changes_the_plan(scenes: DatasetRef, tmp_path: Path) -> None:
    digests = {plan(PlanningSection(seed=s), scenes, 8, tmp_path / str(s)).digest for s in (0, 1)}
    assert len(digests) == 2


def test_one_tool_only(scenes: DatasetRef, tmp_path: Path) -> None:
    ref = plan(PlanningSection(tools={"remove": 1.0}, benign_share=0), scenes, 8, tmp_path / "r")
    assert {i.tool for row in read_rows(ref, Job) for i in row.record.injections} == {"remove"}


def test_a_killed_plan_goes_on_where_it_was(
    scenes: DatasetRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plan(SECTION, scenes, 8, tmp_path / "whole")
    monkeypatch.setattr(planner, "SOURCES_PER_BATCH", 8)
    write, planned = DatasetWriter.write, []

    def stop(writer: DatasetWriter, batch: str, *content: object) -> None:
        if batch == "0000002":
            raise KeyboardInterrupt
        write(writer, batch, *content)

    with monkeypatch.context() as patch:
        patch.setattr(DatasetWriter, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            plan(SECTION, scenes, 8, tmp_path / "killed")
    first = next((tmp_path / "killed" / "chunks").glob("0000000.*"))
    first.write_bytes(first.read_bytes()[:-1])

    def counted(self: planner.BatchPlanner, scene: object, *rest: object) -> list[Job]:
        planned.append(scene)
        return plan_source(self, scene, *rest)

    plan_source = planner.BatchPlanner._plan
    monkeypatch.setattr(planner.BatchPlanner, "_plan", counted)
    again = plan(SECTION, scenes, 8, tmp_path / "killed")
    assert (again.digest, again.summary) == (whole.digest, whole.summary)
    assert len(planned) == 30 - 8
    rejections = [(tmp_path / name / "rejections.json").read_bytes() for name in ("whole", "killed")]
    assert rejections[0] == rejections[1]


def test_a_plan_of_other_settings_is_refused(scenes: DatasetRef, tmp_path: Path) -> None:
    plan(SECTION, scenes, 8, tmp_path / "p")
    with pytest.raises(StoreError, match="other settings or from other data"):
        plan(SECTION, scenes, 16, tmp_path / "p")
    assert open_dataset(tmp_path / "p") is not None


def test_lanes_balance_and_processes_do_not_change_the_plan(
    scenes: DatasetRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "SOURCES_PER_BATCH", 3)
    monkeypatch.setattr(planner, "LANES", 4)
    digests = set()
    for cores in (1, 2):
        monkeypatch.setattr(planner.os, "cpu_count", lambda cores=cores: cores)
        ref = plan(SECTION, scenes, 8, tmp_path / str(cores))
        digests.add(ref.digest)
    assert len(digests) == 1
    tools = Counter(i.tool for row in read_rows(ref, Job) for i in row.record.injections if i.tool != "benign")
    assert {f"planned_{tool}": count for tool, count in tools.items()}.items() <= ref.summary.items()
    assert min(tools.values()) >= 0.6 * max(tools.values())
    assert ref.summary["jobs"] == ref.rows


def test_processes_wait_for_the_batches_that_theirs_follow() -> None:
    assert planner._workers([], 16) >= 1
    assert planner._workers(list(range(98)), 1) == 1
    for missing in ([0, 16], [0, 1, 16], [5, *range(9, 98)], list(range(98))):
        in_flight = 2 * planner._workers(missing, 16)
        done_when_handed_out = {index: missing[: max(0, n - in_flight + 1)] for n, index in enumerate(missing)}
        if in_flight > 2:
            assert all(i - 16 in done or i - 16 not in missing for i, done in done_when_handed_out.items())


def test_a_plan_in_lanes_mends_its_holes(scenes: DatasetRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "SOURCES_PER_BATCH", 3)
    monkeypatch.setattr(planner, "LANES", 4)
    monkeypatch.setattr(planner.os, "cpu_count", lambda: 1)
    whole = plan(SECTION, scenes, 8, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(DatasetWriter, "finish", lambda *_: None)
        plan(SECTION, scenes, 8, tmp_path / "holes")
    for batch in (0, 4, 5):
        next((tmp_path / "holes" / "chunks").glob(f"{batch:07d}.*")).unlink()
    assert plan(SECTION, scenes, 8, tmp_path / "holes").digest == whole.digest
