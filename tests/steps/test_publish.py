from artiagent.config import RegistrySection
from artiagent.records import DatasetRef
from pipelines.environment import prepare

prepare()

from steps.publish import run  # noqa: E402


def test_the_acknowledgement_reaches_the_library(monkeypatch):
    asked = []
    monkeypatch.setattr("artiagent.publish.publish", lambda ref, remote, **options: asked.append((remote, options)))
    ref = DatasetRef(kind="curated", uri="/a", digest="1" * 64, rows=1)
    run(RegistrySection(dataset_remote="s3://b", acknowledge_noncommercial=True), ref)
    run(RegistrySection(), ref)
    assert asked == [("s3://b", {"acknowledged": True}), ("remote", {"acknowledged": False})]
