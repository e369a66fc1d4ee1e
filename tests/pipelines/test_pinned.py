"""Steps in processes of their own on leased devices; the devices are names, so that no GPU is needed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from artiagent.config import Config
from artiagent.inputs import input_digests
from artiagent.run_config import ConfigError, effective_config
from artiagent.store import checkout, read_rows
from pipelines.environment import active_stack, prepare
from pipelines.pinned.crew import Crew, Job
from pipelines.pinned.leases import LeaseError, device_names, holders, lease
from pipelines.pinned.line import Line
from pipelines.pinned.supervisor import check_untouched

prepare()
sys.path.insert(0, str(checkout()))

from zenml.client import Client  # noqa: E402

from pipelines import preflight  # noqa: E402
from pipelines.pinned import operator  # noqa: E402
from pipelines.pinned.flavor import PinnedConfig, PinnedSettings  # noqa: E402
from pipelines.pinned.stack import FILE, device_problems, register  # noqa: E402

TWO = ("fake-0", "fake-1")
ROOT = Path(checkout())


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path / "home"))


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def alive(pid):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Leases


def test_device_names_are_free_text_without_paths():
    assert device_names("0, 1,MIG-3f:0/".rstrip("/")) == ("0", "1", "MIG-3f:0")
    assert device_names("") == ()
    for wrong in ("../0", "a b", "0,0", "-1", ".turn"):
        with pytest.raises(ValueError, match="device"):
            device_names(wrong)


def test_a_lease_is_exclusive_and_says_who_has_it(own_home):
    first = lease(TWO, 1, "first", 0)
    second = lease(TWO, 1, "second", 0)
    assert {*first.devices, *second.devices} == set(TWO)
    assert sorted(holders(TWO).values()) == ["first", "second"]
    with pytest.raises(LeaseError, match="third: no 1 of the devices fake-0, fake-1 for 0 s"):
        lease(TWO, 1, "third", 0.3)
    first.release()
    assert lease(TWO, 1, "third", 0).devices == first.devices
    second.release()
    assert lease(TWO, 0, "none", 0).devices == ()


def test_more_devices_than_there_are_is_refused_at_once(own_home):
    with pytest.raises(LeaseError, match=r"greedy: .* needs 3 devices, .* has 2 \(fake-0, fake-1\)"):
        lease(TWO, 3, "greedy", 3600)


def test_what_the_waiting_raises_ends_it_and_leaves_nothing_taken(own_home):
    held = lease(TWO, 1, "holder", 0)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lease(TWO, 2, "waiter", 60, stop)
    held.release()
    assert lease(TWO, 2, "next", 0).devices == TWO


def test_takers_of_all_and_of_one_never_block_each_other(own_home):
    taken, lock, wrong = defaultdict(int), threading.Lock(), []

    def take(count):
        for _ in range(4):
            held = lease(TWO, count, f"taker of {count}", 60)
            with lock:
                for device in held.devices:
                    taken[device] += 1
                wrong.extend(device for device in held.devices if taken[device] > 1)
            time.sleep(0.01)
            with lock:
                for device in held.devices:
                    taken[device] -= 1
            held.release()

    threads = [threading.Thread(target=take, args=(count,)) for count in (2, 2, 1, 1, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_those_who_wait_are_served_in_their_order_and_named(monkeypatch, capsys):
    monkeypatch.setattr("pipelines.pinned.line.SAY_AFTER", 0)
    line, served, free = Line("devices"), [], threading.Event()

    def stop():
        raise LeaseError("stopped")

    def serve(who, go_on=lambda: None):
        with line.wait(who, go_on) as waiting:
            while not free.is_set():
                waiting()
                time.sleep(0.01)
            served.append(who)

    threads = []
    for who in ("first", "second", "third"):
        threads.append(threading.Thread(target=serve, args=(who,)))
        threads[-1].start()
        time.sleep(0.05)
    with pytest.raises(LeaseError, match="stopped"):
        serve("stopped", stop)
    free.set()
    for thread in threads:
        thread.join(20)
    assert served == ["first", "second", "third"]
    assert capsys.readouterr().err.startswith("waiting for devices, the longest for 0 s: first")


def test_the_device_of_a_killed_process_is_free_at_once(own_home):
    code = "from pipelines.pinned.leases import lease; import time; lease(('d',), 1, 'x', 0); print(1); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-uc", code], stdout=subprocess.PIPE, cwd=ROOT)
    process.stdout.readline()
    assert holders(["d"]) == {"d": "x"}
    process.kill()
    process.wait()
    assert holders(["d"]) == {"d": ""}
    lease(["d"], 1, "next", 0).release()


# Processes

WORK = """
import os, signal, subprocess, sys, time

def main():
    what = sys.argv[1]
    print("device", os.environ["CUDA_VISIBLE_DEVICES"], what, flush=True)
    if what == "family":
        child = subprocess.Popen(["sleep", "600"])
        print("child", child.pid, flush=True)
    if what in ("family", "sleep"):
        time.sleep(600)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "folder":
        os.mkdir(os.environ["OWN"])
        print(os.environ["OWN"])
    if what == "bar":
        for n in range(100):
            print(f"\\r{n}", end="", flush=True)
        print("\\r100\\nnext")
    if what == "raise":
        raise ValueError("no such thing")
