"""Starts an exported pipeline on a server of Kubeflow Pipelines. Every refusal is one line with the remedy."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format

from artiagent.exchange.remote import Remote
from pipelines import probes

TOKEN = "KUBEFLOW_TOKEN"
TIMEOUT = 10.0  # seconds


def submit_pipeline(
    pipeline: Path, host: str, namespace: str | None, experiment: str, service_account: str | None
) -> str:
    """Id of the run. Raises ValueError for a file that is no pipeline, RuntimeError for a server that refuses it."""
    if not pipeline.is_file():
        raise ValueError(f"{pipeline}: no such file; 'artiagent kubeflow export' writes it")
    from kfp import components

    try:
        loaded = components.load_component_from_file(str(pipeline))
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        said = f"no compiled pipeline ({error}); 'artiagent kubeflow export' writes one"
        raise ValueError(f"{pipeline}: {said}") from error
    if problems := missing(json_format.MessageToDict(loaded.pipeline_spec)):
        raise RuntimeError("\n".join(problems))
    _reach(host)
    return _start(pipeline, host, namespace, experiment, service_account)


def missing(ir: dict[str, Any]) -> list[str]:
    """What the tasks of a pipeline would miss, as far as it can be seen from here, a line each."""
    containers = [executor["container"] for executor in ir["deploymentSpec"]["executors"].values()]
    variables = {entry["name"]: entry["value"] for c in containers for entry in c.get("env", [])}
    problems = [probes.image(reference) for reference in sorted({c["image"] for c in containers if "/" in c["image"]})]
    if (uri := variables.get("MLFLOW_TRACKING_URI", "")) and not probes.only_inside(uri):
        problems.append(probes.mlflow_server(uri, os.environ))
    if (store := variables.get("ARTIAGENT_STORE")) and not probes.only_inside(os.environ.get("AWS_ENDPOINT_URL", "")):
        there = Remote(store).names("code")
        digests = {c["command"][-1] for c in containers}
        problems += [f"{store}: has no code/{d}.tar.gz; export again" for d in digests if f"{d}.tar.gz" not in there]
    return list(filter(None, problems))


def _reach(host: str) -> None:
    """Ask the server whether it is there before kfp does, which takes minutes to say no."""
    import urllib3

    headers = {"Authorization": f"Bearer {token}"} if (token := os.environ.get(TOKEN)) else {}
    address = f"{host.rstrip('/')}/apis/v2beta1/healthz"
    try:
        pool = urllib3.PoolManager(timeout=TIMEOUT, retries=False)
        answer = pool.request("GET", address, headers=headers, redirect=False)
    except urllib3.exceptions.HTTPError as error:
        raise RuntimeError(f"{host}: cannot be reached ({type(error).__name__}); see --host and the network") from error
    if answer.status in (301, 302, 303, 307, 308, 401, 403):
        raise RuntimeError(f"{host}: asks for a login (HTTP {answer.status}); put a token of it into {TOKEN}")
    if answer.status != 200:
        raise RuntimeError(f"{address}: HTTP {answer.status}; expected Kubeflow Pipelines 2.x there, see --host")


def _start(pipeline: Path, host: str, namespace: str | None, experiment: str, service_account: str | None) -> str:
    import kfp
    from kfp_server_api.exceptions import ApiException

    logging.getLogger().setLevel(logging.ERROR)
    try:
        client = kfp.Client(host=host, namespace=namespace, existing_token=os.environ.get(TOKEN), verify_ssl=True)
        made = client.create_run_from_pipeline_package(
            str(pipeline), experiment_name=experiment, namespace=namespace, service_account=service_account,
            enable_caching=False,
        )  # fmt: skip
    except ApiException as error:
        login = f"; put a token with access to namespace {namespace} into {TOKEN}" if error.status in (401, 403) else ""
        raise RuntimeError(f"{host}: refused the run (HTTP {error.status} {error.reason}){login}") from error
    return str(made.run_id)
