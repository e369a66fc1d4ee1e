"""``artiagent audit``: how often generators draw artifacts, and which."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from artiagent.orchestration import open_model, pipelines_command

if TYPE_CHECKING:
    from artiagent.config import Config
    from artiagent.records import CheckpointRef

UNREAD = 3  # exit code: something could not be read; the rest is done
EXAMPLES = """examples:
  artiagent audit
  artiagent audit --generator data/weights/nano-schnell --generator data/weights/nano-flux --prompts my-prompts.txt
  artiagent audit --generator midjourney=renders/mj/ --generator flux=renders/flux/ --out audit/
  artiagent audit --generator black-forest-labs/FLUX.1-schnell --prompts prompts.txt --images 8 \\
      --config configs/single_gpu.yaml --set audit.size=1024 --set audit.dtype=bfloat16

A generator is a FluxPipeline folder or hub id that draws here, or a folder or Parquet file of images that another one
made; prompts.csv beside them (columns file_name, prompt, perhaps seed) lets generators be compared prompt by prompt.
NAME=PLACE gives it a name. With --out all is written there, without ZenML; the same command again goes on where it
was stopped. Exit code 3: some images could not be read; they are counted in audit.json.
"""


def add_commands(
    commands: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser], config_options: Callable
) -> None:
    made = add(commands, "audit", "how often generators draw artifacts, by type, and how they compare", audit)
    made.epilog, made.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    config_options(made)
    made.add_argument("--stack", metavar="NAME", help="ZenML stack to run on; default: the active one")
    made.add_argument(
        "--generator", action="append", default=[], metavar="[NAME=]PLACE",
        help="pipeline folder, hub id, or folder or Parquet file of images; repeatable; default: audit.generators",
    )  # fmt: skip
    made.add_argument("--prompts", metavar="FILE", help="a prompt a line; default: audit.prompts")
    made.add_argument("--images", type=int, metavar="N", help="per prompt and generator; default: audit.images")
    made.add_argument("--model", help="VLM: folder or models:/ uri; default: the profile's champion")
    made.add_argument("--out", type=Path, metavar="DIR", help="write here, without ZenML; default: a pipeline run")


def audit(arguments: argparse.Namespace) -> int:
    """As a pipeline, or into a folder."""
    return _here(arguments) if arguments.out else pipelines_command("audit")(arguments)


def configured(arguments: argparse.Namespace) -> Config:
    """The configuration with what the options say; generators and prompts with absolute places and digests.

    Raises ValueError for a place that holds neither a generator nor images, and for a file of prompts that is missing.
    """
    from artiagent.config import AuditSection
    from artiagent.mitigation.audit.sources import settled
    from artiagent.run_config import load_config, validated

    config = load_config(arguments.config, arguments.set)
    places = [_place(given) for given in arguments.generator]
    given = {"generators": places, "prompts": arguments.prompts, "images": arguments.images}
    changes = {key: value for key, value in given.items() if value not in ([], None)}
    section = validated(AuditSection, config.audit.model_dump(mode="json") | changes, "options of audit")
    return config.model_copy(update={"audit": settled(section)})


def _place(given: str) -> dict[str, str]:
    """NAME=PLACE or PLACE; a path may hold "=" itself."""
    name, named, location = given.partition("=")
    if not named or "/" in name or Path(given).exists():
        return {"location": given}
    if not (name and location):
        raise ValueError(f"--generator {given!r}: expected PLACE or NAME=PLACE")
    return {"name": name, "location": location}


def _here(arguments: argparse.Namespace) -> int:
    from artiagent.checkpoints import checkpoint_ref
    from artiagent.mitigation.audit.records import AuditReport
    from artiagent.mitigation.audit.sources import place_refs, prompts_of
    from artiagent.mitigation.audit.stage import REPORT
    from artiagent.mitigation.audit.stage import audit as stage
    from artiagent.mitigation.audit.tables import IMAGES, text_table
    from artiagent.report.audit import PAGE

    config = configured(arguments)
    parser = checkpoint_ref("parser", config.inputs.parser) if config.inputs.parser else None
    stage(
        config.audit, config.evaluation, prompts_of(config.audit), place_refs(config.audit.generators),
        _vlm(arguments, config), parser, arguments.out, config.inputs.benchmarks,
    )  # fmt: skip
    report = AuditReport.model_validate_json((arguments.out / REPORT).read_bytes())
    print(text_table(report), "", *(arguments.out / name for name in (PAGE, REPORT, IMAGES)), sep="\n")
    return UNREAD if any(found.unread for found in report.generators.values()) else 0


def _vlm(arguments: argparse.Namespace, config: Config) -> CheckpointRef:
    return open_model(arguments.model or f"models:/{config.registry.vlm_name}@champion")
