"""The plan is global, seeded and balanced; it depends on nothing but scenes and section."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from artiagent.config import PlanningSection
from artiagent.records import ARTIFACT_TOOLS, DatasetRef, Job
from artiagent.store import read_rows
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
