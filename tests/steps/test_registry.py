import json

import pytest

from pipelines.environment import prepare

prepare()

from artiagent.promotion.evidence import Base, Evidence  # noqa: E402
from artiagent.records import CheckpointRef, EvaluationReport  # noqa: E402
from artiagent.store import folder_sha256  # noqa: E402
from steps.registry import download, read_evidence, register  # noqa: E402
from steps.tracking import connect, experiment, flatten, metric_name  # noqa: E402

NAME = "artiagent-vlm-test"


@pytest.fixture(scope="module")
def client():
    return connect()


@pytest.fixture
def make(tmp_path, client):
    experiment_id = experiment(client, "test")
    run = client.create_run(experiment_id).info.run_id

    def made(weights, evidence_of=lambda model: None):
        folder = tmp_path / weights
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"weights": weights}))
        model = CheckpointRef(name="tuned", uri=str(folder), sha256=folder_sha256(folder))
        return register(
            client, NAME, model, experiment_id, run, {"macro_f1": 0.5}, {"lineage.run": "test-1"}, evidence_of(model)
        )

    return made


@pytest.fixture
def make_with_evidence(make):
    def made(weights, revision):
        report = EvaluationReport(
            benchmark="b", benchmark_sha256=revision, prompt_hash="p", n=1, n_faulty=1, scores={}
        )  # fmt: skip

        def evidence(model):
            return Evidence(
                kind="vlm", profile="test", sha256=model.sha256, base=Base(name="nano-vl", sha256="b" * 64),
                data={"curated": "d" * 64}, rows={"curated": 3}, evaluation=report,
            )  # fmt: skip

        return make(weights, evidence)

    return made


def test_first_version_is_champion_later_ones_challenge(make, client, tmp_path):
    first = make("one")
    assert (first.version, first.aliases, first.created) == ("1", ("challenger", "champion"), True)
    again = make("one")
    assert again == first._replace(created=False)
    second = make("two")
    assert (second.version, second.aliases) == ("2", ("challenger",))
    aliases = client.get_registered_model(NAME).aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": "1", "challenger": "2"}
    assert make("one").aliases == ("challenger", "champion")
    assert len(client.search_model_versions(f"name='{NAME}'")) == 2

    version = client.get_model_version(NAME, "2")
    assert version.tags["weights_sha256"] == second.sha256
    assert version.tags["lineage.run"] == "test-1"
    (metric,) = client.get_logged_model(second.model_id).metrics
    assert (metric.key, metric.value) == ("macro_f1", 0.5)

    fetched = download(f"models:/{NAME}@champion")
    assert fetched.sha256 == first.sha256
    with pytest.raises(ValueError, match="no such registered model"):
        download("models:/artiagent-nothing@champion")
    assert download(f"models:/{NAME}/2").sha256 == second.sha256
    with pytest.raises(ValueError, match="expected models:/NAME@ALIAS"):
        download(f"models:/{NAME}")


def test_evidence_lies_beside_the_version_and_follows_a_new_revision(make_with_evidence, client):
    first = make_with_evidence("three", revision="a" * 64)
    version = client.get_model_version(NAME, first.version)
    assert version.tags["benchmark_sha256"] == "a" * 64
    assert {"profile", "base_sha256", "data.curated", "prompt_hash"} <= version.tags.keys()
    assert "Not judged by a gate yet" in version.description
    assert client.get_logged_model(first.model_id).tags["profile"] == "test"
    assert read_evidence(client, version).sha256 == first.sha256
    names = {file.path for file in client.list_artifacts(version.run_id, "evidence")}
    assert names == {f"evidence/{first.sha256[:16]}.{kind}" for kind in ("json", "md")}

    again = make_with_evidence("three", revision="b" * 64)
    assert (again.version, again.created) == (first.version, False)
    version = client.get_model_version(NAME, first.version)
    assert version.tags["benchmark_sha256"] == "b" * 64
    assert read_evidence(client, version).evaluation.benchmark_sha256 == "b" * 64
    assert read_evidence(client, client.get_model_version(NAME, "1")) is None


def test_names_and_parameters():
    assert flatten({"a": {"b": 1}, "c": [1, 2]}) == {"a.b": "1", "c": "[1, 2]"}
    assert metric_name("loss (val)") == "loss _val_"
