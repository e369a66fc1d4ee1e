"""What `artiagent kubeflow export` writes, compared with what infra/profiles.yaml declares, and run task by task."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.environment import prepare

ROOT = prepare()

from artiagent.records import DatasetRef, stable_hash  # noqa: E402
from artiagent.run_config import ConfigError, load_config  # noqa: E402
from artiagent.store import home  # noqa: E402
from pipelines import entry, placement  # noqa: E402
from pipelines.kubeflow import cli  # noqa: E402
from pipelines.kubeflow.bundle import Bundle, make_bundle, send_bundle  # noqa: E402
from pipelines.kubeflow.export import BOOTSTRAP, Target, export  # noqa: E402
from pipelines.kubeflow.options import export_options  # noqa: E402
from pipelines.runs import load_run  # noqa: E402
from steps.tracking import connect, experiment  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "kubeflow" / "paper.yaml"
PAPER = ROOT / "configs" / "paper.yaml"
BUNDLE = Bundle(b"", "c0de" * 16, "revision")
ANYWAY = {"operator": "Exists", "effect": "NoSchedule"}  # what a toleration without more means
SHARED_VALUE = "held-by-the-exporting-person"


def exported(out, config, patch, store="s3://bucket/artiagent", **target):
    """The two documents of the compiled pipeline."""
    for name in (*placement.PASSED, "AWS_SECRET_ACCESS_KEY"):
        patch.delenv(name, raising=False)
    patch.setenv("ARTIAGENT_STORE", store)
    patch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    patch.setenv("AWS_SECRET_ACCESS_KEY", SHARED_VALUE)
    export(config, BUNDLE, Target(**(target or {"registry": "registry.example.org/team"})), out)
    return list(yaml.load_all(out.read_text(), yaml.CSafeLoader))


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """Name of a task -> (task, container, Kubernetes part), of configs/paper.yaml."""
    out = tmp_path_factory.mktemp("ir") / "paper.yaml"
    with pytest.MonkeyPatch.context() as patch:
        ir, platform = exported(out, load_config(PAPER), patch)
    return out, tasks_of(ir, platform)


def tasks_of(ir, platform):
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found = {}
    for name, task in ir["root"]["dag"]["tasks"].items():
        label = ir["components"][task["componentRef"]["name"]]["executorLabel"]
        found[name] = task, ir["deploymentSpec"]["executors"][label]["container"], pods[label]
    return found


SCALE = yaml.safe_load(PAPER.read_text())["parameters"]["config"]["scale"]
PROFILES = yaml.safe_load((ROOT / "infra" / "profiles.yaml").read_text())["profiles"]


def declared_for(name):
    """What the plain files declare for a task: the profile of its stage; of `open` and of joining tasks the default."""
    stage, shard, _ = name.partition("-shard")
    stage = stage.replace("-", "_")
    default = SCALE["profiles"]["default"]
    joins = stage in SCALE["shards"] and not shard
    return PROFILES[default if joins else SCALE["profiles"].get(stage, default)]


def test_every_task_has_the_machine_that_its_profile_declares(paper):
    _, tasks = paper
    assert len(tasks) == 1 + 14 + 64 + 128 + 32 + 16 + 16
    for name, (_, container, pod) in tasks.items():
        want = declared_for(name)
        got = container["resources"]
        assert got["resourceCpuLimit"] == got["resourceCpuRequest"] == str(want["cpu"]), name
        assert got["resourceMemoryLimit"] == got["resourceMemoryRequest"] == f"{want['memory']}Gi", name
        accelerator = got.get("accelerator", {})
        assert (accelerator.get("resourceType"), accelerator.get("resourceCount")) == (
            ("nvidia.com/gpu", str(want["gpus"])) if want.get("gpus") else (None, None)
        ), name
        assert pod.get("nodeSelector", {}).get("labels", {}) == want["selector"], name
        tolerated = [
            {"key": t["key"], "operator": "Exists", "effect": "NoSchedule"} for t in want.get("tolerations", [])
        ]
        assert pod.get("tolerations", []) == tolerated, name
        mounts = {m["mountPath"]: m for m in pod["emptyDirMounts"]}
        assert mounts["/dev/shm"]["sizeLimit"] == f"{want['shm']}Gi" and mounts["/dev/shm"]["medium"] == "Memory", name
        assert mounts["/scratch"]["sizeLimit"] == f"{want['disk']}Gi", name
        labels = pod.get("podMetadata", {}).get("labels", {})
        assert labels.get("kueue.x-k8s.io/queue-name") == want.get("queue"), name
        assert int(pod["activeDeadlineSeconds"]) == want["deadline"] * 3600, name


def test_the_right_stages_have_gpus(paper):
    _, tasks = paper
    gpus = {
        re.sub(r"-shard.*", "-shard", name): container["resources"].get("accelerator", {}).get("resourceCount")
        for name, (_, container, _) in tasks.items()
    }
    assert {name: count for name, count in gpus.items() if count} == {
        "perceive-shard": "1", "synthesize-shard": "1", "curate-shard": "1", "finetune": "8",
        "evaluate-base-shard": "1", "evaluate-tuned-shard": "1", "train-reward": "1",
    }  # fmt: skip
    images = {name: container["image"].split("/", 2)[2].split(":")[0] for name, (_, container, _) in tasks.items()}
    assert images["finetune"] == "artiagent/cuda" and images["curate"] == "artiagent/cpu"


def test_every_task_is_retried_by_itself_and_never_cached_by_the_server(paper):
    _, tasks = paper
    for name, (task, _, _) in tasks.items():
        assert task["retryPolicy"]["maxRetryCount"] == 3, name
        assert not task["cachingOptions"].get("enableCache"), name


def test_secrets_are_named_and_optional_and_their_values_nowhere(paper):
    out, tasks = paper
    assert SHARED_VALUE not in out.read_text()
    for name, (_, _, pod) in tasks.items():
        (secret,) = pod["secretAsEnv"]
        assert secret["secretName"] == "artiagent" and secret["optional"] is True
        keys = {entry["envVar"] for entry in secret["keyToEnv"]}
        assert ("OPENAI_API_KEY" in keys) == ("-shard" in name and name.startswith(("perceive", "curate"))), name


def test_joining_waits_for_all_shards_and_the_rest_for_the_join(paper):
    _, tasks = paper
    join = tasks["synthesize"][0]
    shards = {name for name in tasks if name.startswith("synthesize-shard")}
    assert len(shards) == 128 and shards <= set(join["dependentTasks"])
    constants = {tasks[name][0]["inputs"]["parameters"]["shard"]["runtimeValue"]["constant"] for name in shards}
    assert constants == {f"{i}/128" for i in range(128)}
    assert not any(name.startswith("synthesize-shard") for name in tasks["curate-shard"][0]["dependentTasks"])
    assert {"register", "publish"} <= set(tasks["report"][0]["dependentTasks"])


def test_kfp_reads_it_back(paper):
    out, tasks = paper
    loaded = components.load_component_from_file(str(out))
    assert set(loaded.pipeline_spec.root.dag.tasks) == set(tasks)
    ir, platform = yaml.load_all(out.read_text(), yaml.CSafeLoader)
    json_format.ParseDict(ir, pipeline_spec_pb2.PipelineSpec())  # refuses what the schema does not know
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())


def test_golden_file(paper):
    """The first of equal shards stands for all of them. ARTIAGENT_GOLDEN=write renews the file."""
    _, tasks = paper
    found = {}
    for name, (task, container, pod) in tasks.items():
        if re.search(r"-shard-\d+$", name):
            first = tasks[re.sub(r"-\d+$", "", name)]
            assert (container, pod) == first[1:], name
            continue
        command = ["<bootstrap>" if text == BOOTSTRAP.read_text() else text for text in container["command"]]
        args = [text for text in container["args"] if "part_" not in text or "part_0" in text]
        behind = sorted({re.sub(r"-shard-\d+$", "-shard", other) for other in task.get("dependentTasks", [])})
        found[name] = {"after": behind, "container": {**container, "command": command, "args": args}, "pod": pod}
    text = yaml.dump(found, Dumper=_Plain, width=120)
    if os.environ.get("ARTIAGENT_GOLDEN") == "write":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


def test_unknown_profile_fails_at_export(tmp_path, monkeypatch):
    config = load_config(PAPER, ["scale.profiles.curate=gpu-1x80"])
    with pytest.raises(ConfigError, match="'gpu-1x80' is not declared.*gpu-1x80gb"):
        exported(tmp_path / "p.yaml", config, monkeypatch)
    assert not (tmp_path / "p.yaml").exists()


def test_store_with_a_password_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="ARTIAGENT_STORE"):
        exported(tmp_path / "p.yaml", load_config(PAPER), monkeypatch, store="https://me:secret@host/x")


def arguments(out, *more):
    parser = argparse.ArgumentParser()
    parser.add_argument("--config"), parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--debug", action="store_true")
    export_options(parser)
    return parser.parse_args(["--config", str(PAPER), "--out", str(out), *more])


@pytest.mark.parametrize(
    ("missing", "options", "said"),
    [
        ("ARTIAGENT_STORE", [], "ARTIAGENT_STORE is not set"),
        ("MLFLOW_TRACKING_URI", [], "MLFLOW_TRACKING_URI is not set"),
        ("", [], "--registry HOST/PATH is missing"),
        ("", ["ARTIAGENT_STORE=file:///home/me/store"], "ARTIAGENT_STORE file:///home/me/store is this machine"),
        ("", ["MLFLOW_TRACKING_URI=http://127.0.0.1:5000"], "MLFLOW_TRACKING_URI .* is this machine, where no pod"),
        ("", ["--set", "scale.profiles.synthesize=cpu"], "has no GPU"),
        ("", ["--set", "sft.nodes=2"], "a Kubeflow task is one pod"),
        ("", ["--set", "scale.profiles.sythesize=cpu"], "no such stage.*synthesize"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_written(tmp_path, monkeypatch, missing, options, said):
    given = ["ARTIAGENT_STORE=s3://b/p", "MLFLOW_TRACKING_URI=https://m", *(o for o in options if o[0].isupper())]
    for name, value in (text.split("=", 1) for text in given):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing or "NOTHING", raising=False)
    for name in ("ARTIAGENT_IMAGE_CPU", "ARTIAGENT_IMAGE_CUDA"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=said):
        cli.export(arguments(tmp_path / "p.yaml", *(o for o in options if not o[0].isupper())))
    assert list(tmp_path.iterdir()) == []


def run_tasks(ir, folder, call, until=None):
    """Run the tasks' arguments in the order of their dependencies, as KFP's launcher would fill them in.

    ``call(container, arguments, parameters)`` runs one; ``until`` names the last. Returns output -> file.
    """
    waiting, files = dict(ir["root"]["dag"]["tasks"]), {}
    while waiting:
        name = next(n for n, t in waiting.items() if not set(t.get("dependentTasks", [])) & set(waiting))
        task = waiting.pop(name)
        component = ir["components"][task["componentRef"]["name"]]
        container = ir["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        made = component.get("outputDefinitions", {})
        outputs = {key: folder / name / key for kind in ("artifacts", "parameters") for key in made.get(kind, {})}
        files |= {(name, key): path for key, path in outputs.items()}
        call(container, [_filled(text, task, outputs, files) for text in container["args"]])
        assert all(path.is_file() for path in outputs.values()), name
        if name == until:
            break
    return files


def _filled(text, task, outputs, files):
    def value(match):
        direction, kind, key = match.groups()
        if direction == "outputs":
            return str(outputs[key])
        given = task["inputs"][kind][key]
        if kind == "artifacts":
            source = given["taskOutputArtifact"]
            return str(files[source["producerTask"], source["outputArtifactKey"]])
        if "runtimeValue" in given:
            return given["runtimeValue"]["constant"]
        source = given["taskOutputParameter"]
        return files[source["producerTask"], source["outputParameterKey"]].read_text()

    return re.sub(r"\{\{\$\.(inputs|outputs)\.(artifacts|parameters)\['(\w+)'\]\.?\w*\}\}", value, text)


@pytest.fixture(scope="module")
def twice(project, tmp_path_factory):
    """The tiny project's chain, run from its compiled pipeline in this process: all of it, then half of it again."""
    folder = tmp_path_factory.mktemp("kfp")
    config_file = folder / "exported.yaml"
    config_file.write_text((project.folder / "tiny.yaml").read_text())
    counts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIAGENT_HOME", str(folder / "home"))  # other modules count what is in the common one
        patch.setattr("pipelines.kubeflow.export.CONFIG", str(config_file))
        patch.setattr("steps.champion.mirror_stage", lambda *_: "")  # would set up a ZenML store
        ir, _ = exported(folder / "p.yaml", load_config(config_file), patch, store="", image="image")
        patch.delenv("ARTIAGENT_STORE")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home() / 'mlflow.db'}")
        patch.setenv("ARTIAGENT_RUN", "")

        def call(container, given):
            assert entry.main(given) == 0

        runs = []
        for attempt, until in (("a", None), ("b", "curate")):
            files = run_tasks(ir, folder / attempt, call, until)
            name = files["open", "run"].read_text()
            client = connect()
            runs.append((files, load_run(name)))
            counts.append(len(client.search_runs([experiment(client, "tiny")])))
        yield runs, counts


