"""Two machines are one with as many processes; one that dies or fails is named, ends the others, and all is resumed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from artiagent.config import SftSection, SftStage
from artiagent.learning import launch as launching
from artiagent.learning import nodes
from artiagent.learning.launch import follow, launch
from artiagent.learning.nodes import Follower, Head, Line, NodeError, Place, gathered, place_here
from artiagent.learning.sft import finetune
from artiagent.learning.stages import CURVES, StageJob
from artiagent.records import CheckpointRef, DatasetRef

STAGES = (SftStage(name="language", train_vision=False, max_steps=3, learning_rate=1e-3),)
SECTION = SftSection(stages=STAGES, batch_pairs=2, threads=1, device="cpu", autocast="none", save_steps=1)
TWO = SECTION.model_copy(update={"nodes": 2})
SECONDS = 30  # for what is a matter of milliseconds when the machine is idle


def free_place(index: int = 0) -> Place:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return Place(index=index, address="127.0.0.1", port=server.getsockname()[1])


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def at(head: Head, index: int) -> Follower:
    return Follower(head.place.model_copy(update={"index": index}))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LEAVE_SECONDS", 0.5)


@pytest.fixture
def head() -> Iterator[Head]:
    made = Head(free_place(), 3)
    yield made
    made.close()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Place:
    """This process is node 0."""
    place = free_place()
    for name, value in (("NODE_RANK", "0"), ("MASTER_ADDR", place.address), ("MASTER_PORT", str(place.port))):
        monkeypatch.setenv(name, value)
    return place


def test_the_place_comes_from_the_environment() -> None:
    given = {"NODE_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "1234"}
    assert place_here(given) == Place(index=1, address="host", port=1234)
    assert place_here({**given, "MASTER_PORT": ""}).port == 29500
    with pytest.raises(ValueError, match=r"NODE_RANK and MASTER_ADDR not set: which of the nodes"):
        place_here({})
    with pytest.raises(ValueError, match=r"NODE_RANK=first.*whole numbers"):
        place_here({**given, "NODE_RANK": "first"})


def test_all_get_the_job_and_hear_the_end(head: Head) -> None:
    followers = [at(head, index) for index in (1, 2)]
    meeting = head.start({"number": 0})
    waiting = [follower.jobs() for follower in followers]
    assert [next(jobs) for jobs in waiting] == [({"number": 0}, meeting)] * 2
    assert head.trouble() == ""
    ends = [threading.Thread(target=head.close), *(threading.Thread(target=lambda j=j: list(j)) for j in waiting)]
    for thread in ends:
        thread.start()
    until(lambda: all(follower.line.over for follower in followers) or not ends[0].is_alive())
    for follower in followers:
        follower.close()
    for thread in ends:
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_a_node_that_is_gone_is_named(head: Head) -> None:
    followers = [at(head, index) for index in (1, 2)]
    head.start({})
    followers[1].close()
    until(head.trouble)
    assert head.trouble() == "node 2 of 3 is gone (its connection closed)"
    with pytest.raises(NodeError, match="node 2 of 3 is gone"):
        head.start({})


def test_a_node_that_fails_says_why_and_the_others_hear_it(head: Head) -> None:
    followers = [at(head, index) for index in (1, 2)]
    head.start({})
    threading.Thread(target=followers[0].fail, args=("no space left",), daemon=True).start()
    until(head.trouble)
    assert head.trouble() == "node 1 of 3: no space left"
    jobs = followers[1].jobs()
    next(jobs)
    threading.Thread(target=head.close, args=(head.trouble(),), daemon=True).start()
    until(followers[1].trouble)
    with pytest.raises(NodeError, match="node 0 stopped: node 1 of 3: no space left"):
        next(jobs)


def test_without_node_0_the_others_end(head: Head) -> None:
    follower = at(head, 1)
    until(lambda: 1 in head._lines)
    head._lines[1].close()  # as a machine that dies
    with pytest.raises(NodeError, match=r"node 0 at 127\.0\.0\.1:\d+ is gone \(its connection closed\)"):
        next(follower.jobs())


def test_a_machine_that_says_nothing_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "SILENT_SECONDS", 0.3)
    place = free_place()
    frozen = Head(place, 2)
    with socket.create_connection((place.address, place.port)) as mute:
        mute.sendall(b'{"node": 1}\n')
        until(frozen.trouble)
        assert frozen.trouble() == "node 1 of 2 is gone (no sign of life for 0.3 s)"
    frozen.close()


def test_who_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch, head: Head) -> None:
    follower = at(head, 2)
    until(lambda: 2 in head._lines)
    monkeypatch.setattr(nodes, "JOIN_SECONDS", 0.2)
    with pytest.raises(NodeError, match=r"after 0\.2 s node 1 of 3 is not at 127\.0\.0\.1:.*start it"):
        head.start({})
    follower.close()
    with pytest.raises(NodeError, match=r"node 0 does not answer at 127\.0\.0\.1:"):
        Follower(free_place(1))


def test_strangers_are_turned_away(head: Head) -> None:
    first, second = at(head, 1), at(head, 2)
    until(lambda: len(head._lines) == 2)
    again, none = at(head, 1), at(head, 3)
    for stranger in (again, none):
        with pytest.raises(NodeError, match="there are nodes 1 to 2, each once"):
            next(stranger.jobs())
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"1" * (nodes.LONGEST + 1)):
        with socket.create_connection((head.place.address, head.place.port)) as other:
            try:
                other.sendall(noise)
                other.settimeout(SECONDS)
                while other.recv(1000):
                    pass
            except ConnectionError:
                pass
    assert head.trouble() == ""
    assert head.start({"fine": True})
    first.close(), second.close()


def test_an_address_of_another_machine_is_refused(here: Place) -> None:
    with pytest.raises(NodeError, match="MASTER_ADDR=192.0.2.1, MASTER_PORT=1234: node 0 cannot be reached there"):
        Head(Place(index=0, address="192.0.2.1", port=1234), 2)
    with Head(here, 2)._server, pytest.raises(NodeError, match="in use"):
        Head(here, 2)


def test_only_node_0_is_given_the_work(monkeypatch: pytest.MonkeyPatch, here: Place) -> None:
    with gathered(SECTION) as nobody:
        assert nobody is None
    monkeypatch.setenv("NODE_RANK", "1")
    with pytest.raises(ValueError, match=r"NODE_RANK=1.*python -m artiagent\.learning\.follow"), gathered(TWO):
        pass
    monkeypatch.delenv("NODE_RANK")
    with pytest.raises(ValueError, match=r"sft\.nodes 2: NODE_RANK not set.*or set sft\.nodes to 1"), gathered(TWO):
        pass


# What runs instead of PyTorch's launcher: node -> code. It ends, as the real one, when its caller closes the pipe.
WELL = "import sys, pathlib; pathlib.Path(sys.argv[1], 'training.json').write_text('[]')"
WAITS = "import sys; sys.stdin.read(); sys.exit(1)"
FAILS = """
import sys, pathlib
pathlib.Path(sys.argv[1], 'error-1.txt').write_text('ValueError: too long')
sys.exit(1)
"""


class Staged:
    """A stage on two nodes, both in this process; what their launchers do is said by ``codes``."""

    def __init__(self, job: StageJob, place: Place, patch: pytest.MonkeyPatch) -> None:
        self.job, self.place, self.codes = job, place, [WELL, WELL]
        patch.setattr(launching, "_command", self.command)
        self.followed: list[BaseException | None] = []
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def command(self, job: StageJob, file: Path, members: list[str]) -> list[str]:
        node = int(members[members.index("--node_rank") + 1])
        return [sys.executable, "-c", self.codes[node], str(job.folder)]

    def run(self) -> None:
        self.thread.start()
        with gathered(self.job.section) as head:
            launch(self.job, None, head)

    def ended(self) -> BaseException | None:
        self.thread.join(SECONDS)
        return self.followed[0]

    def _follow(self) -> None:
        try:
            follow(self.place.model_copy(update={"index": 1}))
            self.followed.append(None)
        except BaseException as error:  # noqa: BLE001
            self.followed.append(error)


@pytest.fixture
def staged(tmp_path: Path, here: Place, monkeypatch: pytest.MonkeyPatch) -> Staged:
    monkeypatch.setattr(launching, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(launching, "SHARED_SECONDS", 0.5)
    for folder in ("data", "base"):
        (tmp_path / folder).mkdir()
    job = StageJob(
        section=TWO, number=0, folder=tmp_path / "stage", cache=tmp_path / "cache", weights=tmp_path / "base",
        conversations=DatasetRef(kind="conversations", uri=str(tmp_path / "data"), digest="d", rows=1),
        base=CheckpointRef(name="base", uri=str(tmp_path / "base"), sha256="s"),
    )  # fmt: skip
    return Staged(job, here, monkeypatch)


def test_both_take_part_and_end(staged: Staged) -> None:
    staged.run()
    assert staged.ended() is None
    mine, other = (json.loads((staged.job.folder / name).read_text()) for name in ("job.json", "job-1.json"))
    assert mine == other


def test_node_0_may_be_done_before_the_others_have_ended(staged: Staged) -> None:
    staged.codes = [WELL, "import time; time.sleep(1.5)"]
    staged.run()
    assert staged.ended() is None


def test_the_launchers_are_told_who_is_who(staged: Staged) -> None:
    told = launching._members(staged.job, 1, ("10.0.0.1", 4321))
    assert " ".join(told).startswith("--nnodes 2 --node_rank 1 --master_addr 10.0.0.1 --master_port 4321")
    assert launching._members(staged.job, 0, None) == ["--standalone"]


def test_a_process_of_another_node_that_fails_is_named(staged: Staged) -> None:
    staged.codes = [WAITS, FAILS]
    with pytest.raises(NodeError, match="node 1 of 2: process 1 of 2 failed: ValueError: too long; run the same again"):
        staged.run()
    assert "process 1 of 2 failed: ValueError: too long" in str(staged.ended())


def test_a_failure_here_ends_the_others(staged: Staged) -> None:
    staged.codes = [FAILS, WAITS]
    with pytest.raises(RuntimeError, match="finetune language: process 1 of 2 failed: ValueError: too long"):
        staged.run()
    assert "process 1 of 2 failed" in str(staged.ended())


def test_a_folder_that_is_not_shared_is_said(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    staged.codes = [WAITS, WELL]
    see = launching._see
    monkeypatch.setattr(launching, "_see", lambda file, place: see(file.with_name("elsewhere"), place))
    with pytest.raises(NodeError, match=r"node 1 of 2: .*stage: node 1 does not see it; .* all of them share"):
        staged.run()


def test_data_that_is_not_on_the_node_is_said(staged: Staged, tmp_path: Path) -> None:
    staged.codes = [WAITS, WELL]
    (tmp_path / "data").rmdir()
    with pytest.raises(NodeError, match=r"node 1 of 2: .*data: not on this node"):
        staged.run()


def test_a_node_that_dies_ends_the_stage(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    staged.codes = [WAITS, WAITS]
    lines: list[Line] = []
    take = launching._take_part

    def dies(job: StageJob, place: Place, meeting: tuple[str, int], follower: Follower) -> None:
        lines.append(follower.line)
        threading.Timer(0.3, follower.line.close).start()
        take(job, place, meeting, follower)

    monkeypatch.setattr(launching, "_take_part", dies)
    with pytest.raises(
        NodeError, match=r"finetune language: node 1 of 2 is gone \(its connection closed\); run the same"
    ):
        staged.run()
    assert "node 0" in str(staged.ended())


def follower_process(place: Place, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, "NODE_RANK": "1", "MASTER_ADDR": place.address, "MASTER_PORT": str(place.port),
    }  # fmt: skip
    command = [sys.executable, "-m", "artiagent.learning.follow"]
    return subprocess.Popen(command, env=environment, stderr=log.open("wb"))


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"sharding": "fsdp"}])
def test_two_nodes_train_as_one_with_two_processes(
    conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path, here: Place, change: dict
) -> None:
    told: list[dict] = []
    one, two = (
        SECTION.model_copy(update={**change, "processes": 2}), TWO.model_copy(update=change)
    )  # fmt: skip
    finetune(one, conversations, tiny_vlm, tmp_path / "one")
    other = follower_process(here, tmp_path / "log")
    finetune(two, conversations, tiny_vlm, tmp_path / "two", told.append)
    assert other.wait(60) == 0, (tmp_path / "log").read_text()
    assert [point["step"] for point in told if "loss" in point] == [1, 2, 3]
    curves = [json.loads((tmp_path / name / CURVES).read_text()) for name in ("one", "two")]
    assert curves[0] == curves[1]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
def test_killed_on_either_node_both_end_and_the_next_run_resumes(
    conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path, here: Place
) -> None:
    long = TWO.model_copy(update={"stages": (STAGES[0].model_copy(update={"max_steps": 500}),)})
    given = [m.model_dump_json() for m in (long, conversations, tiny_vlm)]
    code = (
        "import sys; from pathlib import Path; from artiagent.config import SftSection; "
        "from artiagent.records import CheckpointRef, DatasetRef; from artiagent.learning.sft import finetune; "
        "types = (SftSection, DatasetRef, CheckpointRef); "
        "finetune(*(t.model_validate_json(a) for t, a in zip(types, sys.argv[1:])), Path(sys.argv[4]))"
    )
    out, logs = tmp_path / "out", [tmp_path / "log0", tmp_path / "log1"]
    reached = 0
    for killed in (1, 0):
        first = subprocess.Popen([sys.executable, "-c", code, *given, str(out)], stderr=logs[0].open("wb"))
        both = [first, follower_process(here, logs[1])]
        deadline = time.monotonic() + 300
        while not (steps := sealed(out)) or max(steps) <= reached:
            assert time.monotonic() < deadline and first.poll() is None, [log.read_text() for log in logs]
            time.sleep(0.05)
        ranks = [child for node in both for child in psutil.Process(node.pid).children(recursive=True)]
        assert len(ranks) >= 4
        os.kill(both[killed].pid, signal.SIGKILL)
        assert both[1 - killed].wait(60) != 0
        assert ("node 1 of 2 is gone", "node 0 at")[1 - killed] in logs[1 - killed].read_text()
        both[killed].wait()
        _, alive = psutil.wait_procs(ranks, timeout=60)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        reached = max(sealed(out))
    points = [json.loads(line) for line in next(out.glob("stages/*/*/points.jsonl")).read_text().splitlines()]
    steps = [point["step"] for point in points if "loss" in point]
    assert steps[0] > 1 and steps == list(range(steps[0], steps[0] + len(steps)))


def sealed(out: Path) -> list[int]:
    return [int(p.parent.name.split("-")[1]) for p in out.glob("stages/*/*/checkpoints/checkpoint-*/sealed.json")]
