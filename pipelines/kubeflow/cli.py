"""The commands ``artiagent kubeflow export`` and ``submit``: what can be wrong is said here, not by a pod."""

from __future__ import annotations

import argparse
import os
from urllib.parse import urlsplit

from artiagent.run_config import ConfigError, load_config
from artiagent.scale.profiles import name_problems, need_problems
from pipelines.environment import prepare
from pipelines.placement import SHARED, declared, image, profile_of
from pipelines.stages import stages

NEEDED = {
    "ARTIAGENT_STORE": "tasks exchange data and code there, e.g. s3://bucket/prefix",
    "MLFLOW_TRACKING_URI": "tasks log there, e.g. https://mlflow.example.org",
}


def export(arguments: argparse.Namespace) -> int:
    """Pack code and configuration, put them into the store, write the pipeline."""
    root = prepare(arguments.debug)
    config = load_config(arguments.config, arguments.set)
    names = [stage.name for stage in stages(config)]
    if problems := name_problems(config.scale, declared(), names) or need_problems(config, declared(), names):
        raise ConfigError("\n".join(problems))
    if config.sft.nodes > 1:
        raise ConfigError(f"sft.nodes is {config.sft.nodes}, and a Kubeflow task is one pod; set sft.nodes=1")
    for name, why in NEEDED.items():
        if not (value := os.environ.get(name)):
            raise ConfigError(f"{name} is not set: {why}")
        if _of_this_machine(value):
            raise ConfigError(f"{name} {value} is this machine, where no pod sees it: {why}")
    if not arguments.image and not arguments.registry and image(profile_of("ingest", config), "").startswith("/"):
        raise ConfigError("--registry HOST/PATH is missing: where the images artiagent/cpu and artiagent/cuda lie")

    from pipelines.kubeflow.bundle import make_bundle, send_bundle
    from pipelines.kubeflow.export import Target, export

    bundle = make_bundle(config, root)
    count = export(config, bundle, Target(arguments.registry, arguments.image, arguments.secret), arguments.out)
    place = send_bundle(bundle, os.environ["ARTIAGENT_STORE"])
    print(f"{arguments.out}: {count} tasks, revision {bundle.revision}\ncode: {place}")
    if bundle.revision.endswith("+dirty"):
        print("the checkout differs from its commit: what lies here is what runs, and no commit can repeat it")
    return 0


def _of_this_machine(place: str) -> bool:
    from pipelines.probes import is_loopback

    shared = "ARTIAGENT_VOLUME" in os.environ and place.startswith(f"file://{SHARED}/")
    return is_loopback(place) or (not shared and urlsplit(place).scheme in ("", "file", "local", "sqlite"))


def submit(arguments: argparse.Namespace) -> int:
    """Start a run on a server; prints its id. A token comes from $KUBEFLOW_TOKEN."""
    from pipelines.kubeflow.submit import submit_pipeline

    if urlsplit(arguments.host).scheme not in ("http", "https"):
        raise ConfigError(f"--host {arguments.host}: expected http(s)://...")
    run = submit_pipeline(
        arguments.pipeline, arguments.host, arguments.namespace, arguments.experiment, arguments.service_account
    )
    print(f"{arguments.host}: run {run}")
    return 0
