"""What a submission refuses, and how it says so; servers are real ones on this machine."""

import base64
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from artiagent.config import Config
from artiagent.run_config import ConfigError, load_config
from pipelines import placement, preflight, probes
from pipelines.environment import prepare

PAPER = load_config(Path(__file__).resolve().parents[2] / "configs" / "paper.yaml")
SECRETS = {"HF_TOKEN": "hf-hidden", "OPENAI_API_KEY": "sk-hidden"}
SPACE = "/api/v1/namespaces/artiagent"
CLUSTER = {
    "/version": {}, SPACE: {}, f"{SPACE}/serviceaccounts/artiagent-orchestrator": {},
    f"{SPACE}/serviceaccounts/artiagent-step": {},
    f"/apis/scheduling.k8s.io/v1/priorityclasses/{placement.PRIORITY}": {},
    "/apis/kueue.x-k8s.io": {"preferredVersion": {"version": "v1beta2"}},
    "/apis/kueue.x-k8s.io/v1beta2/namespaces/artiagent/localqueues/artiagent-gpu": {},
}  # fmt: skip


@pytest.fixture
def serve():
    """``serve({path: status or JSON})`` -> address of a server that knows these paths and asks what ``login`` says."""
    servers = []

    def start(paths, login=""):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer = paths.get(self.path.partition("?")[0], 404)
                if login and self.headers.get("Authorization") != login:
                    answer = 401
                body = b"{}" if isinstance(answer, int) else json.dumps(answer).encode()
                self.send_response(answer if isinstance(answer, int) else 200)
                if answer == 302:
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        servers.append(server := ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def closed():
    """An address at which nothing listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}"


@pytest.fixture
def silent():
    """An address that takes connections and never answers."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        yield f"http://127.0.0.1:{s.getsockname()[1]}"


MLFLOW = "/api/2.0/mlflow/experiments/search"


def basic(person, password):
    return "Basic " + base64.b64encode(f"{person}:{password}".encode()).decode()


def test_mlflow_lets_in_who_is_known(serve):
    url = serve({MLFLOW: {}}, basic("person", "hidden"))
    known = {"MLFLOW_TRACKING_USERNAME": "person", "MLFLOW_TRACKING_PASSWORD": "hidden"}
    assert probes.mlflow_server(url, known) == ""
    assert probes.mlflow_server(serve({MLFLOW: {}}, "Bearer t"), {"MLFLOW_TRACKING_TOKEN": "t"}) == ""
    assert probes.mlflow_server(serve({MLFLOW: {}}), {}) == ""


def test_mlflow_without_credentials_says_what_to_set(serve):
    url = serve({MLFLOW: {}}, basic("person", "hidden"))
    assert re.search(
        r"asks for credentials \(401\); set MLFLOW_TRACKING_USERNAME.*secret", probes.mlflow_server(url, {})
    )
    wrong = {"MLFLOW_TRACKING_USERNAME": "person", "MLFLOW_TRACKING_PASSWORD": "hunter2"}
    told = probes.mlflow_server(url, wrong)
    assert "refuses these credentials (401)" in told and "hunter2" not in told
    assert "--allowed-hosts" in probes.mlflow_server(serve({MLFLOW: 403}), {})


def test_credentials_do_not_follow_a_redirect(serve):
    told = probes.mlflow_server(serve({MLFLOW: 302}), {"MLFLOW_TRACKING_TOKEN": "t"})
    assert "answers 302, as no MLflow server does" in told


def test_servers_that_are_away_are_told_soon(closed, silent, monkeypatch):
    monkeypatch.setattr(probes, "SECONDS", 0.3)
    started = time.monotonic()
    for url in (closed, silent, "http://no-such-host.invalid"):
        assert "cannot be reached" in probes.mlflow_server(url, {})
        assert "cannot be reached" in probes.zenml_server(url)
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL_S3": url}
        assert "cannot be reached" in probes.bucket("s3://artiagent/store", keys)
    assert time.monotonic() - started < 10


def test_zenml_server(serve):
    assert probes.zenml_server(serve({"/health": {}})) == ""
    assert "answers 503" in probes.zenml_server(serve({"/health": 503}))


def test_passwords_in_addresses_are_not_repeated(closed):
    assert "hunter2" not in probes.mlflow_server(closed.replace("//", "//person:hunter2@"), {})


@pytest.fixture(scope="module")
def s3():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_buckets(s3, monkeypatch):
    import botocore.session

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_ENDPOINT_URL_S3": s3}
    session = botocore.session.Session()
    session.set_credentials("a", "b")
    session.create_client("s3", region_name="us-east-1", endpoint_url=s3).create_bucket(Bucket="artiagent")
    assert probes.bucket("s3://artiagent/store", keys) == ""
    assert "there is no such bucket" in probes.bucket("s3://artigent/store", keys)
    assert "no credentials; set AWS_ACCESS_KEY_ID" in probes.bucket("s3://artiagent", {"AWS_ENDPOINT_URL_S3": s3})


def test_buckets_that_refuse(serve):
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_ENDPOINT_URL_S3": serve({"/b": 403})}
    told = probes.bucket("s3://b/store", keys)
    assert "refused (403)" in told and "hidden" not in told


def test_images(serve):
    host = serve({"/v2/artiagent/cpu/manifests/1": {}, "/v2/artiagent/cpu/manifests/sha256:ab": {}})[len("http://") :]
    assert probes.image(f"{host}/artiagent/cpu:1") == probes.image(f"{host}/artiagent/cpu@sha256:ab") == ""
    assert "its registry has none; push it" in probes.image(f"{host}/artiagent/cpu:2")
    private = serve({}, "Bearer t")[len("http://") :]
    assert probes.image(f"{private}/artiagent/cpu:2") == ""


def kube(url):
    from kubernetes.client import ApiClient, Configuration

    return ApiClient(Configuration(host=url))


def component(flavor, path="", **config):
    config = {"is_local": False, **config}
    more = {"name": f"my-{flavor}", "connector": None, "environment": {}, "secrets": []}
    return SimpleNamespace(flavor=flavor, path=path, config=SimpleNamespace(**config), **more)


@pytest.fixture
def stack(serve, monkeypatch):
    """A stack at which there is nothing to find fault with, and everything that it needs around it."""
    prepare()
    from zenml.client import Client

    registry = serve({f"/v2/artiagent/{kind}/manifests/0.1.0": {} for kind in ("cpu", "cuda")})[len("http://") :]
    monkeypatch.setattr(probes, "bucket", lambda *_: "")
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hidden"}
    store = SimpleNamespace(url="https://zenml.example.org")
    monkeypatch.setattr(Client, "zen_store", store)
    monkeypatch.setattr(Client, "get_secret", lambda self, name: SimpleNamespace(secret_values=SECRETS | keys))
    for name in placement.PASSED:
        monkeypatch.delenv(name, raising=False)
    mlflow = serve({MLFLOW: {}})
    # The names that pods use; here they are this machine.
    monkeypatch.setattr(probes, "is_loopback", lambda url: "localhost" in url)
    for name, value in {
        "ARTIAGENT_STORE": "s3://artiagent/store", "MLFLOW_TRACKING_URI": mlflow,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    orchestrator = component(
        "kubernetes", kubernetes_context="artiagent", kubernetes_namespace="artiagent", incluster=True,
        service_account_name="artiagent-orchestrator", step_pod_service_account_name="artiagent-step",
    )  # fmt: skip
    orchestrator.get_kube_client = lambda: kube(serve(CLUSTER))
    made = SimpleNamespace(
        name="artiagent-kubernetes", orchestrator=orchestrator, step_operator=None, environment={},
        secrets=["artiagent"],
        artifact_store=component("s3", "s3://zenml/a"), container_registry=component("default", uri=registry),
        zen_store=store,
    )  # fmt: skip
    made.all_components = [orchestrator, made.artifact_store]
    return made


def told(config, stack):
    with pytest.raises(ConfigError) as error:
        preflight.check(config, stack)
    assert "hidden" not in str(error.value)
    return str(error.value).splitlines()


def test_nothing_to_find_fault_with(stack):
    preflight.check(PAPER, stack)


def test_every_bucket_is_asked_with_what_pods_have(stack, s3, monkeypatch):
    asked = {}
    monkeypatch.setattr(probes, "bucket", lambda url, keys, endpoint: asked.update({url: (keys, endpoint)}) or "")
    stack.artifact_store.config.client_kwargs = {"endpoint_url": s3}
    preflight.check(PAPER, stack)
    assert set(asked) == {"s3://artiagent/store", "s3://artiagent/derived", "s3://zenml/a"}
    assert all(keys["AWS_SECRET_ACCESS_KEY"] == "hidden" for keys, _ in asked.values())
    assert [asked[url][1] for url in ("s3://zenml/a", "s3://artiagent/store")] == [s3, ""]


def test_only_the_stages_that_run_are_looked_at(stack):
    preflight.check(scaled(finetune="gpu-1x80gb"), stack, ["plan", "report"])
    assert "sft.processes" in told(scaled(finetune="gpu-1x80gb"), stack)[0]


def test_everything_is_told_at_once(stack, monkeypatch, closed):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", closed)
    monkeypatch.delenv("ARTIAGENT_STORE")
    stack.container_registry = None
    assert len(told(PAPER, stack)) == 3


def scaled(**profiles):
    scale = PAPER.scale.model_copy(update={"profiles": {**PAPER.scale.profiles, **profiles}})
    return PAPER.model_copy(update={"scale": scale})


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ({"synthesize": "gpu-1x80g"}, "did you mean 'gpu-1x80gb'"),
        ({"synthesise": "cpu"}, "no such stage; did you mean 'synthesize'"),
        ({"plan": "gpu-1x80gb"}, "plan computes on no GPU"),
    ],
)
def test_profiles(stack, profiles, message):
    (line,) = told(scaled(**profiles), stack)
    assert message in line


