"""Search, correction and audit on real ZenML and MLflow: the stages are stand-ins that write a page and figures."""

import argparse
import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.environment import prepare

prepare()

from zenml.client import Client  # noqa: E402

from artiagent.mitigation.audit.cli import add_commands as add_audit  # noqa: E402
from artiagent.mitigation.audit.records import AuditReport  # noqa: E402
from artiagent.mitigation.correction.cli import add_commands as add_fix  # noqa: E402
from artiagent.mitigation.search.cli import add_commands as add_search  # noqa: E402
from artiagent.records import Interval, Prediction  # noqa: E402
from artiagent.store import DatasetWriter, Row, runs_dir  # noqa: E402
from steps.report_mitigation import intervals  # noqa: E402
from steps.tracking import connect, experiment, find_run  # noqa: E402

HALF = Interval(value=0.5, low=0.4, high=0.6, n=10)
GAIN = Interval(value=0.2, low=0.1, high=0.3, n=10)


class TinyStages:
    """Stand-ins for the three stage functions; ``calls`` says which ran with what, ``fail`` which shall raise."""

    def __init__(self):
        self.calls, self.fail = [], None

    def search(self, section, evaluation, prompts, generator, reward, clip, vlm, parser, out):
        curve = [HALF.model_dump(), GAIN.model_dump()]
        course = {"curves": {"reward": curve}, "gains": {"reward": GAIN.model_dump(), "faulty": HALF.model_dump()}}
        figures = {"courses": {"random": course}, "remarks": ["random: the reward rises"]}
        return self.made("search", out, figures, section.rounds, *prompts, generator.sha256, reward.sha256)

    def correct(self, section, evaluation, benchmark, inpainter, reward, vlm, parser, out):
        figures = {"scores": {"fixed": HALF.model_dump()}, "counts": {"images": 3}}
        return self.made("correction", out, figures, section.rounds, benchmark.name, inpainter.sha256, vlm.sha256)

    def audit(self, section, evaluation, prompts, generators, vlm, parser, out, benchmarks=()):
        rates = {"images": 4, "prompts": 2, "unread": self.unread, "unanswered": 0, "rate": HALF}
        report = AuditReport(
            vlm=vlm.name, vlm_sha256=vlm.sha256, threshold=section.threshold, resamples=100, detector={},
            generators={ref.name: rates for ref in generators}, contrasts={}, sha256={},
        )  # fmt: skip
        return self.made("audit", out, json.loads(report.model_dump_json()), section.images, *prompts, vlm.sha256)

    unread = 0

    def made(self, kind, out, figures, *content):
        self.calls.append(kind)
        if self.fail == kind:
            raise ValueError(f"{kind}: no usable input; give at least one")
        text = " ".join(map(str, content))
        row = Prediction(
            benchmark="b", item_id=text, model="m", model_sha256="s", prompt_hash="p", verdict=True, score=0.5
        )
        writer = DatasetWriter(out, kind)
        writer.write("a", [Row("k", row)])
        (out / f"{kind}.html").write_text(f"<html>{text}</html>")
        (out / f"{kind}.json").write_text(json.dumps(figures))
        return writer.finish({"images_per_second": 2.5, "generator": "tiny"})


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """``run(*words)`` is the command line on models that are folders with a line of text."""
    folder, stages = tmp_path_factory.mktemp("mitigation"), TinyStages()
    for model in ("sampler", "inpainter", "clip", "parser", "vlm", "reward"):
        (folder / model).mkdir()
        (folder / model / "weights.txt").write_text(model)
    (folder / "sampler" / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    pq.write_table(pa.table({"image": [b"mitigation"]}), folder / "benchmark.parquet")
    (folder / "prompts.txt").write_text("a dog\na cat on a chair\n")
    places = {name: f"{folder}/{name}" for name in ("sampler", "inpainter", "clip", "parser", "vlm")}
    tree = {
        "profile": "tiny-mitigation",
        "inputs": {**places, "benchmarks": [{"name": "b", "path": f"{folder}/benchmark.parquet"}]},
        "search": {"prompts": f"{folder}/prompts.txt"},
        "audit": {"prompts": f"{folder}/prompts.txt", "generators": [{"location": f"{folder}/sampler"}]},
        "registry": {"vlm_name": "artiagent-vlm-mitigation", "reward_name": "artiagent-reward-mitigation"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"parameters": {"config": tree}}))

    def run(*words, models=True):
        stages.calls.clear()
        parser = argparse.ArgumentParser()
        commands = parser.add_subparsers(required=True)

        def add(to, name, text, command):
            made = to.add_parser(name, help=text)
            made.add_argument("--debug", action="store_true")
            made.set_defaults(command=command)
            return made

        def options(to):
            to.add_argument("--config", default=folder / "tiny.yaml")
            to.add_argument("--set", action="append", default=[])

        for adder in (add_search, add_fix, add_audit):
            adder(commands, add, options)
        given = ["--model", f"{folder}/vlm"] if models else []
        given += ["--reward", f"{folder}/reward"] if models and words[0] != "audit" else []
        arguments = parser.parse_args([*words, *given])
        return SimpleNamespace(code=arguments.command(arguments), calls=list(stages.calls))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("artiagent.mitigation.search.stage.search", stages.search)
        patch.setattr("artiagent.mitigation.correction.stage.correct", stages.correct)
        patch.setattr("artiagent.mitigation.audit.stage.audit", stages.audit)
        yield SimpleNamespace(run=run, stages=stages, folder=folder)


