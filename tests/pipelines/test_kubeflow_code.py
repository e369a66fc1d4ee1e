"""The archive of the code, the first lines of a task, and the submission."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from pipelines.environment import prepare

ROOT = prepare()

from artiagent.config import Config  # noqa: E402
from artiagent.exchange import ExchangeError  # noqa: E402
from artiagent.lineage import git_revision, stage_files  # noqa: E402
from pipelines.kubeflow import bundle as bundles  # noqa: E402
from pipelines.kubeflow.bundle import CONFIG, make_bundle, send_bundle  # noqa: E402
from pipelines.kubeflow.export import BOOTSTRAP  # noqa: E402
from pipelines.kubeflow.submit import missing, submit_pipeline  # noqa: E402

ENTRY = b"import os, sys; print(os.getcwd(), sys.argv[1:], __file__)"


@pytest.fixture(autouse=True)
def files_of_one_stage(monkeypatch):
    """Other stages' files may be in the making while these tests run."""
    monkeypatch.setattr(bundles, "stage_files", lambda module, root: stage_files("steps.publish", root))


@pytest.fixture
def checkout(tmp_path):
    """A repository of two files."""
    for name in ("artiagent/records.py", "steps/publish.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def members(bundle):
    with tarfile.open(fileobj=io.BytesIO(bundle.data)) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive.getmembers()}


def test_archive_is_the_tracked_code_and_the_configuration():
    bundle = make_bundle(Config(profile="x"), ROOT)
    assert bundle.digest == hashlib.sha256(bundle.data).hexdigest()
    files = members(bundle)
    assert {"pipelines/entry.py", "artiagent/records.py", "infra/profiles.yaml", "pyproject.toml", CONFIG} <= set(files)
    assert b"profile: x" in files[CONFIG]
    assert not any(name.startswith(("data/", "infra/dvc", ".git", "tests/")) for name in files)
    assert len(bundle.data) < 5 * 2**20


def test_same_files_and_configuration_give_the_same_bytes(checkout):
    assert make_bundle(Config(), checkout) == (first := make_bundle(Config(), checkout))
    assert make_bundle(Config(profile="y"), checkout).digest != first.digest
    (checkout / "artiagent" / "untracked.py").write_text("secret = 1")
    (checkout / "steps" / "link.py").symlink_to("/etc/hostname")
    subprocess.run(["git", "-C", str(checkout), "add", "steps/link.py"], check=True)
    assert set(members(make_bundle(Config(), checkout))) == set(members(first))


def test_archive_unpacked_elsewhere_says_of_which_commit_it_is(tmp_path):
    bundle = make_bundle(Config(), ROOT)
    with tarfile.open(fileobj=io.BytesIO(bundle.data)) as archive:
        archive.extractall(tmp_path, filter="data")
    assert git_revision(tmp_path) == bundle.revision != "unknown"


def test_untracked_file_that_a_stage_needs_is_an_error(checkout):
    subprocess.run(["git", "-C", str(checkout), "rm", "-q", "--cached", "steps/publish.py"], check=True)
    with pytest.raises(ValueError, match=r"steps/publish.py: not tracked by git"):
        make_bundle(Config(), checkout)


def test_folder_without_git_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no git checkout"):
        make_bundle(Config(), tmp_path)


def test_store_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExchangeError, match="file"):
        send_bundle(make_bundle(Config(), ROOT), f"file://{tmp_path}/file/store")


