"""The chain with a real S3 server as ZenML's artifact store, as the machines' store and as DVC remote."""

import json
import logging
from pathlib import Path

import pytest

from pipelines.environment import prepare

prepare()

import boto3  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402
from zenml.client import Client  # noqa: E402
from zenml.enums import StackComponentType  # noqa: E402

from artiagent import exchange  # noqa: E402
from artiagent.dataset.pull import find_published, pull_set  # noqa: E402
from artiagent.exchange import folders  # noqa: E402
from artiagent.records import Prediction  # noqa: E402
from artiagent.store import open_dataset, read_rows  # noqa: E402
from pipelines.runs import list_runs  # noqa: E402

BUCKET = "team"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The server, its addresses in the environment, a ZenML stack on it, and a home of its own."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    home = tmp_path_factory.mktemp("machines") / "a"
    with pytest.MonkeyPatch.context() as patch:
        settings = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        places = {"ARTIAGENT_STORE": f"s3://{BUCKET}/store", "ARTIAGENT_HOME": str(home)}
        for name, value in {**settings, **places, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        store = {"path": f"s3://{BUCKET}/zenml", "client_kwargs": json.dumps({"endpoint_url": url})}
        client = Client()
        client.create_stack_component("on-s3", "s3", StackComponentType.ARTIFACT_STORE, store)
        orchestrator = client.active_stack_model.components[StackComponentType.ORCHESTRATOR][0].id
        components = {StackComponentType.ARTIFACT_STORE: "on-s3", StackComponentType.ORCHESTRATOR: orchestrator}
        client.create_stack("on-s3", components)
        yield home, s3, patch
        client.delete_stack("on-s3")
        client.delete_stack_component("on-s3", StackComponentType.ARTIFACT_STORE)
    server.stop()


def keys(s3, prefix):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", [])}


def test_another_machine_has_everything_that_a_run_made(cluster, project, tmp_path):
    home, s3, patch = cluster
    published = f"s3://{BUCKET}/published"
    result = project.run("--stack", "on-s3", "--set", f"registry.dataset_remote={published}")
    assert result.code == 0
    refs, name = project.stages.bundle["refs"], list_runs()[-1].name
    assert {"run.json", "report.html", "registered.json"} <= keys(s3, f"store/runs/{name}/")
    assert keys(s3, "zenml/") and not [key for key in keys(s3, "store/") if "chunks" in key]

    home.rename(home.with_name("away"))
    patch.setenv("ARTIAGENT_HOME", str(home.with_name("b")))
    folders._sent.clear()
    for stage in ("perceive", "plan", "synthesize", "curate", "instruct", "finetune", "evaluate_tuned", "train_reward"):
        got = exchange.fetch(refs[stage])
        assert Path(got.uri).is_relative_to(home.with_name("b")), stage
    curated = exchange.fetch(refs["curate"])
    assert (Path(curated.uri) / "funnel.json").is_file() and len(list(read_rows(curated, Prediction))) == 1
    exchange.fetch_run(name)
    assert list_runs()[-1].name == name
    pulled = pull_set(find_published(curated.digest[:8], published), tmp_path / "out")
    assert pulled.digest == curated.digest == open_dataset(tmp_path / "out").digest