"""


@pytest.fixture
def work(tmp_path):
    """``start(what)`` starts a process that does it; ``ended`` is filled when it has."""
    (tmp_path / "pinned_work.py").write_text(WORK)
    crew = Crew(tmp_path, entry="pinned_work")

    def start(what, files=()):
        log, done = tmp_path / f"{what}.log", []
        crew.start(Job(what, [what], {"CUDA_VISIBLE_DEVICES": "7"}, "OWN", f"[{what}]", str(log)), files, done.append)
        return SimpleNamespace(
            log=log, done=done, said=lambda: log.read_text().split("\n")[:-1] if log.exists() else []
        )

    yield SimpleNamespace(start=start, crew=crew)
    crew.close()


def test_a_process_sees_its_device_and_says_how_it_ended(work):
    runs = {what: work.start(what) for what in ("nothing", "folder", "bar", "raise", "kill")}
    until(lambda: all(run.done for run in runs.values()))
    assert runs["nothing"].said() == ["device 7 nothing"]
    assert {what: run.done[0].code for what, run in runs.items()} == {
        "nothing": 0, "folder": 0, "bar": 0, "raise": 1, "kill": -signal.SIGKILL,
    }  # fmt: skip
    assert runs["raise"].done[0].tail[-1] == "ValueError: no such thing"
    shown = runs["bar"].done[0].tail
    assert shown[-2:] == ["100", "next"] and len(shown) <= 4  # noqa: PLR2004  (a bar is one line, or two)
    assert len(runs["bar"].log.read_text()) > 190  # noqa: PLR2004
    own = Path(runs["folder"].said()[1])
    assert own.is_dir()
    work.crew.close()
    assert not own.parent.exists()


def test_a_process_is_ended_with_its_family_and_its_lease(work, own_home):
    held = lease(("d",), 1, "family", 0)
    run = work.start("family", held.files)
    held.release()
    until(lambda: len(run.said()) == 2)
    assert holders(["d"]) == {"d": "family"}  # here it was given back, there it is held
    child = int(run.said()[1].split()[1])
    work.crew.kill("family")
    until(lambda: run.done)
    assert run.done[0].code == -signal.SIGTERM
    until(lambda: not alive(child))
    assert holders(["d"]) == {"d": ""}


@pytest.mark.parametrize("victim", ["runner", "supervisor"])
def test_no_process_outlives_a_killed_runner_or_supervisor(tmp_path, victim):
    (tmp_path / "pinned_work.py").write_text(WORK)
    code = f"""
import time
from pathlib import Path
from pipelines.pinned.crew import Crew, Job
crew = Crew(Path({str(tmp_path)!r}), entry="pinned_work")
job = Job("a", ["sleep"], {{"CUDA_VISIBLE_DEVICES": "8"}}, "OWN", "said:", "{tmp_path}/log")
crew.start(job, (), lambda how: print(how.code))
while not crew.pid("a"):
    time.sleep(0.01)