def packed(**files):
    data = io.BytesIO()
    with gzip.GzipFile(fileobj=data, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def boot(folder, data, digest=None, **environment):
    """What the first lines of a task do with an archive in the store ``folder``."""
    digest = digest or hashlib.sha256(data).hexdigest()
    (folder / "store" / "code").mkdir(parents=True, exist_ok=True)
    (folder / "store" / "code" / f"{digest}.tar.gz").write_bytes(data)
    known = {**os.environ, "ARTIAGENT_STORE": f"file://{folder}/store", "ARTIAGENT_CODE": f"{folder}/code"}
    command = [sys.executable, "-c", BOOTSTRAP.read_text(), digest, "plan", "--run", "r"]
    return subprocess.run(command, env=known | environment, cwd=folder, capture_output=True, text=True, check=False)


def test_task_becomes_the_stage_in_the_working_folder(tmp_path):
    (tmp_path / "pipelines").mkdir()  # of the current folder: never the code's
    (tmp_path / "pipelines" / "entry.py").write_text("raise SystemExit(9)")
    done = boot(tmp_path, packed(**{"pipelines/__init__.py": b"", "pipelines/entry.py": ENTRY}), ARTIAGENT_WORKDIR="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"/ ['plan', '--run', 'r'] {tmp_path}/code/pipelines/entry.py"


@pytest.mark.parametrize(
    ("data", "digest", "environment", "said"),
    [
        (packed(a=b"1"), "0" * 64, {}, "does not have the sha256 of its name"),
        (packed(a=b"1"), None, {"ARTIAGENT_STORE": "file:///nowhere"}, "FileNotFoundError"),
        (packed(a=b"1"), None, {"ARTIAGENT_STORE": ""}, "ARTIAGENT_STORE is not set"),
        (packed(**{"../outside": b"1"}), None, {}, "OutsideDestinationError"),
    ],
    ids=["other content", "no such store", "no store", "outside"],
)
def test_task_refuses_what_it_was_not_made_for(tmp_path, data, digest, environment, said):
    done = boot(tmp_path, data, digest, **environment)
    assert done.returncode != 0
    assert said in done.stderr
    assert not (tmp_path / "outside").exists()


@contextmanager
def server(answers):
    """Kubeflow Pipelines on 127.0.0.1: path -> (status, JSON); keeps what it is sent."""
    taken = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            taken.append((self.command, path, self.headers.get("Authorization"), body))
            status, answer = answers.get((self.command, path), (404, {}))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_POST = do_GET

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}", taken
    finally:
        made.shutdown()
        made.server_close()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A compiled pipeline of one task."""
    from kfp import compiler, dsl, kubernetes

    from pipelines.kubeflow.export import component

    @dsl.pipeline(name="one")
    def one():
        task = component("a", "image", ["true"], [], {}, {})()
        kubernetes.add_node_selector(task, "pool", "gpu")

    out = tmp_path_factory.mktemp("one") / "one.yaml"
    compiler.Compiler().compile(one, str(out))
    return out


HEALTH, EXPERIMENTS = ("GET", "/apis/v2beta1/healthz"), ("GET", "/apis/v2beta1/experiments")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({}, "HTTP 404; expected Kubeflow Pipelines 2.x"),
        ({HEALTH: (401, {})}, r"asks for a login \(HTTP 401\); put a token of it into KUBEFLOW_TOKEN"),
        ({HEALTH: (302, {})}, r"asks for a login \(HTTP 302\)"),
        (
            {HEALTH: (200, {}), ("GET", "/apis/v2beta1/experiments"): (403, {})},
            r"refused the run \(HTTP 403.*KUBEFLOW_TOKEN",
        ),
    ],
)
def test_server_that_refuses_is_one_line(pipeline, answers, said):
    with server(answers) as (host, _), pytest.raises(RuntimeError, match=said):
        submit_pipeline(pipeline, host, None, "artiagent", None)


def test_server_that_is_not_there_is_one_line(pipeline):
    with pytest.raises(RuntimeError, match="cannot be reached"):
        submit_pipeline(pipeline, "http://127.0.0.1:9", None, "artiagent", None)


@pytest.mark.parametrize(("name", "said"), [("none.yaml", "no such file"), ("other.yaml", "no compiled pipeline")])
def test_file_that_is_no_pipeline_is_one_line(tmp_path, name, said):
    (tmp_path / "other.yaml").write_text("parameters: {config: {}}")
    with pytest.raises(ValueError, match=said):
        submit_pipeline(tmp_path / name, "http://127.0.0.1:9", None, "artiagent", None)


def test_what_the_tasks_would_miss_is_said_before(tmp_path):
    def container(digest, store):
        variables = {"ARTIAGENT_STORE": store, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
        env = [{"name": name, "value": value} for name, value in variables.items()]
        return {"container": {"image": "image", "command": ["python", "-c", "", digest], "env": env}}

    store = f"file://{tmp_path}"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "there.tar.gz").write_bytes(b"")
    executors = {digest: container(digest, store) for digest in ("there", "gone")}
    mlflow, code = missing({"deploymentSpec": {"executors": executors}})
    assert "MLflow server http://127.0.0.1:9" in mlflow and "set MLFLOW_TRACKING_URI" in mlflow
    assert code == f"{store}: has no code/gone.tar.gz; export again"


def test_run_is_started_with_pods_settings_account_and_token(pipeline, monkeypatch):
    monkeypatch.setenv("KUBEFLOW_TOKEN", "a-token")
    experiment = {"experiment_id": "e", "display_name": "artiagent", "namespace": ""}
    answers = {
        HEALTH: (200, {}),
        EXPERIMENTS: (200, {"experiments": [experiment]}),
        ("POST", "/apis/v2beta1/experiments"): (200, experiment),
        ("POST", "/apis/v2beta1/runs"): (200, {"run_id": "r-1"}),
    }
    with server(answers) as (host, taken):
        assert submit_pipeline(pipeline, host, None, "artiagent", "runner") == "r-1"
    assert {authorization for _, _, authorization, _ in taken} == {"Bearer a-token"}
    sent = json.loads(next(body for method, path, _, body in taken if (method, path) == ("POST", "/apis/v2beta1/runs")))
    assert sent["service_account"] == "runner"
    assert sent["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]