def runs_of(kind):
    return sorted(path.name for path in runs_dir().glob(f"{kind}-*"))


COMMANDS = {"search": ("search",), "correction": ("fix", "--benchmark"), "audit": ("audit",)}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_run_leaves_page_figures_and_an_mlflow_run_and_the_second_one_executes_nothing(project, kind, capsys):
    assert project.run(*COMMANDS[kind]).calls == [kind]
    said = capsys.readouterr().out
    (name,) = runs_of(kind)
    assert f"runs/{name}/{kind}.html" in said and f"runs/{name}/{kind}.json" in said
    assert (runs_dir() / name / f"{kind}.html").read_text().startswith("<html>")
    client = connect()
    made = client.get_run(find_run(client, experiment(client, "tiny-mitigation"), name, kind))
    assert made.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(made.info.run_id)} == {f"{kind}.html", f"{kind}.json"}
    metric = {"search": "courses/random/gains/reward", "correction": "scores/fixed", "audit": "generators/sampler/rate"}
    assert {f"{metric[kind]}{end}" for end in ("", ".low", ".high")} <= made.data.metrics.keys()
    assert made.data.metrics["summary/images_per_second"] == 2.5
    assert made.data.params["model.vlm"] == "vlm" and "sha256.vlm" in made.data.tags

    again = project.run(*COMMANDS[kind])
    assert (again.code, again.calls) == (0, [])
    steps = Client().get_pipeline(f"artiagent_{kind}").last_run.steps
    executed = {step for step, ran in steps.items() if ran.status.value != "cached"}
    assert executed == {"report_mitigation"}
    assert runs_of(kind) == [name]


def test_curves_of_a_search_are_metrics_by_round(project):
    project.run("search")
    client = connect()
    run = find_run(client, experiment(client, "tiny-mitigation"), runs_of("search")[0], "search")
    points = client.get_metric_history(run, "courses/random/curves/reward")
    assert [(point.step, point.value) for point in points] == [(1, 0.5), (2, 0.2)]


def test_a_changed_setting_executes_only_its_stage_and_another_section_none(project):
    project.run("search")
    assert project.run("search", "--set", "search.rounds=2").calls == ["search"]
    steps = Client().get_pipeline("artiagent_search").last_run.steps
    executed = {step for step, ran in steps.items() if ran.status.value != "cached"}
    assert executed == {"search", "report_mitigation"}
    assert project.run("search", "--set", "correction.rounds=2").calls == []
    assert project.run("fix", "--benchmark", "--rounds", "1").calls == ["correction"]


def test_other_weights_in_the_same_place_execute_their_stage(project):
    project.run("search")
    weights = project.folder / "sampler" / "weights.txt"
    weights.write_text("trained once more")
    try:
        assert project.run("search").calls == ["search"]
    finally:
        weights.write_text("sampler")
    assert project.run("search").calls == []


def test_models_come_from_the_registry_and_without_one_the_first_run_is_named(project):
    with pytest.raises(ValueError, match=r"artiagent-reward-mitigation@champion: .*'make run' registers the first"):
        project.run("search", models=False)
    with pytest.raises(ValueError, match=r"artiagent-vlm-mitigation@champion: .*'make run' registers the first"):
        project.run("audit", models=False)


def test_a_stage_that_fails_is_told_with_its_reason_and_leaves_no_report(project):
    project.stages.fail = "search"
    before = runs_of("search")
    try:
        with pytest.raises((ValueError, RuntimeError), match="no usable input"):
            project.run("search", "--set", "search.rounds=3")
    finally:
        project.stages.fail = None
    (name,) = set(runs_of("search")) - set(before)
    assert not (runs_dir() / name / "search.html").exists()
    assert project.run("search", "--set", "search.rounds=3").calls == ["search"]


def test_images_that_could_not_be_read_are_an_exit_code(project):
    project.stages.unread = 2
    assert project.run("audit", "--images", "3").code == 3
    project.stages.unread = 0


def test_intervals_are_found_wherever_they_are():
    tree = {"a": {"b": HALF.model_dump()}, "curve": [HALF.model_dump(), {"x": GAIN.model_dump()}], "n": 3, "no": [1]}
    assert list(intervals(tree)) == [("a/b", 0, HALF), ("curve", 1, HALF), ("curve/x", 2, GAIN)]
