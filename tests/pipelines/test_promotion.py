"""The promotion pipeline on real ZenML and MLflow: answers are written by a scripted model, everything else is real."""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.environment import prepare

prepare()

from artiagent.config import Config  # noqa: E402
from artiagent.evaluation.benchmarks import benchmark_sha256, read_truth  # noqa: E402
from artiagent.images import encode  # noqa: E402
from artiagent.promotion.cli import add_commands  # noqa: E402
from artiagent.promotion.evidence import of_vlm  # noqa: E402
from artiagent.promotion.records import Candidate, Candidates  # noqa: E402
from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport, Prediction  # noqa: E402
from artiagent.store import DatasetWriter, Row, folder_sha256, open_dataset  # noqa: E402
from pipelines import registry_cli  # noqa: E402
from steps import gate, predict_candidate, promote, resolve_candidates  # noqa: E402
from steps.registry import aliases_of, register  # noqa: E402
from steps.resolve_candidates import find  # noqa: E402
from steps.tracking import connect, experiment  # noqa: E402

NAME, N = "artiagent-vlm-gate", 40


class Scripted:
    """Stands for ``evaluation.stage.predict``: a model's weights say how many of its answers are right."""

    def __init__(self):
        self.asked = []

    def __call__(self, section, model, benchmarks, out, name):
        if (done := open_dataset(out)) is not None:
            if done.summary["sha256"] != model.sha256:
                raise ValueError(f"{out}: holds other predictions")
            return done
        self.asked.append(model.sha256)
        correct = json.loads((Path(model.uri) / "config.json").read_text())["correct"]
        writer = DatasetWriter(out, "predictions")
        for benchmark in benchmarks:
            rows = []
            for index, item in enumerate(read_truth(benchmark)):
                verdict = item.faulty if index < correct else not item.faulty
                rows.append(Row(f"{benchmark.name}/{item.item_id}", Prediction(
                    benchmark=benchmark.name, item_id=item.item_id, model=name, model_sha256=model.sha256,
                    prompt_hash="p", verdict=verdict, score=float(verdict), boxes=item.boxes,
                    explanation=item.explanation,
                )))  # fmt: skip
            writer.write(benchmark.name, rows)
        return writer.finish({"model": name, "sha256": model.sha256})


