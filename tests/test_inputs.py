import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import BenchmarkSet, InputSet, InputsSection
from artiagent.inputs import input_digests, read_benchmarks, read_sets, resolve_inputs


@pytest.fixture
def section(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"a")
    (tmp_path / "a.json").write_text("{}")
    pq.write_table(pa.table({"image": [b"x", b"y"]}), tmp_path / "benchmark.parquet")
    for name in ("generator", "vlm", "clip"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    return InputsSection(
        sets=(InputSet(name="own", images=str(tmp_path / "images"), annotations=str(tmp_path / "a.json")),),
        benchmarks=(BenchmarkSet(name="own", path=str(tmp_path / "benchmark.parquet")),),
        **{name: str(tmp_path / name) for name in ("generator", "vlm", "clip")},
    )


def test_digests_follow_contents_not_times(section, tmp_path):
    before = input_digests(section)
    assert set(before) == {"set:own", "generator", "vlm", "clip", "benchmark:own"}
    (tmp_path / "images" / "a.png").touch()
    (tmp_path / "vlm" / "config.json").touch()
    assert input_digests(section) == before
    (tmp_path / "images" / "a.png").write_bytes(b"b")
    (tmp_path / "clip" / "config.json").write_text("other")
    after = input_digests(section)
    assert {k for k in before if before[k] != after[k]} == {"set:own", "clip"}


def test_references_lead_back_to_the_inputs(section, tmp_path):
    digests = input_digests(section)
    found = resolve_inputs(section, digests, tmp_path / "out")
    assert (found.sets.rows, found.benchmarks.rows) == (1, 1)
    assert found.vlm.sha256 == digests["vlm"]
    assert found.benchmarks.summary == {"own": digests["benchmark:own"]}
    assert list(read_sets(found.sets)) == list(section.sets)
    assert read_benchmarks(found.benchmarks) == list(section.benchmarks)


def test_digest_of_sets_is_their_content(section, tmp_path):
    one = resolve_inputs(section, input_digests(section), tmp_path / "one")
    (tmp_path / "images").rename(tmp_path / "moved")
    moved = section.sets[0].model_copy(update={"images": str(tmp_path / "moved")})
    elsewhere = section.model_copy(update={"sets": (moved,)})
    two = resolve_inputs(elsewhere, input_digests(elsewhere), tmp_path / "two")
    assert one.sets.digest == two.sets.digest


@pytest.mark.parametrize("name", ["generator", "vlm", "clip"])
def test_missing_input_is_named(section, name):
    with pytest.raises(ValueError, match="data/none"):
        input_digests(section.model_copy(update={name: "data/none"}))
