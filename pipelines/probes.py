"""Asks servers, once and shortly: is it there, and does it let us in. Answers are lines for people; "" is all well.

Knows HTTP, S3 and the Kubernetes API. Does not know what a run needs of them. No answer holds a secret.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

SECONDS = 5.0
LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
KUEUE = "/apis/kueue.x-k8s.io"
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)  # fmt: skip


class Wanted(NamedTuple):
    """Something that must be on a cluster."""

    path: str  # of the API
    what: str
    remedy: str


def is_loopback(url: str) -> bool:
    """Whether an address means the machine that uses it."""
    return urlsplit(url).hostname in LOOPBACK


def only_inside(url: str) -> bool:
    """Whether an address is one of a cluster's own, and we are not there: it cannot be asked from here."""
    host = urlsplit(url).hostname or ""
    return host.endswith((".svc", ".cluster.local")) and "KUBERNETES_SERVICE_HOST" not in os.environ


def zenml_server(url: str) -> str:
    """Whether a ZenML server answers."""
    status, reason = _asked(f"{url.rstrip('/')}/health")
    if status == 200:
        return ""
    return (
        f"ZenML server {shown(url)}: {reason or f'answers {status}'}; start it, or connect to another: zenml login URL"
    )


def mlflow_server(url: str, variables: Mapping[str, str]) -> str:
    """Whether an MLflow server answers, and lets in who has ``MLFLOW_TRACKING_*`` of these variables."""
    headers = {"Content-Type": "application/json"}
    if token := variables.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    elif person := variables.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{person}:{variables.get('MLFLOW_TRACKING_PASSWORD', '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    place = f"{url.rstrip('/')}/api/2.0/mlflow/experiments/search"
    status, reason = _asked(place, headers, json.dumps({"max_results": 1}).encode())
    server = f"MLflow server {shown(url)}"
    if status == 200:
        return ""
    if status in (401, 403):
        known = "refuses these credentials" if "Authorization" in headers else "asks for credentials"
        more = ", or serves other host names only (mlflow server --allowed-hosts)" if status == 403 else ""
        return (
            f"{server}: {known} ({status}){more}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN: for pods in the stack's ZenML secret (docs/kubernetes.md)"
        )
    if reason:
        return f"{server}: {reason}; start it, or set MLFLOW_TRACKING_URI to one that is up"
    return f"{server}: answers {status}, as no MLflow server does; check MLFLOW_TRACKING_URI"


def bucket(url: str, variables: Mapping[str, str], endpoint: str = "") -> str:
    """Whether ``s3://bucket/prefix`` can be listed with ``AWS_*`` of these variables, else with what is found here."""
    try:
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return f"{url}: S3 needs packages that are not installed; uv pip install 'artiagent[cluster]'"
    parts = urlsplit(url)
    session = botocore.session.Session()
    session.register_component("data_loader", _descriptions())
    if key := variables.get("AWS_ACCESS_KEY_ID"):
        session.set_credentials(key, variables.get("AWS_SECRET_ACCESS_KEY", ""), variables.get("AWS_SESSION_TOKEN"))
    place = endpoint or variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL") or None
    once = Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 1})
    region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or "us-east-1"
    keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    try:
        client = session.create_client("s3", region_name=region, endpoint_url=place, config=once)
        client.list_objects_v2(Bucket=parts.netloc, Prefix=parts.path.lstrip("/"), MaxKeys=1)
    except ClientError as error:
        code = str(error.response["Error"].get("Code", ""))
        if code in ("NoSuchBucket", "404"):
            return f"{url}: there is no such bucket at {place or 'AWS'}; create it, or name another"
        return f"{url}: refused ({code}); check {keys} and what they may do there"
    except (BotoCoreError, ValueError) as error:
        if "credentials" in str(error).lower():
            return f"{url}: no credentials; set {keys}"
        return f"{url}: {place or 'AWS'} cannot be reached ({type(error).__name__}); check AWS_ENDPOINT_URL_S3"
    return ""


def image(reference: str) -> str:
    """Whether a registry says that it has no such image. Registries that tell strangers nothing are not judged."""
    registry, _, rest = reference.partition("/")
    name, _, tag = rest.partition("@") if "@" in rest else rest.rpartition(":")
    scheme = "http" if registry.partition(":")[0] in LOOPBACK else "https"
    status, _ = _asked(f"{scheme}://{registry}/v2/{name}/manifests/{tag}", {"Accept": ", ".join(MANIFESTS)})
    if status != 404:
        return ""
    return f"image {reference}: its registry has none; push it, or name another in ARTIAGENT_IMAGE_CPU or _CUDA"


def cluster(client: ApiClient, name: str, wanted: Iterable[Wanted]) -> list[str]:
    """What of ``wanted`` is not on a cluster; or the one line that says why it cannot be asked.

    What the cluster does not let us see is not judged.
    """
    client = _once(client)
    status, answer = _got(client, "/version")
    if status != 200:
        return [f"Kubernetes cluster {name}: {answer}; check 'kubectl --context {name} get nodes'"]
    missing = []
    for path, what, remedy in wanted:
        if path.startswith(KUEUE):
            status, group = _got(client, KUEUE)
            if status == 404:
                missing.append(f"{what}: the cluster has no Kueue; install it (docs/kubernetes.md), or take queue: out")
                continue
            if status != 200:
                continue
            path = f"{KUEUE}/{group['preferredVersion']['version']}{path.removeprefix(KUEUE)}"  # noqa: PLW2901
        status, answer = _got(client, path)
        if status == 404:
            missing.append(f"{what}: not there; {remedy}")
        elif status == 401:
            return [f"Kubernetes cluster {name}: refuses these credentials (401); log in again"]
    return missing


@cache
def _descriptions() -> Any:
    """AWS's services as botocore describes them: reading them takes longer than asking."""
    from botocore.loaders import create_loader

    return create_loader()


def shown(url: str) -> str:
    """An address without a user or password in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the credentials along."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _asked(url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> tuple[int, str]:
    """Status, or 0 and why there is none."""
    try:
        request = urllib.request.Request(url, data=body, headers=dict(headers or {}))
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=SECONDS) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return 0, f"cannot be reached ({'no answer' if isinstance(reason, TimeoutError) else reason})"


def _once(client: ApiClient) -> ApiClient:
    """The client, but one that gives up at the first try."""
    from kubernetes.client import ApiClient

    configuration = deepcopy(client.configuration)
    configuration.retries = 0
    return ApiClient(configuration)


def _got(client: ApiClient, path: str) -> tuple[int, Any]:
    """Status and JSON of the Kubernetes API, or 0 and why there is none."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        answer, status, _ = client.call_api(
            path, "GET", header_params={"Accept": "application/json"}, auth_settings=["BearerToken"],
            response_type="object", _request_timeout=(SECONDS / 2, SECONDS),
        )  # fmt: skip
    except ApiException as error:
        return error.status or 0, f"answers {error.status}"
    except (HTTPError, OSError) as error:
        return 0, f"cannot be reached ({type(error).__name__})"
    return status, answer
