"""Two machines that share nothing but an object store: what one sends the other has, and nothing else passes."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artiagent import exchange
from artiagent.checkpoints import checkpoint_ref
from artiagent.exchange import ExchangeError, materialise
from artiagent.exchange.remote import Remote, checked
from artiagent.records import CheckpointRef, DatasetRef, Record
from artiagent.shards import Shard
from artiagent.store import MANIFEST, DatasetWriter, Row, StoreError, dataset_dir, open_dataset, read_rows

ROWS = 12


class Thing(Record):
    name: str


def row(number):
    return Row(f"k{number:03d}", Thing(name=f"thing {number}"), {"image": bytes([number]) * 500})


def write(out, shard=None, rows=ROWS):
    writer = DatasetWriter(out, "things", ("image",), shard=shard)
    for number in shard.part(rows) if shard else range(rows):
        if f"b{number:03d}" not in writer:
            writer.write(f"b{number:03d}", [row(number)])
    return writer


def made(shards=2):
    """A data set of this machine, in two files, with a small file beside them."""
    out = dataset_dir("things", "x")
    writer = write(out)
    writer.attach("funnel.json", b"{}")
    return writer.finish(shards=shards)


def content(ref):
    return [(r.key, r.record.name, r.images["image"]) for r in read_rows(ref, Thing)]


def test_nothing_moves_without_a_store(machine, monkeypatch):
    monkeypatch.delenv("ARTIAGENT_STORE", raising=False)
    here = machine("a")
    ref = DatasetRef(kind="things", uri="/elsewhere/store/things/" + "0" * 20, digest="d", rows=1)
    assert exchange.fetch(ref) == exchange.send(ref) == ref
    with exchange.mirrored(here / "store" / "things" / ("0" * 20), Shard(0, 2)):
        pass
    exchange.fetch_run("r")
    exchange.send_run("r")
    assert not here.exists()


def test_a_data_set_travels_and_its_files_come_when_they_are_read(machine, store, keys):
    machine("a")
    ref = made()
    rows = content(ref)
    exchange.send(ref)
    exchange.send(ref)
    assert sorted(keys(f"team/store/things/{Path(ref.uri).name}/")) == [
        "files.json", "funnel.json", MANIFEST, "things-00000-of-00002.parquet", "things-00001-of-00002.parquet",
    ]  # fmt: skip

    here = machine("b")
    got = exchange.fetch(ref)
    folder = Path(got.uri)
    assert folder == here / "store" / "things" / Path(ref.uri).name and got == ref.model_copy(update={"uri": got.uri})
    assert sorted(p.name for p in folder.iterdir()) == ["funnel.json", MANIFEST, "origin.json"]
    assert open_dataset(folder).digest == ref.digest
    first = next(iter(read_rows(got, Thing)))
    assert first.key == "k000" and not (folder / "things-00001-of-00002.parquet").exists()
    assert content(got) == rows
    assert exchange.fetch(ref) == got  # here by now


def test_several_readers_fetch_a_file_once(machine, store, monkeypatch):
    machine("a")
    ref = made()
    exchange.send(ref)
    machine("b")
    folder = Path(exchange.fetch(ref).uri)
    fetched, download = [], Remote.download
    monkeypatch.setattr(
        Remote, "download", lambda self, name, *rest: (fetched.append(name), download(self, name, *rest))
    )
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: materialise(folder, "things-00000-of-00002.parquet"), range(4)))
    assert fetched == ["things-00000-of-00002.parquet"]
    with pytest.raises(ExchangeError, match="neither its manifest nor a part names other.parquet"):
        materialise(folder, "other.parquet")
    with pytest.raises(ExchangeError, match="remote name"):
        materialise(folder, "../manifest.json")
    (folder / "origin.json").unlink()
    with pytest.raises(StoreError, match="things-00001-of-00002.parquet: missing"):
        content(ref.model_copy(update={"uri": str(folder)}))


def test_a_killed_sender_goes_on_where_it_was(machine, store, keys, monkeypatch):
    machine("a")
    ref = made(shards=4)
    upload, sent = Remote.upload, []

    def dies(self, source, name):
        if len(sent) == 3:
            raise KeyboardInterrupt
        sent.append(name)
        upload(self, source, name)

    monkeypatch.setattr(Remote, "upload", dies)
    with pytest.raises(KeyboardInterrupt):
        exchange.send(ref)
    monkeypatch.setattr(Remote, "upload", lambda self, source, name: (sent.append(name), upload(self, source, name)))
    folder = f"team/store/things/{Path(ref.uri).name}/"
    assert "files.json" not in keys(folder) and "sending.json" in keys(folder)
    exchange.send(ref)
    assert len(sent) == len(set(sent)) == 6 and "sending.json" not in keys(folder)


def test_what_was_made_again_with_another_content_is_not_taken_for_the_first(machine, store):
    machine("a")
    first = made()
    exchange.send(first)
    machine("b")
    out = dataset_dir("things", "x")
    second = write(out, rows=ROWS - 1).finish()
    exchange.send(second)
    machine("c")
    with pytest.raises(ExchangeError, match="what it holds is not .* made again since"):
        exchange.fetch(first)
    assert exchange.fetch(second).digest == second.digest
    machine("b")
    assert exchange.fetch(second) == second


def test_models_and_folders_without_a_manifest_come_whole(machine, store):
    machine("a")
    out = dataset_dir("tuned", "x")
    (out / "adapter").mkdir(parents=True)
    (out / "config.json").write_text("{}")
    (out / "adapter" / "weights.safetensors").write_bytes(b"w" * 1000)
    out.with_name(f"{out.name}.system.jsonl").write_text("{}\n")
    places = dataset_dir("inputs", "x")
    places.mkdir(parents=True)
    (places / "sets.json").write_text("[]")
    model = checkpoint_ref("tuned", str(out))
    sets = DatasetRef(kind="inputs", uri=str(places), digest="d", rows=0)
    exchange.send(model), exchange.send(sets)

    here = machine("b")
    got = exchange.fetch(model)
    assert checkpoint_ref("tuned", got.uri) == got and Path(got.uri).is_relative_to(here)
    assert Path(f"{got.uri}.system.jsonl").read_text() == "{}\n"
    assert (Path(exchange.fetch(sets).uri) / "sets.json").read_text() == "[]"
    assert not [p for p in here.rglob("*.tmp")]

    (Path(got.uri) / "config.json").write_text('{"other": 1}')  # something else under that name: it stays
    again = exchange.fetch(model)
    assert again.uri != got.uri and checkpoint_ref("tuned", again.uri).sha256 == model.sha256
    assert (Path(got.uri) / "config.json").read_text() == '{"other": 1}'


def test_inputs_and_models_of_the_hub_pass(machine, store):
    machine("b")
    for uri in ("/x/.cache/huggingface/hub/models--a--b/snapshots/c", "Qwen/Qwen2.5-VL-3B-Instruct", ""):
        ref = CheckpointRef(name="m", uri=uri, sha256="s")
        assert exchange.fetch(ref) == exchange.send(ref) == ref
    assert exchange.fetch("text") == "text"


def test_damaged_and_changed_files_are_refused(machine, store, s3, bucket):
    machine("a")
    ref = made()
    exchange.send(ref)
    base = f"team/store/things/{Path(ref.uri).name}"
    machine("b")
    got = exchange.fetch(ref)
    data = s3.get_object(Bucket=bucket, Key=f"{base}/things-00001-of-00002.parquet")["Body"].read()
    s3.put_object(Bucket=bucket, Key=f"{base}/things-00001-of-00002.parquet", Body=data[:-1] + b"x")
    with pytest.raises(ExchangeError, match="things-00001-of-00002.parquet: sha256 is .* expected .* damaged"):
        content(got)
    assert not (Path(got.uri) / "things-00001-of-00002.parquet").exists()
    s3.put_object(Bucket=bucket, Key=f"{base}/funnel.json", Body=b"[]")
    machine("c")
    with pytest.raises(ExchangeError, match="funnel.json: sha256"):
        exchange.fetch(ref)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a//b", "", "a\\b", "..", "a/.", "x\n"])
def test_no_name_leaves_its_folder(name, machine, store, s3, bucket):
    with pytest.raises(ExchangeError, match="remote name"):
        checked(name)
    here = machine("b")
    base = f"team/store/things/{'0' * 20}"
    listing = {"files": {name: {"sha256": "0", "size": 1}}, "beside": {}}
    s3.put_object(Bucket=bucket, Key=f"{base}/files.json", Body=json.dumps(listing).encode())
    with pytest.raises(ExchangeError, match="remote name"):
        exchange.fetch(DatasetRef(kind="things", uri=f"/a/store/things/{'0' * 20}", digest="d", rows=1))
    assert not (here / "store").exists()


def test_what_is_not_complete_there_is_told(machine, store):
    machine("b")
    with pytest.raises(ExchangeError, match=r"store/things/0{20}: not there, or not complete"):
        exchange.fetch(DatasetRef(kind="things", uri=f"/a/store/things/{'0' * 20}", digest="d", rows=1))


def test_a_preempted_shard_goes_on_elsewhere_and_joining_moves_no_rows(machine, store, keys, monkeypatch):
    machine("whole")
    expected = content(write(dataset_dir("things", "x")).finish())
    base = f"team/store/things/{dataset_dir('things', 'x').name}/"

    for index in (0, 1):  # two machines, both preempted
        machine(f"first{index}")
        out = dataset_dir("things", "x")
        with pytest.raises(KeyboardInterrupt), exchange.mirrored(out, Shard(index, 2), seconds=0.05):
            writer = DatasetWriter(out, "things", ("image",), shard=Shard(index, 2))
            for number in (0 + 6 * index, 1 + 6 * index, 2 + 6 * index):
                writer.write(f"b{number:03d}", [row(number)])
            deadline = time.monotonic() + 10
            while len(keys(f"{base}chunks/{Shard(index, 2).label}/")) < 3 and time.monotonic() < deadline:
                time.sleep(0.02)  # sent while the stage runs
            assert len(keys(f"{base}chunks/{Shard(index, 2).label}/")) == 3
            raise KeyboardInterrupt

    for index in (0, 1):
        machine(f"second{index}")
        out = dataset_dir("things", "x")
        with exchange.mirrored(out, Shard(index, 2)):
            shard = Shard(index, 2)
            had = [b for b in DatasetWriter(out, "things", ("image",), shard=shard)]
            assert had == [f"b{n:03d}" for n in range(6 * index, 6 * index + 3)]
            write(out, shard).seal()
    assert sorted(keys(base)) == [
        "parts/00000-of-00002.json", "parts/00001-of-00002.json",
        "things-00000-of-00002.parquet", "things-00001-of-00002.parquet",
    ]  # fmt: skip

    machine("third")  # a shard that is sealed already is not made again
    out = dataset_dir("things", "x")
    with exchange.mirrored(out, Shard(1, 2)):
        part = DatasetWriter(out, "things", ("image",), shard=Shard(1, 2)).sealed()
        assert part.rows == 6 and not list(out.glob("*.parquet"))

    machine("join")
    out = dataset_dir("things", "x")
    with exchange.mirrored(out):
        ref = DatasetWriter(out, "things", ("image",)).finish()
        assert not list(out.glob("*.parquet"))
    exchange.send(ref)
    assert sorted(keys(base)) == [
        "files.json", MANIFEST, "things-00000-of-00002.parquet", "things-00001-of-00002.parquet",
    ]  # fmt: skip
    machine("reader")
    assert content(exchange.fetch(ref)) == expected

    machine("again")  # a retry of the step that joined finds it joined
    out = dataset_dir("things", "x")
    with exchange.mirrored(out):
        assert open_dataset(out) == ref.model_copy(update={"uri": str(out)})


def test_work_in_one_piece_goes_on_too(machine, store, keys):
    machine("a")
    out = dataset_dir("things", "x")
    with pytest.raises(ZeroDivisionError), exchange.mirrored(out):
        DatasetWriter(out, "things", ("image",)).write("b000", [row(0)])
        raise ZeroDivisionError
    machine("b")
    out = dataset_dir("things", "x")
    with exchange.mirrored(out):
        assert list(DatasetWriter(out, "things", ("image",))) == ["b000"]
        write(out).finish()
    assert not [key for key in keys() if "chunks" in key]


def test_joining_does_not_vouch_for_parts_that_are_nowhere(machine, store, s3, bucket, keys):
    machine("a")
    out = dataset_dir("things", "x")
    for index in (0, 1):
        with exchange.mirrored(out, Shard(index, 2)):
            write(out, Shard(index, 2)).seal()
    machine("b")
    out = dataset_dir("things", "x")
    with pytest.raises(ExchangeError, match="1 parts are neither here nor at"), exchange.mirrored(out):
        DatasetWriter(out, "things", ("image",)).finish()
        key = next(k for k in keys() if k.endswith("00001-of-00002.parquet"))
        s3.delete_object(Bucket=bucket, Key=key)


def test_the_run_s_folder_is_shared(machine, store):
    a = machine("a")
    (a / "runs" / "r").mkdir(parents=True)
    (a / "runs" / "r" / "run.json").write_text("1")
    exchange.send_run("r")
    b = machine("b")
    exchange.fetch_run("r")
    assert (b / "runs" / "r" / "run.json").read_text() == "1"
    (b / "runs" / "r" / "report.html").write_text("report")
    machine("a")
    (a / "runs" / "r" / "run.json").write_text("2")
    exchange.send_run("r")
    machine("b")
    exchange.send_run("r")  # sends what it made, not the older run.json
    machine("a")
    exchange.fetch_run("r")
    assert (a / "runs" / "r" / "report.html").read_text() == "report"
    assert (a / "runs" / "r" / "run.json").read_text() == "2"
    with pytest.raises(ExchangeError, match="remote name"):
        exchange.fetch_run("../x")


def test_a_folder_will_do_as_a_store(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIAGENT_STORE", f"file://{tmp_path}/share")
    machine("a")
    ref = made()
    exchange.send(ref)
    assert not list((tmp_path / "share").rglob("*.tmp"))
    machine("b")
    assert len(content(exchange.fetch(ref))) == ROWS


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "127.0.0.1:9.*cannot be reached"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials; set AWS_ACCESS_KEY_ID"),
        ({"ARTIAGENT_STORE": "s3://nobody-made-it/x"}, "nobody-made-it.*no such bucket; create it"),
        ({"ARTIAGENT_STORE": "gopher://x/y"}, "not an address that fsspec knows"),
    ],
)
def test_a_store_that_cannot_be_used_is_told_at_once(change, told, machine, store, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name, value in change.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # another machine
    machine("a")
    started = time.monotonic()
    out = dataset_dir("things", "x")
    with pytest.raises(ExchangeError, match=told), exchange.mirrored(out):
        raise AssertionError("the work began")
    assert time.monotonic() - started < 15
    S3FileSystem.clear_instance_cache()


def test_large_files_go_in_parts(machine, store, tmp_path, monkeypatch):
    monkeypatch.setattr("artiagent.exchange.remote.PART_BYTES", 5 * 2**20)
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * (2**20 // 256) * 11)
    remote = Remote(store)
    remote.upload(big, "big")
    remote.download("big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    assert remote.names()["big"].size == 11 * 2**20