def test_the_compiled_tasks_make_the_whole_run(twice):
    ((files, record), _), (tracked, _) = twice
    assert record.finished and len(record.stages) == 11
    assert not any(stage.cached for stage in record.stages.values())
    assert tracked == 12  # the run and its eleven stages, each logged when it ended
    pairs = DatasetRef.model_validate_json(files["synthesize", "pairs"].read_text())
    assert pairs.summary["lineage.run"] == record.name
    assert {p.name for p in (home() / "runs" / record.name).iterdir()} >= {"report.html", "summary.json", "run.json"}


def test_again_unchanged_nothing_counts_as_made(twice):
    ((before, first), (after, second)), (tracked, still) = twice
    assert (second.name, still) == (first.name, tracked)
    assert ("curate", "curated") in after and ("finetune", "tuned") not in after
    for key in after.keys() - {("open", "config")}:
        assert before[key].read_text() == after[key].read_text(), key


def test_bootstrap_holds_nothing_that_argo_or_kfp_would_replace():
    assert "{{" not in BOOTSTRAP.read_text()
    compile(BOOTSTRAP.read_text(), "bootstrap", "exec")
    assert len(stable_hash(json.dumps(BOOTSTRAP.read_text()))) == 32


def nano(folder, *overrides):
    """The embedded world, small: file and configuration."""
    sets = ["inputs.sets.1.limit=2", "inputs.sets.0.limit=12", "planning.variants=1", "synthesis.workers=1"]
    sets += ["sft.stages.0.max_steps=1", "sft.stages.1.max_steps=1", "evaluation.limit=8", "evaluation.resamples=100"]
    sets += ["reward.epochs=1", "reward.members=1", "reward.resamples=100", "profile=kfp"]
    config = load_config(ROOT / "configs" / "nano.yaml", [*sets, *overrides])
    (folder / "nano.yaml").write_text(yaml.safe_dump({"parameters": {"config": config.model_dump(mode="json")}}))
    return config