def write_benchmark(path, count=N, seed=0):
    image = encode(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    rows = [
        {"id": f"i{k}", "image": image, "has_artifacts": k % 2 == 0, "bboxes": [[2, 2, 8, 8]] if k % 2 == 0 else [],
         "explanation": "The dog has an extra ear." if k % 2 == 0 else "", "entity": "dog", "part": "ear",
         "fault": "duplication" if k % 2 == 0 else ""}
        for k in range(count)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)


class World:
    """A home with a benchmark and a registry of its own; ``call`` is the command line."""

    def __init__(self, folder):
        self.folder, self.predict = folder, Scripted()
        self.path = folder / "bench.parquet"
        write_benchmark(self.path)
        tree = {
            "profile": "gate",
            "inputs": {"benchmarks": [{"name": "bench", "path": str(self.path)}]},
            "evaluation": {"resamples": 300},
            "registry": {"vlm_name": NAME},
        }
        self.config = Config.model_validate(tree)
        (folder / "gate.yaml").write_text(yaml.safe_dump({"parameters": {"config": tree}}))
        self.client = connect()
        self.models = 0

    def plainly(self, config, order):
        """The pipeline's steps one after the other, without ZenML."""
        candidates = resolve_candidates.run(order)
        sides = [predict_candidate.run(config, order.name, candidates, s) for s in ("challenger", "champion")]
        return promote.run(gate.run(config, order, candidates, *sides))

    def add(self, correct, audit="pass"):
        """Register a model with so many right answers; it challenges."""
        self.models += 1
        folder = self.folder / f"model-{self.models}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"correct": correct, "model": self.models}))
        model = CheckpointRef(name="tuned", uri=str(folder), sha256=folder_sha256(folder))
        curated = self.folder / f"curated-{self.models}"
        data = DatasetWriter(curated, "curated").finish()
        (curated / "audit.json").write_text(json.dumps({"verdict": audit}))
        report = EvaluationReport(
            benchmark="bench", benchmark_sha256=benchmark_sha256(self.config.inputs.benchmarks[0]), prompt_hash="p",
            n=N, n_faulty=N // 2, scores={},
        )  # fmt: skip
        experiment_id = experiment(self.client, "gate")
        run = self.client.create_run(experiment_id).info.run_id
        answers = DatasetRef(kind="predictions", uri="", digest="", rows=0)
        evidence = of_vlm(self.config, data, data, model, answers, report)
        return register(self.client, NAME, model, experiment_id, run, {}, {}, evidence).version

    def call(self, *words):
        parser = argparse.ArgumentParser()

        def add(commands, name, text, command):
            made = commands.add_parser(name, help=text)
            made.set_defaults(command=getattr(registry_cli, command.__closure__[0].cell_contents, None))
            return made

        def options(to):
            to.add_argument("--config", default=self.folder / "gate.yaml")
            to.add_argument("--set", action="append", default=[])

        add_commands(parser.add_subparsers(required=True), add, options)
        arguments = parser.parse_args(list(words))
        return arguments.command(arguments)

    @property
    def aliases(self):
        return aliases_of(self.client, NAME)

    def everything(self):
        versions = self.client.search_model_versions(f"name='{NAME}'")
        runs = self.client.search_runs([experiment(self.client, "gate")])
        told = {v.version: (dict(v.tags), v.description) for v in versions}
        return self.aliases, told, dict(self.client.get_registered_model(NAME).tags), len(runs)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIAGENT_HOME", str(folder / "home"))
        made = World(folder)
        patch.setattr("artiagent.evaluation.stage.predict", made.predict)
        patch.setattr(predict_candidate, "stage_digest", lambda module, root: f"sources of {module}")
        assert made.add(24) == "1"  # the first version of a name is its champion
        yield made


@pytest.fixture
def plain(world, monkeypatch):
    monkeypatch.setattr("pipelines.promotion.ask_gate", world.plainly)


def test_the_gate_from_the_first_challenger_to_a_rollback(world, capsys):
    """One story, as every chapter needs the one before."""
    # Equal: as many right answers on the same images.
    assert world.add(24) == "2"
    assert world.call("promote", "--dry-run") == 1
    said = capsys.readouterr().out
    assert "both score alike" in said and "looks at this revision for gating: 1;" in said
    assert world.aliases == {"champion": "1", "challenger": "2"}
    assert "promotion.state" not in find(world.client, NAME, "2").tags

    # Better by two images: less than the interval.
    assert world.add(26) == "3"
    assert world.call("promote") == 1
    assert "falls short by" in capsys.readouterr().out
    assert world.aliases["champion"] == "1"
    assert find(world.client, NAME, "3").tags["promotion.state"] == "kept"

    # Better beyond it. A dry run decides, counts and changes nothing; answers are not asked for twice.
    assert world.add(36) == "4"
    before = world.everything()
    assert world.call("promote", "--dry-run") == 0
    assert "dry run, nothing was changed: version 4 would be promoted" in capsys.readouterr().out
    after = world.everything()
    gating = f"gating.{benchmark_sha256(world.config.inputs.benchmarks[0])[:16]}"
    assert (before[0], before[1]) == (after[0], after[1])
    assert (before[2][gating], after[2][gating]) == ("2", "3")
    asked = len(world.predict.asked)
    assert world.call("promote") == 0
    assert len(world.predict.asked) == asked == 4
    assert world.aliases == {"champion": "4", "previous": "1", "challenger": "4"}
    version = find(world.client, NAME, "4")
    assert version.tags["gate.count"] == "4"
    artifacts = {file.path for file in world.client.list_artifacts(version.tags["promotion.run"])}
    assert artifacts == {"decision.json", "card.md", "promotion.json"}
    capsys.readouterr()
    assert world.call("models", "card", "champion") == 0
    card = capsys.readouterr().out
    assert "passed the gate" in card and "| macro_f1 | primary |" in card and "looked at 4 times" in card

    # The same promotion once more changes nothing, not even the count.
    before = world.everything()
    assert world.call("promote") == 0
    assert "champion already" in capsys.readouterr().out
    assert world.everything() == before

    assert world.call("rollback", "--reason", "boxes shifted") == 0
    assert world.aliases == {"champion": "1", "previous": "4", "challenger": "4"}
    assert world.call("models", "list") == 0
    assert "rolled back to" in capsys.readouterr().out


def test_a_reason_overrules_the_gate_and_is_kept_with_its_verdict(world, capsys, plain):
    number = world.add(10)
    champion = world.aliases["champion"]
    with pytest.raises(ValueError, match="--force needs --reason"):
        world.call("promote", "--force", "--reason", "  ")
    assert world.call("promote", "--force", "--reason", "answers faster") == 0
    said = capsys.readouterr().out
    assert "gate: kept" in said and "forced: answers faster" in said
    assert world.aliases["champion"] == number and world.aliases["previous"] == champion
    tags = find(world.client, NAME, number).tags
    assert (tags["promotion.action"], tags["promotion.reason"], tags["gate.verdict"]) == (
        "force", "answers faster", "kept",
    )  # fmt: skip
    assert "forced by" in find(world.client, NAME, number).description
    assert world.call("rollback", "--to", champion) == 0


def test_a_person_has_the_last_word_where_that_is_configured(world, capsys, plain):
    number = world.add(37)
    champion = world.aliases["champion"]
    assert world.call("promote", "--set", "promotion.approval=human") == 0
    assert f"artiagent promote --name {NAME} --approve {number} --by NAME" in capsys.readouterr().out
    assert world.aliases["champion"] == champion
    assert world.call("promote", "--approve", number, "--by", "R. Viewer") == 0
    assert world.aliases["champion"] == number
    assert world.call("rollback", "--to", champion) == 0


def test_a_failed_audit_keeps_the_champion(world, capsys, plain):
    world.add(38, audit="fail")
    assert world.call("promote") == 1
    assert "the shortcut audit of the challenger's training data says 'fail'" in capsys.readouterr().out


def test_a_metric_that_nobody_was_asked_for_stops_the_gate(world, capsys, plain):
    world.add(39)
    assert world.call("promote", "--set", "evaluation.tasks=[detection]") == 2
    assert "iou is guarded and cannot be computed" in capsys.readouterr().out
    assert world.call("promote", "--set", "promotion.guarded=[css]") == 2
    assert "css is guarded and cannot be computed" in capsys.readouterr().out


def test_a_broken_or_changed_benchmark_stops_the_gate_with_the_reason(world, capsys, plain):
    champion = world.aliases["champion"]
    shutil.copy(world.path, world.folder / "kept.parquet")
    counts = {k: v for k, v in world.everything()[2].items() if k.startswith("gating")}
    try:
        world.path.write_bytes(world.path.read_bytes()[:500])
        assert world.call("promote") == 2
        assert "revision" in capsys.readouterr().out
        write_benchmark(world.path, seed=1)
        assert world.call("promote") == 2
        assert "the challenger's registered scores are on" in capsys.readouterr().out
        world.path.unlink()
        assert world.call("promote") == 2
        assert "no such file" in capsys.readouterr().out
    finally:
        shutil.copy(world.folder / "kept.parquet", world.path)
    assert world.aliases["champion"] == champion
    assert {k: v for k, v in world.everything()[2].items() if k.startswith("gating")} == counts


def test_without_a_champion_trivial_answers_have_to_be_beaten(world, capsys, plain):
    champion = world.aliases["champion"]
    number = world.add(40)
    world.client.delete_registered_model_alias(NAME, "champion")
    try:
        assert world.call("promote") == 0
        assert "against trivial answers" in capsys.readouterr().out
        assert world.aliases["champion"] == number
    finally:
        world.client.set_registered_model_alias(NAME, "champion", champion)


def test_unknown_names_and_versions_are_named(world):
    with pytest.raises(ValueError, match="no version '99'; known: 1, 2"):
        world.call("promote", "--version", "99")
    with pytest.raises(ValueError, match="no such registered model"):
        world.call("promote", "--set", "registry.vlm_name=artiagent-nothing")
    with pytest.raises(ValueError, match="--reason belongs to --force"):
        world.call("promote", "--reason", "because")


def test_answers_of_the_run_are_reused_only_when_everything_matches(world):
    tags = find(world.client, NAME, "1").tags
    sha, folder = tags["weights_sha256"], world.folder / "answers"
    model = CheckpointRef(name="tuned", uri=str(world.folder / "model-1"), sha256=sha)
    world.predict(world.config.evaluation, model, world.config.inputs.benchmarks, folder, "tuned")
    code = f"sources of {predict_candidate.EVALUATED_BY}"

    def used(**changes):
        known = {"version": "1", "sha256": sha, "predictions": str(folder), "predictions_code": code}
        candidates = Candidates(challenger=Candidate(**known | changes))
        return Path(predict_candidate.run(world.config, NAME, candidates, "challenger").uri)

    assert used() == folder
    kept = used(predictions_code="older sources")
    assert kept.parent.name == "predictions-gate"
    assert used(predictions="") == kept
    other = find(world.client, NAME, "2").tags["weights_sha256"]
    assert used(version="2", sha256=other).parent.name == "predictions-gate"  # the folder holds another model's
