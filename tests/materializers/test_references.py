from pathlib import Path
from uuid import uuid4

import pytest

from pipelines.environment import prepare

prepare()

from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport, Interval  # noqa: E402
from materializers import CheckpointMaterializer, DatasetMaterializer, EvaluationMaterializer  # noqa: E402

DATASET = DatasetRef(kind="pairs", uri="/a/b", digest="d" * 64, rows=7, summary={"seconds": 1.5, "dropped:small": 2})
CHECKPOINT = CheckpointRef(name="tuned", uri="/m", sha256="e" * 64, summary={"lineage.run": "nano-1"})
SCORE = Interval(value=0.5, low=0.4, high=0.6, n=20)
REPORT = EvaluationReport(
    benchmark="b",
    benchmark_sha256="f" * 64,
    prompt_hash="p",
    n=20,
    n_faulty=10,
    scores={"<tuned>": {"macro_f1": SCORE}},
)


@pytest.fixture
def place():
    from zenml.client import Client

    folder = Path(Client().active_stack.artifact_store.path) / uuid4().hex
    folder.mkdir()
    return str(folder)


CASES = [
    (DatasetMaterializer, DATASET, {"digest": "x" * 64}),
    (CheckpointMaterializer, CHECKPOINT, {"sha256": "x" * 64}),
    (EvaluationMaterializer, REPORT, {"n": 21}),
]


@pytest.mark.parametrize(("materializer", "value", "_"), CASES)
def test_round_trip(place, materializer, value, _):
    store = materializer(uri=str(place))
    store.save(value)
    assert store.load(type(value)) == value


@pytest.mark.parametrize(("materializer", "value", "change"), CASES)
def test_content_hash_is_the_content(place, materializer, value, change):
    store = materializer(uri=str(place))
    same = value.model_copy(update={"summary": {"seconds": 99.0}})
    assert store.compute_content_hash(same) == store.compute_content_hash(value)
    assert store.compute_content_hash(value.model_copy(update=change)) != store.compute_content_hash(value)


def test_place_does_not_enter_the_hash(place):
    store = DatasetMaterializer(uri=str(place))
    moved = DATASET.model_copy(update={"uri": "/elsewhere"})
    assert store.compute_content_hash(moved) == store.compute_content_hash(DATASET)


@pytest.mark.parametrize(("materializer", "value", "_"), CASES)
def test_page_escapes_and_shows_scores(place, materializer, value, _):
    ((path, kind),) = materializer(uri=str(place)).save_visualizations(value).items()
    text = Path(path).read_text()
    assert kind.value == "html"
    assert "<tuned>" not in text
    assert ("0.500 [0.400, 0.600] n=20" in text) == (value is REPORT)


def test_a_curated_set_shows_its_report(place, tmp_path):
    (tmp_path / "report.html").write_text("<p>kept \u2013 all</p>", encoding="utf-8")
    store = DatasetMaterializer(uri=str(place))
    here = DATASET.model_copy(update={"uri": str(tmp_path)})
    assert len(store.save_visualizations(here)) == 1  # pairs have none
    shown = store.save_visualizations(here.model_copy(update={"kind": "curated"}))
    assert [Path(path).name for path in shown] == ["reference.html", "report.html"]
    assert Path(f"{place}/report.html").read_text(encoding="utf-8") == "<p>kept \u2013 all</p>"
    assert {kind.value for kind in shown.values()} == {"html"}


def test_metadata_is_flat_and_has_no_colons(place):
    metadata = DatasetMaterializer(uri=str(place)).extract_metadata(DATASET)
    assert metadata == {
        "kind": "pairs", "digest": "d" * 64, "rows": 7, "shards": 1, "schema_version": DATASET.schema_version,
        "seconds": 1.5, "dropped.small": 2,
    }  # fmt: skip