def made_directly(config, patch, until="curate"):
    """Digests of what the plain stages make in this process, in one piece."""
    from importlib import import_module

    from artiagent.inputs import input_digests
    from artiagent.settle import settle
    from pipelines.stages import section_of, stages, value_of

    patch.setenv("ARTIAGENT_RUN", "directly")
    config, _ = settle(config)
    digests, made = input_digests(config.inputs), {}
    for stage in stages(config):
        values = [value_of(n, config, digests) if n.startswith("@") else made[n] for n in stage.inputs]
        result = import_module(f"steps.{stage.name}").run(section_of(stage, config), *values)
        made |= dict(zip(stage.outputs, result if isinstance(result, tuple) else (result,), strict=True))
        if stage.name == until:
            return {name: ref.digest for name, ref in made.items() if isinstance(ref, DatasetRef)}
    raise AssertionError(until)


@pytest.mark.slow
def test_the_commands_of_the_compiled_pipeline_make_what_the_library_makes(tmp_path, monkeypatch):
    """Every task as a process of its own, from the archive of the code, five stages in shards; then the library."""
    shards = "scale.shards={perceive: 2, synthesize: 2, curate: 2, evaluate_base: 2, evaluate_tuned: 2}"
    store, home_of_tasks = f"file://{tmp_path}/store", tmp_path / "home"
    config = nano(tmp_path, shards)
    bundle = make_bundle(config, ROOT)
    send_bundle(bundle, store)
    export(config, bundle, Target(image="image"), tmp_path / "p.yaml")
    ir, _ = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    environment = {
        **os.environ, "ARTIAGENT_STORE": store, "ARTIAGENT_HOME": str(home_of_tasks), "ARTIAGENT_WORKDIR": str(ROOT),
        "ARTIAGENT_CODE": str(tmp_path / "code"), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "ZENML_CONFIG_PATH": str(home_of_tasks / "zenml"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    environment.pop("ARTIAGENT_RUN", None)
    log = (tmp_path / "log.txt").open("w")

    def call(container, given):
        command = [sys.executable if text == "python" else text for text in container["command"]]
        done = subprocess.run([*command, *given], env=environment, cwd=tmp_path, stderr=log, check=False)
        assert done.returncode == 0, (given, (tmp_path / "log.txt").read_text()[-2000:])

    files = run_tasks(ir, tmp_path / "tasks", call)
    directly = made_directly(load_config(files["open", "config"]), monkeypatch)
    made = {name: json.loads(path.read_text())["digest"] for (_, name), path in files.items() if name in directly}
    assert made == directly
    assert json.loads(files["curate-shard-2", "part"].read_text())["kind"] == "curated-part"
    record = json.loads(next((home_of_tasks / "runs").glob("*/run.json")).read_text())
    assert record["finished"] and record["revision"] == bundle.revision
    assert (tmp_path / "store" / "runs" / record["name"] / "report.html").is_file()
