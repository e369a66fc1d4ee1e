"""Reward models through the same gate: a real registry, steps in a row; a scripted verifier knows how often it errs."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from artiagent.config import Config
from artiagent.evaluation.benchmarks import benchmark_sha256
from artiagent.promotion.evidence import of_reward
from artiagent.records import CheckpointRef, EvaluationReport
from artiagent.store import DatasetWriter, folder_sha256
from steps import predict_candidate
from steps.registry import aliases_of, register
from steps.resolve_candidates import find
from steps.tracking import connect, experiment
from tests.pipelines.test_promotion import N, World, write_benchmark

NAME = "artiagent-reward-gate"


class ScriptedRewards:
    """Stands for ``open_reward``: the folder says of how many images the sign of the reward is right."""

    def __init__(self):
        self.opened = []

    def __call__(self, reward, clip=None, member=None, device="auto"):
        self.opened.append(reward.sha256)
        correct = json.loads((Path(reward.uri) / "config.json").read_text())["correct"]
        return lambda images: np.array(
            [(1.0 if k % 2 else -1.0) * (1 if k < correct else -1) for k in range(len(images))], dtype=np.float32
        )


class RewardWorld(World):
    """A home with a benchmark and reward models instead of vision-language ones."""

    def __init__(self, folder):
        self.folder, self.path, self.models = folder, folder / "bench.parquet", 0
        write_benchmark(self.path)
        tree = {
            "profile": "gate-rewards",
            "inputs": {"benchmarks": [{"name": "bench", "path": str(self.path)}]},
            "evaluation": {"resamples": 300},
            "registry": {"vlm_name": "artiagent-vlm-nobody", "reward_name": NAME},
        }
        self.config = Config.model_validate(tree)
        (folder / "gate.yaml").write_text(yaml.safe_dump({"parameters": {"config": tree}}))
        self.client = connect()

    def add(self, correct, audit="pass"):
        self.models += 1
        folder = self.folder / f"model-{self.models}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"correct": correct, "model": self.models}))
        model = CheckpointRef(name="reward", uri=str(folder), sha256=folder_sha256(folder))
        curated = self.folder / f"curated-{self.models}"
        data = DatasetWriter(curated, "curated").finish()
        (curated / "audit.json").write_text(json.dumps({"verdict": audit}))
        report = EvaluationReport(
            benchmark="bench", benchmark_sha256=benchmark_sha256(self.config.inputs.benchmarks[0]), prompt_hash="p",
            n=N, n_faulty=N // 2, scores={},
        )  # fmt: skip
        experiment_id = experiment(self.client, "gate-rewards")
        run = self.client.create_run(experiment_id).info.run_id
        evidence = of_reward(self.config, data, model, report)
        return register(self.client, NAME, model, experiment_id, run, {}, {}, evidence).version

    @property
    def aliases(self):
        return aliases_of(self.client, NAME)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate-rewards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIAGENT_HOME", str(folder / "home"))
        # a download leaves MLflow's address in the environment; patched, it goes with this module
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'home' / 'mlflow.db'}")
        made = RewardWorld(folder)
        made.rewards = ScriptedRewards()
        patch.setattr("artiagent.learning.reward.open_reward", made.rewards, raising=False)
        patch.setattr(predict_candidate, "stage_digest", lambda module, root: f"sources of {module}")
        patch.setattr("pipelines.promotion.ask_gate", made.plainly)
        yield made


def test_a_reward_goes_the_way_of_every_model(world, capsys):
    """One story, as every chapter needs the one before."""
    assert world.add(24) == "1"
    assert world.aliases == {"champion": "1", "challenger": "1"}  # somebody has to be there to be beaten
    assert find(world.client, NAME, "1").tags["kind"] == "reward"

    assert world.add(34) == "2"
    assert world.call("promote", "--name", NAME, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "auroc             primary" in said and "recall_at_10      guarded" in said
    assert "would be promoted" in said and world.aliases["champion"] == "1"
    assert world.call("promote", "--name", NAME) == 0
    assert f"{NAME}: champion is version 2, before it version 1; passed the gate" in capsys.readouterr().out
    assert world.aliases == {"champion": "2", "previous": "1", "challenger": "2"}
    assert len(world.rewards.opened) == 2  # rewards of a version are made once

    assert world.call("rollback", "--name", NAME, "--reason", "prefers smooth images") == 0
    assert world.aliases["champion"] == "1"
    assert world.call("promote", "--name", NAME, "--force", "--reason", "false alarm", "--by", "ops") == 0
    assert world.aliases["champion"] == "2"
    capsys.readouterr()
    assert world.call("models", "list") == 0
    assert NAME in capsys.readouterr().out
    assert world.call("models", "card", "champion", "--name", NAME) == 0
    card = capsys.readouterr().out
    assert "forced by ops" in card and "| auroc | primary |" in card and "reward model (verifier)" in card


def test_a_person_may_have_the_last_word_on_rewards_too(world, capsys):
    number = world.add(40)
    assert world.call("promote", "--name", NAME, "--set", "promotion.approval=human") == 0
    assert f"artiagent promote --name {NAME} --approve {number} --by NAME" in capsys.readouterr().out
    assert world.call("promote", "--name", NAME, "--approve", number, "--by", "R. Viewer") == 0
    assert world.aliases["champion"] == number
    assert world.call("rollback", "--name", NAME, "--to", "2") == 0


def test_a_reward_that_learnt_from_data_with_shortcuts_is_kept_out(world, capsys):
    world.add(40, audit="fail")
    assert world.call("promote", "--name", NAME) == 1
    assert "the shortcut audit of the challenger's training data says 'fail'" in capsys.readouterr().out


def test_without_a_champion_equal_rewards_have_to_be_beaten(world, capsys):
    world.add(39)
    world.client.delete_registered_model_alias(NAME, "champion")
    assert world.call("promote", "--name", NAME) == 0
    assert "against trivial answers" in capsys.readouterr().out


def test_a_changed_benchmark_and_another_kind_of_champion_stop_the_gate(world, capsys):
    number = world.add(40)
    champion = world.aliases["champion"]
    world.client.set_model_version_tag(NAME, champion, "kind", "vlm")
    assert world.call("promote", "--name", NAME) == 2
    assert f"version {number} is a reward, the champion a vlm" in capsys.readouterr().out
    world.client.set_model_version_tag(NAME, champion, "kind", "reward")
    kept = world.path.read_bytes()
    write_benchmark(world.path, seed=1)
    assert world.call("promote", "--name", NAME) == 2
    assert "the challenger's registered scores are on" in capsys.readouterr().out
    world.path.write_bytes(kept)


def test_the_vlm_stays_the_default(world):
    with pytest.raises(ValueError, match="artiagent-vlm-nobody: no such registered model"):
        world.call("promote")