print("pids:", crew._process.pid, crew.pid("a"), flush=True)
time.sleep(600)
"""
    runner = subprocess.Popen([sys.executable, "-uc", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        told = dict(runner.stdout.readline().split(":") for _ in range(2))
        assert told["said"] == " device 8 sleep\n"  # what a process prints comes to its runner, with a prefix
        supervisor, child = map(int, told["pids"].split())
        os.kill(runner.pid if victim == "runner" else supervisor, signal.SIGKILL)
        until(lambda: not alive(supervisor) and not alive(child))
    finally:
        runner.kill()
    runner.wait()


def test_waiting_and_working_end_at_the_deadline(work, own_home, monkeypatch):
    monkeypatch.setattr(operator, "the_crew", lambda config: work.crew)
    monkeypatch.setattr(operator, "_crew", work.crew)
    settings, config = PinnedSettings(devices=1, hours=1 / 3600), PinnedConfig(names="fake-0")

    def attempt(name):
        info = SimpleNamespace(
            step_run_id=name, pipeline_step_name=name, run_name="run", step_run=SimpleNamespace(version=1)
        )
        step = operator.PinnedStep(info, settings, config)
        step.begin(["sleep"], {})
        assert step.ended.wait(30)
        assert step.status == "failed"
        return step.reason

    assert attempt("works").startswith("works: not done")
    held = lease(["fake-0"], 1, "another", 0)
    assert attempt("waits") == "waits of run: no 1 of the devices fake-0 for 1 s"
    held.release()


def test_a_module_that_touches_a_gpu_is_not_preloaded(monkeypatch):
    check_untouched(["artiagent"])
    monkeypatch.setattr("pipelines.pinned.supervisor.DRIVER", "/dev/null")
    with open(os.devnull), pytest.raises(RuntimeError, match=r"preload torch: .*/dev/null.*leave it out"):
        check_untouched(["torch"])


# The stack


@pytest.fixture(scope="module")
def stack():
    """The stack of two devices, and ``run(**)`` of the small pipeline on it."""
    name = register(",".join(TWO), "test-pinned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZENML_DYNAMIC_PIPELINE_MONITORING_INTERVAL", "0.3")
        with active_stack(name):
            yield name
    if operator._crew is not None:
        operator._crew.close()


def test_registering_again_changes_the_devices(stack):
    assert register("a,b,c", "test-other", cpu_steps=3) == "test-other"
    assert register("a", "test-other") == "test-other"
    found = Client().get_stack_component("step_operator", "test-other")
    assert found.configuration["names"] == "a"
    assert yaml.safe_load(FILE.read_text())["components"]["step_operator"][0]["flavor"] == found.flavor_name
    with pytest.raises(ValueError, match="device 'a b': expected"):
        register("a b", "test-other")


def test_eight_shards_over_two_devices(stack, tmp_path, capfd):
    from tests.pipelines.pinned_steps import KILLED, ROWS, Number, numbers_in_shards, whole

    marks = tmp_path / "marks"
    run = numbers_in_shards(stack, str(tmp_path / "shards"), str(marks), 8, 0.2, 1)
    assert run.status == "completed"
    lines = [line.split() for line in marks.read_text().splitlines()]

    begun = defaultdict(list)  # shard -> devices
    busy = {}  # device -> shard
    for _, sign, device, shard, _ in sorted(lines):
        if sign == "-":
            assert busy.pop(device) == shard
            continue
        begun[shard].append(device)
        assert device not in busy or busy[device] == KILLED  # whose end nobody wrote down
        busy[device] = shard
    assert {device for shard, devices in begun.items() if shard != "join" for device in devices} == set(TWO)
    assert begun.pop("join") == ["-"]
    assert {shard: len(devices) for shard, devices in begun.items()} == {
        f"{n}/8": 2 if f"{n}/8" == KILLED else 1 for n in range(8)
    }
    assert len({pid for *_, pid in lines}) == 8 + 2  # nobody shared a process

    ref, expected = run.steps["joined"].outputs["numbers"][0].load(), whole(tmp_path / "whole")
    assert ref.digest == expected.digest
    assert [row.record.value for row in read_rows(ref, Number)] == list(range(ROWS))
    tried = Client().list_run_steps(pipeline_run_id=run.id, status="retried", hydrate=True)
    assert len(tried) == 1
    assert "was killed by signal SIGKILL" in tried[0].exception_info.message
    assert f"last it said: {KILLED} has begun" in tried[0].exception_info.message
    assert f"{KILLED} has begun" in capfd.readouterr().out


@pytest.mark.slow
def test_nano_pairs_made_in_shards_are_those_made_in_one_piece(stack, tmp_path, monkeypatch):
    from artiagent.synthesis.stage import synthesize
    from tests.pipelines.pinned_steps import pairs_in_shards

    monkeypatch.setenv("ARTIAGENT_RUN", "test")
    limits = ["inputs.sets.0.limit=6", "inputs.sets.1.limit=2"]
    config = effective_config(str(ROOT / "configs" / "nano.yaml"), limits, None, None)
    run = pairs_in_shards(stack, config, input_digests(config.inputs), 2)
    steps = {name: step.outputs for name, step in run.steps.items()}
    scenes, jobs, generator, pairs = (
        steps[step][output][0].load()
        for step, output in (("perceive", "scenes"), ("plan", "jobs"), ("ingest", "generator"), ("synthesize", "pairs"))
    )
    assert pairs.shards == 2
    assert pairs.rows > 0
    assert synthesize(config.synthesis, scenes, jobs, generator, tmp_path / "whole").digest == pairs.digest


def test_ctrl_c_leaves_no_process_and_no_lease(stack, tmp_path):
    marks = tmp_path / "marks"
    command = [sys.executable, "-m", "tests.pipelines.pinned_steps", stack, str(marks)]
    runner = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: marks.exists() and len(marks.read_text().splitlines()) == 2, 120)
        assert all(holder.startswith("part") for holder in holders(TWO).values())
        runner.send_signal(signal.SIGINT)
        runner.communicate(timeout=60)
    finally:
        runner.kill()
    assert runner.returncode != 0
    assert not any(alive(line.split()[4]) for line in marks.read_text().splitlines())
    assert len(marks.read_text().splitlines()) == 2
    assert holders(TWO) == {"fake-0": "", "fake-1": ""}


def test_a_profile_with_more_devices_than_the_host_is_found_before_the_run(stack):
    config = Config.model_validate({"scale": {"profiles": {"finetune": "gpu-8x80gb"}}})
    active, names = Client().active_stack, ["plan", "finetune"]
    assert device_problems(Config(), active, names) == []
    (problem,) = device_problems(config, active, names)
    assert problem.startswith("finetune: its profile needs 8 devices, the pinned stack has 2 (fake-0, fake-1); name")
    with pytest.raises(ConfigError, match="finetune: its profile needs 8 devices"):
        preflight.check(config, active, names)
    with active_stack("default"):
        assert device_problems(config, Client().active_stack, names) == []
