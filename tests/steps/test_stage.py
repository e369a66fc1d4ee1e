import importlib
from pathlib import Path

import pytest

from pipelines.environment import prepare

ROOT = prepare()

from artiagent.config import Config  # noqa: E402
from artiagent.lineage import stage_files  # noqa: E402
from artiagent.records import CheckpointRef, DatasetRef  # noqa: E402
from pipelines import ablation, end_to_end  # noqa: E402
from steps.stage import digest_of, out_dir  # noqa: E402

CACHED = sorted({*end_to_end.CACHED, *ablation.CACHED})
EFFECTS = (*end_to_end.EFFECTS, "tabulate")
DATA = DatasetRef(kind="scenes", uri="/a", digest="1" * 64, rows=1)
MODEL = CheckpointRef(name="vlm", uri="/m", sha256="2" * 64)


@pytest.mark.parametrize("name", CACHED)
def test_cache_key_sees_every_source_and_no_other_input(name):
    step = getattr(importlib.import_module(f"steps.{name}"), name)
    policy = step.configuration.cache_policy
    expected = [p.relative_to(ROOT).as_posix() for p in stage_files(f"steps.{name}", ROOT)]
    assert step.configuration.enable_cache is True
    assert policy.file_dependencies == expected
    assert policy.include_artifact_values and not policy.include_artifact_ids
    assert all((ROOT / path).is_file() for path in policy.file_dependencies)


@pytest.mark.parametrize("name", EFFECTS)
def test_effects_always_run_and_make_no_artifact(name):
    step = getattr(importlib.import_module(f"steps.{name}"), name)
    assert step.configuration.enable_cache is False
    assert not step.configuration.outputs


@pytest.mark.parametrize("name", (*CACHED, *EFFECTS))
def test_steps_are_thin_and_import_no_model_library(name):
    text = Path(importlib.import_module(f"steps.{name}").__file__).read_text()
    assert len(text.splitlines()) < 80
    heavy = ("import torch", "import diffusers", "import transformers")
    assert not any(line.startswith(heavy) for line in text.splitlines())


def test_out_dir_depends_on_section_inputs_and_sources():
    section = Config().curation
    base = out_dir("curated", "steps.curate", section, DATA, MODEL)
    others = {
        out_dir("curated", "steps.curate", section.model_copy(update={"seam_max": 9.0}), DATA, MODEL),
        out_dir("curated", "steps.curate", section, DATA.model_copy(update={"digest": "3" * 64}), MODEL),
        out_dir("curated", "steps.curate", section, DATA, MODEL.model_copy(update={"sha256": "4" * 64})),
        out_dir("curated", "steps.plan", section, DATA, MODEL),
    }
    assert base not in others
    assert len(others) == 4
    assert out_dir("curated", "steps.curate", section, DATA.model_copy(update={"uri": "/b"}), MODEL) == base


def test_digest_of_references():
    assert digest_of(DATA) == "1" * 64
    assert digest_of(MODEL) == "2" * 64