def test_a_profile_that_no_pool_satisfies(stack, monkeypatch):
    declared = placement.load_profiles()
    pools = {**declared.pools, "cpu": declared.pools["cpu"].model_copy(update={"cpu": 2.0})}
    monkeypatch.setattr(placement, "declared", lambda: declared.model_copy(update={"pools": pools}))
    (line,) = told(PAPER, stack)
    assert "nearest is 'cpu': a node has 2 cores, not 3 (asked for by ingest)" in line


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("HF_TOKEN", [r"inputs.generator \(black-forest-labs/FLUX.1-dev\): .*HF_TOKEN is not set; zenml secret"]),
        ("OPENAI_API_KEY", ["perception.vlm: .*OPENAI_API_KEY is not set", "curation.vlm: .*OPENAI_API_KEY"]),
    ],
)
def test_missing_secrets(stack, monkeypatch, name, messages):
    from zenml.client import Client

    secret = SimpleNamespace(secret_values={k: v for k, v in SECRETS.items() if k != name})
    monkeypatch.setattr(Client, "get_secret", lambda self, _: secret)
    monkeypatch.setenv(name, "the submitter has it, the pods have not")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    lines = told(PAPER, stack)
    assert len(lines) == len(messages)
    assert all(re.search(message, line) for message, line in zip(messages, lines, strict=True))


