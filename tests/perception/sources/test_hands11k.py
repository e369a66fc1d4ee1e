from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from artiagent.config import InputSet
from artiagent.perception.sources import SourceError, image_names, input_digest, iter_images, known_grounder, left_out

HEADER = "id,age,gender,skinColor,accessories,nailPolish,aspectOfHand,imageName,irregularities"


def row(name: str, accessories: str = "0", irregularities: str = "0", polish: str = "0") -> str:
    return f"0000000,27,male,fair,{accessories},{polish},dorsal right,{name},{irregularities}"


@pytest.fixture
def source(write: Callable) -> InputSet:
    root = write(*(f"Hands/Hand_000000{k}.jpg" for k in range(2, 8)))
    return InputSet(name="hands", layout="hands11k", images=str(root))


def table(source: InputSet, *rows: str, header: str = HEADER, encoding: str = "utf-8", end: str = "\r\n") -> Path:
    path = Path(source.images) / "HandInfo.csv"
    path.write_bytes(end.join((header, *rows, "")).encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_plain_hands_are_used_and_the_others_left_out(source: InputSet, partition: Callable, encoding: str) -> None:
    table(
        source, row("Hand_0000002.jpg"), row("Hand_0000003.jpg", accessories="1"), row("Hand_0000004.jpg", polish="1"),
        row("Hand_0000005.jpg", irregularities="1"), row("Hand_0000006.jpg", accessories="maybe"), encoding=encoding,
    )  # fmt: skip
    assert partition(source) == (
        {"Hands/Hand_0000002.jpg", "Hands/Hand_0000004.jpg"},
        {
            "Hands/Hand_0000003.jpg": "accessories", "Hands/Hand_0000005.jpg": "irregularities",
            "Hands/Hand_0000006.jpg": "bad_entry", "Hands/Hand_0000007.jpg": "not_annotated",
        },
    )  # fmt: skip
    assert {image.subject for image in iter_images(source)} == {"hand"}
    assert known_grounder(source) is None


def test_entries_without_a_file_and_those_that_climb(source: InputSet, partition: Callable) -> None:
    (Path(source.images).parent / "x.jpg").write_bytes(b"secret")
    table(
        source, row("Hand_0000002.JPG"), row("Hand_0000099.jpg"), row("../../x.jpg"), row("../stray.jpg"),
        row("/etc/x.jpg"), row(""), "0,1", row("Hand_0000003.jpg", irregularities="1"), row("Hand_0000003.jpg"),
    )  # fmt: skip
    names, codes = partition(source)
    assert names == {"Hands/Hand_0000002.jpg"}
    assert codes["Hands/Hand_0000099.jpg"] == "missing_file"
    assert {codes[f"Hands/{name}"] for name in ("../../x.jpg", "../stray.jpg", "/etc/x.jpg")} == {"bad_entry"}
    assert (codes["HandInfo.csv:7"], codes["HandInfo.csv:8"]) == ("bad_entry", "bad_entry")
    assert codes["Hands/Hand_0000003.jpg"] == "irregularities"  # said once is enough


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"header": "id;age;imageName"}, "HandInfo.csv: expected columns id, age, .* got id;age;imageName"),
        ({"header": HEADER.removesuffix(",irregularities")}, "irregularities, got id, age"),
        ({"encoding": "utf-16"}, "not a CSV file in UTF-8"),
        ({"header": HEADER.upper()}, "expected columns"),
    ],
)
def test_tables_of_another_kind_are_refused(source: InputSet, options: dict, message: str) -> None:
    table(source, row("Hand_0000002.jpg"), **options)
    with pytest.raises(SourceError, match=f"input set 'hands': .*{message}"):
        image_names(source)


def test_empty_and_missing_tables(source: InputSet, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no HandInfo.csv; expected 11K Hands as published"):
        image_names(source)
    path = table(source)
    with pytest.raises(SourceError, match="is left .not_annotated 6"):
        image_names(source)
    path.write_bytes(b"")
    with pytest.raises(SourceError, match="got none"):
        image_names(source)
    path.unlink()
    table(source, row("Hand_0000002.jpg")).rename(tmp_path / "elsewhere.csv")
    path.symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(SourceError, match="no HandInfo.csv"):
        image_names(source)
    assert image_names(source.model_copy(update={"annotations": str(tmp_path / "elsewhere.csv")}))
    with pytest.raises(SourceError, match="no such annotation file; expected HandInfo.csv"):
        image_names(source.model_copy(update={"annotations": "gone.csv"}))


def test_filters_know_one_hand_per_image(source: InputSet) -> None:
    table(source, row("Hand_0000002.jpg"))
    assert len(image_names(source.model_copy(update={"categories": ("hand",), "instances": (1, 1)}))) == 1
    for update, message in (
        ({"categories": ("foot",)}, "unknown 'foot'; did you mean 'hand'"),
        ({"instances": (2, 2)}, "filtered_instances 1"),
        ({"parts": "x.json"}, "layout 'hands11k' does not read 'parts'"),
    ):
        with pytest.raises(SourceError, match=message):
            image_names(source.model_copy(update=update))


def test_files_elsewhere_below_the_root_are_named(source: InputSet, write: Callable) -> None:
    write("cover.jpg", "Hands/._Hand_0000002.jpg")
    table(source, row("Hand_0000002.jpg"), row("._Hand_0000002.jpg"))
    reasons = left_out(source)
    assert reasons["cover.jpg"] == "not_annotated: no row of HandInfo.csv names it"
    assert reasons["Hands/._Hand_0000002.jpg"].startswith("hidden: ")


def test_digest_follows_the_table(source: InputSet) -> None:
    rows = [row("Hand_0000002.jpg"), row("Hand_0000003.jpg")]
    table(source, *rows)
    first = input_digest(source)
    table(source, rows[0], row("Hand_0000003.jpg", irregularities="1"))
    assert input_digest(source) != first
