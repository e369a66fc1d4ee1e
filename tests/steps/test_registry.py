import json

import pytest

from pipelines.environment import prepare

prepare()

from artiagent.records import CheckpointRef  # noqa: E402
from artiagent.store import folder_sha256  # noqa: E402
from steps.registry import download, register  # noqa: E402
from steps.tracking import connect, experiment, flatten, metric_name  # noqa: E402

NAME = "artiagent-vlm-test"


@pytest.fixture(scope="module")
def client():
    return connect()


@pytest.fixture
def make(tmp_path, client):
    experiment_id = experiment(client, "test")
    run = client.create_run(experiment_id).info.run_id

    def made(weights):
        folder = tmp_path / weights
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"weights": weights}))
        model = CheckpointRef(name="tuned", uri=str(folder), sha256=folder_sha256(folder))
        return register(client, NAME, model, experiment_id, run, {"macro_f1": 0.5}, {"lineage.run": "test-1"})

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


def test_names_and_parameters():
    assert flatten({"a": {"b": 1}, "c": [1, 2]}) == {"a.b": "1", "c": "[1, 2]"}
    assert metric_name("loss (val)") == "loss _val_"