def test_pods_need_keys_or_an_account_for_s3(stack, monkeypatch):
    from zenml.client import Client

    monkeypatch.setattr(Client, "get_secret", lambda self, _: SimpleNamespace(secret_values=SECRETS))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    preflight.check(PAPER, stack)
    stack.orchestrator.config.step_pod_service_account_name = None
    (line,) = told(PAPER, stack)
    assert "pods have no credentials for S3" in line and "step_pod_service_account_name" in line


def test_a_secret_that_is_gone(stack, monkeypatch):
    from zenml.client import Client

    def gone(*_):
        raise KeyError("no")

    monkeypatch.setattr(Client, "get_secret", gone)
    (line,) = told(PAPER, stack)
    assert "its secret artiagent cannot be read (KeyError)" in line


def test_things_of_this_machine_that_pods_cannot_see(stack, monkeypatch):
    from zenml.client import Client

    monkeypatch.setattr(Client, "zen_store", SimpleNamespace(url="sqlite:////home/zenml.db"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    stack.artifact_store = component("local", "/home/zenml", is_local=True)
    lines = told(PAPER, stack)
    assert [line.partition(" is on this machine, where no pod sees it; ")[2] for line in lines] == [
        "register an S3-compatible one (infra/stacks/kubernetes.yaml)",
        "connect to a server: zenml login URL",
        "set MLFLOW_TRACKING_URI to a server's address",
    ]


@pytest.mark.parametrize("url", ["sqlite:///mlflow.db", "http://localhost:5000", "/home/mlruns"])
def test_an_mlflow_of_this_machine(stack, monkeypatch, url):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    (line,) = told(PAPER, stack)
    assert line.startswith("MLflow: ")


def test_data_needs_a_way(stack, monkeypatch):
    monkeypatch.delenv("ARTIAGENT_STORE")
    (line,) = told(PAPER, stack)
    assert "ARTIAGENT_STORE" in line and "ARTIAGENT_VOLUME" in line
    monkeypatch.setenv("ARTIAGENT_STORE", "file:///home/store")
    (line,) = told(PAPER, stack)
    assert "folder of this machine" in line


def test_a_shared_volume_is_a_way_if_it_is_there(stack, monkeypatch, serve):
    monkeypatch.delenv("ARTIAGENT_STORE")
    monkeypatch.setenv("ARTIAGENT_VOLUME", "shared")
    (line,) = told(PAPER, stack)
    assert "volume claim shared (ARTIAGENT_VOLUME): not there" in line
    stack.orchestrator.get_kube_client = lambda: kube(serve(CLUSTER | {f"{SPACE}/persistentvolumeclaims/shared": {}}))
    preflight.check(PAPER, stack)
    monkeypatch.setenv("ARTIAGENT_STORE", "file:///shared/store")
    preflight.check(PAPER, stack)


def test_inputs_that_only_this_machine_has(stack):
    (first, *rest) = PAPER.inputs.sets
    inputs = PAPER.inputs.model_copy(update={"sets": (first.model_copy(update={"images": "/home/coco"}), *rest)})
    (line,) = told(PAPER.model_copy(update={"inputs": inputs}), stack)
    assert line.startswith("inputs.sets.coco: /home/coco is on this machine only; put it below data/")


def test_agents_that_only_this_machine_reaches(stack):
    vlm = PAPER.curation.vlm.model_copy(update={"base_url": "http://localhost:8000/v1"})
    config = PAPER.model_copy(update={"curation": PAPER.curation.model_copy(update={"vlm": vlm})})
    (line,) = told(config, stack)
    assert line.startswith("curation.vlm.base_url http://localhost:8000/v1 is this machine")


def without(*paths):
    return {path: answer for path, answer in CLUSTER.items() if path not in paths}


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (without("/apis/kueue.x-k8s.io"), "the cluster has no Kueue"),
        (without("/apis/kueue.x-k8s.io/v1beta2/namespaces/artiagent/localqueues/artiagent-gpu"),
         "Kueue queue artiagent-gpu in artiagent: not there; its pods would wait for ever"),
        (without(f"{SPACE}/serviceaccounts/artiagent-step"), "service account artiagent-step: not there; kubectl"),
        (without(f"/apis/scheduling.k8s.io/v1/priorityclasses/{placement.PRIORITY}"), "priority class"),
        ({"/version": 401}, "Kubernetes cluster artiagent: answers 401"),
    ],
)  # fmt: skip
def test_what_the_cluster_lacks(stack, serve, paths, message):
    stack.orchestrator.get_kube_client = lambda: kube(serve(paths))
    (line,) = told(PAPER, stack)
    assert message in line


