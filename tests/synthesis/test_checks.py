"""What cannot be rendered is refused before any weights are loaded, by names a person can act on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from artiagent.config import PlanningSection, SynthesisSection
from artiagent.records import CheckpointRef, DatasetRef, Job, PatchMapping, Scene
from artiagent.store import DatasetWriter, Row, read_rows
from artiagent.synthesis.planner import plan
from artiagent.synthesis.render import PairRenderer, Source
from artiagent.synthesis.stage import synthesize
from tests.synthesis.scenes import write_scenes


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetRef, DatasetRef]:
    folder = tmp_path_factory.mktemp("inputs")
    scenes = write_scenes(folder / "scenes", range(3))
    return scenes, plan(PlanningSection(variants=1, benign_share=0), scenes, 8, folder / "jobs")


@pytest.fixture
def refused(
    inputs: tuple, random_flux: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """The message with which inputs are refused; loading the backbone is a failure."""
    monkeypatch.setattr(PairRenderer, "__init__", lambda *_: pytest.fail("weights were loaded"))

    def attempt(
        scenes: DatasetRef = inputs[0], jobs: DatasetRef = inputs[1], generator: CheckpointRef = random_flux
    ) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011  (the callers look at the message)
            synthesize(SynthesisSection(steps=2, workers=1), scenes, jobs, generator, tmp_path / "pairs")
        return str(error.value)

    return attempt


def changed(ref: DatasetRef, record: type, out: Path, **update: object) -> DatasetRef:
    """The data set with fields of its first record changed."""
    writer: DatasetWriter = DatasetWriter(out, ref.kind, ("image",) if ref.kind == "scenes" else ())
    for index, row in enumerate(read_rows(ref, record)):
        found = row.record.model_copy(update=update if index == 0 else {})
        writer.write(f"{index:03d}", [Row(row.key, found, row.images)])
    return writer.finish()


def test_a_size_that_is_no_multiple_of_the_patch(refused: Callable, inputs: tuple, tmp_path: Path) -> None:
    message = refused(scenes=changed(inputs[0], Scene, tmp_path / "scenes", width=132))
    assert "scenes-000000: 132x128 px" in message and "multiples of 8 px" in message


def test_a_plan_for_another_grid(refused: Callable, inputs: tuple, tmp_path: Path) -> None:
    jobs = plan(PlanningSection(variants=1, benign_share=0), inputs[0], 16, tmp_path / "jobs")
    message = refused(jobs=jobs)
    assert "grid of (8, 8)" in message and "has (16, 16)" in message and "job " in message


def test_a_plan_of_other_scenes(refused: Callable, inputs: tuple, tmp_path: Path) -> None:
    assert "which is not in the scene set" in refused(jobs=changed(inputs[1], Job, tmp_path / "jobs", source_id="x"))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"targets": [0, 1], "references": [2]}, "2 targets, but 1 references"),
        ({"targets": [0, 0], "references": [2, 3]}, "occurs twice"),
        ({"targets": [0], "references": [256]}, r"reference patches 256\.\.256: expected 0\.\.255"),
        ({"targets": [-1], "references": [0]}, r"target patches -1\.\.-1"),
    ],
)
def test_mappings_that_cannot_be(mapping: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchMapping(grid=(16, 16), **mapping)


@pytest.mark.parametrize("part", ["vae", "text_encoder_2", "transformer"])
def test_a_missing_component(refused: Callable, random_flux: CheckpointRef, tmp_path: Path, part: str) -> None:
    folder = shutil.copytree(random_flux.uri, tmp_path / "flux")
    shutil.rmtree(folder / part)
    message = refused(generator=random_flux.model_copy(update={"uri": str(folder)}))
    assert str(folder) in message and f"component {part} missing" in message


def test_a_foreign_pipeline(refused: Callable, tmp_path: Path, random_flux: CheckpointRef) -> None:
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    message = refused(generator=random_flux.model_copy(update={"uri": str(tmp_path / "sd")}))
    assert "'StableDiffusionPipeline'" in message and "'FluxPipeline' or 'QwenImagePipeline'" in message


def test_captions_to_come_are_known(inputs: tuple, random_flux: CheckpointRef, tmp_path: Path) -> None:
    seen: list[Source] = []
    original = PairRenderer.__call__

    def noted(self: PairRenderer, source: Source) -> tuple:
        seen.append(source)
        return original(self, source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PairRenderer, "__call__", noted)
        section = SynthesisSection(steps=2, workers=1, prompt_window=2)
        synthesize(section, *inputs, random_flux, tmp_path / "pairs")
    prompts = [source.jobs[0].prompt for source in seen]
    assert [source.ahead for source in seen] == [(prompts[1],), (prompts[2],), ()]