def test_what_the_cluster_does_not_show_is_not_judged(stack, serve):
    shy = {path: 403 for path in CLUSTER} | {"/version": {}}
    stack.orchestrator.get_kube_client = lambda: kube(serve(shy))
    preflight.check(PAPER, stack)


def test_a_cluster_that_is_away(stack, closed, silent, monkeypatch):
    monkeypatch.setattr(probes, "SECONDS", 0.3)
    started = time.monotonic()
    assert "cannot be reached" in probes.cluster(kube(silent), "artiagent", [])[0]
    assert time.monotonic() - started < 1
    stack.orchestrator.get_kube_client = lambda: kube(closed)
    (line,) = told(PAPER, stack)
    assert "Kubernetes cluster artiagent: cannot be reached" in line

    def no_way():
        raise RuntimeError("no context artiagent")

    stack.orchestrator.get_kube_client = no_way
    (line,) = told(PAPER, stack)
    assert "no way to it (no context artiagent)" in line


def test_the_orchestrator_pod_needs_a_way_to_the_cluster(stack):
    stack.orchestrator.config.incluster = False
    (line,) = told(PAPER, stack)
    assert "zenml orchestrator update my-kubernetes --incluster=true" in line
    stack.orchestrator.connector = "a service connector"
    preflight.check(PAPER, stack)


def test_an_image_that_was_never_pushed(stack, monkeypatch):
    monkeypatch.setenv("ARTIAGENT_IMAGE_CUDA", f"{stack.container_registry.config.uri}/artiagent/cuda:9")
    (line,) = told(PAPER, stack)
    assert "cuda:9: its registry has none" in line


@pytest.fixture
def local(monkeypatch):
    for name in (*placement.PASSED, "OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    made = SimpleNamespace(
        name="local", orchestrator=component("local", is_local=True), artifact_store=component("local")
    )
    made.container_registry = made.step_operator = None
    return made


def test_a_plain_local_stack_asks_nobody(local, monkeypatch):
    monkeypatch.setattr(probes, "_asked", lambda *_: pytest.fail("asked a server"))
    started = time.monotonic()
    preflight.check(Config(), local)
    assert time.monotonic() - started < 1


def test_local_stacks_too_need_names_keys_and_servers(local, monkeypatch, closed):
    scale = PAPER.scale.model_copy(update={"profiles": {"plan": "cqu"}})
    curation = PAPER.curation
    monkeypatch.setenv("MLFLOW_TRACKING_URI", closed)
    lines = told(Config(scale=scale, curation=curation), local)
    assert [re.search(m, line) is not None for m, line in zip(("'cqu'", "export OPENAI", "MLflow"), lines, strict=True)]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    preflight.check(Config(curation=curation), local)


def test_the_zenml_server_is_asked_before_anything_asks_it(monkeypatch, closed):
    prepare()
    from zenml.config.global_config import GlobalConfiguration

    preflight.server()
    monkeypatch.setattr(GlobalConfiguration, "store_configuration", SimpleNamespace(url=closed))
    with pytest.raises(ConfigError, match="ZenML server .*cannot be reached.*zenml login"):
        preflight.server()
