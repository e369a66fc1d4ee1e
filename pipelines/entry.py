"""Runs one stage in a process of its own, for orchestrators that are not ZenML: references in files, outputs in files.

    python -m pipelines.entry open --config FILE --output config=FILE --output digests=FILE --output run=FILE
    python -m pipelines.entry STAGE --config FILE --run NAME --input scenes=FILE ... --output pairs=FILE
    python -m pipelines.entry STAGE --config FILE --run NAME --input scenes=FILE ... --shard I/N --output part=FILE
    python -m pipelines.entry --list --config FILE

``open`` begins a run as ``artiagent run`` does: it settles the configuration, reads the inputs' digests and names the
run. Every stage takes the settled configuration from there. A reference is JSON, as the materializers store it.

Knows the list of stages (`pipelines.stages`) and MLflow (`steps.tracking`). Does not know what orchestrates it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import typing
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from artiagent.config import Config
from artiagent.records import DatasetRef, stable_hash
from artiagent.run_config import load_config
from artiagent.shards import PART
from artiagent.store import checkout, home, write_atomic
from pipelines.environment import prepare
from pipelines.opening import OPENED, bring_inputs, open_run
from pipelines.stages import DIGESTS, Stage, section_of, stages, value_of

OPEN = "open"
DONE, WRONG, STOPPED = 0, 2, 143


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 a bug (with its traceback), 2 wrong input or a server that refuses, 143 told to stop.

    Whatever was finished stays: the same command again goes on from there.
    """
    arguments = _parser().parse_args(argv)
    label = " ".join(filter(None, (arguments.stage or "--list", arguments.shard)))
    try:
        prepare()
        config = load_config(arguments.config)
        if arguments.list:
            _print_stages(config)
        elif arguments.stage == OPEN:
            outputs = _pairs(arguments.output, "--output")
            _expect(outputs, OPENED, "--output")
            _write(outputs, open_run(config))
        else:
            _execute(_stage_of(arguments.stage, config), config, arguments)
    except KeyboardInterrupt:
        print(f"artiagent {label}: stopped; the same command goes on from here", file=sys.stderr)
        return STOPPED
    except (ValueError, OSError, RuntimeError) as error:
        return _refuse(label, str(error).strip() or type(error).__name__)
    except Exception as error:
        if type(error).__module__.startswith("mlflow."):
            return _refuse(label, f"MLflow: {str(error).splitlines()[0]}; see MLFLOW_TRACKING_URI and its credentials")
        raise
    return DONE


def accepts(stage: Stage) -> dict[str, type[BaseModel]]:
    """Reference that a stage takes -> its type, as the stage's ``run`` annotates it."""
    hints = typing.get_type_hints(_run_of(stage))
    own = [name for name in hints if name != "return"][1:]
    return {name: hints[key] for name, key in zip(stage.inputs, own, strict=True) if not name.startswith("@")}


def makes(stage: Stage) -> dict[str, type[BaseModel]]:
    """Reference that a stage makes -> its type."""
    made = typing.get_type_hints(_run_of(stage), include_extras=True)["return"]
    several = typing.get_args(made) if typing.get_origin(made) is tuple else (made,)
    types = [typing.get_args(each)[0] if typing.get_origin(each) is Annotated else each for each in several]
    return dict(zip(stage.outputs, types, strict=True)) if stage.outputs else {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.entry", description="Run one stage of the chain.")
    parser.add_argument("stage", nargs="?", metavar="STAGE", help=f"{OPEN}, or a stage of --list")
    parser.add_argument("--config", required=True, type=_config_path, metavar="FILE", help="run configuration")
    parser.add_argument("--run", metavar="NAME", default=os.environ.get("ARTIAGENT_RUN"), help="name that `open` gave")
    parser.add_argument("--shard", metavar="I/N", help="one piece of a stage that can be cut; its output is 'part'")
    parser.add_argument("--digests", type=Path, metavar="FILE", help="of the inputs, as `open` left them")
    parser.add_argument("--part", action="append", default=[], type=Path, metavar="FILE", help="of a shard; repeatable")
    for option in ("input", "output"):
        parser.add_argument(f"--{option}", action="append", default=[], metavar="NAME=FILE", help="repeatable")
    parser.add_argument("--list", action="store_true", help="print the stages and their references")
    return parser


def _config_path(text: str) -> Path:
    """From the current folder, else from the checkout, as other places count."""
    inside = (checkout() or Path()) / text
    return inside if not Path(text).is_file() and inside.is_file() else Path(text)


def _print_stages(config: Config) -> None:
    for stage in stages(config):
        given = " ".join(name for name in stage.inputs if not name.startswith("@"))
        pieces = f" ({stage.shards} shards)" if stage.shards > 1 else ""
        print(f"{stage.name}{pieces}: {given or '-'} -> {' '.join(stage.outputs) or '-'}")


def _stage_of(name: str | None, config: Config) -> Stage:
    known = {stage.name: stage for stage in stages(config)}
    if name not in known:
        raise ValueError(f"no such stage; expected {OPEN}, {', '.join(known)}")
    return known[name]


def _execute(stage: Stage, config: Config, arguments: argparse.Namespace) -> None:
    """Read, run, log, write; the outputs' files appear when everything else is done."""
    if not arguments.run:
        raise ValueError("--run NAME is missing: the name that `open` gave")
    if arguments.shard and not hasattr(import_module(f"steps.{stage.name}"), "run_shard"):
        raise ValueError(f"--shard {arguments.shard}: {stage.name} is made in one piece")
    os.environ["ARTIAGENT_RUN"] = arguments.run
    expected = (PART,) if arguments.shard else stage.outputs
    outputs = _pairs(arguments.output, "--output")
    _expect(outputs, expected, "--output")
    values = _values(stage, config, arguments)
    section = section_of(stage, config)
    made = _call(stage, section, values, arguments.shard)
    if stage.cached and not arguments.shard:
        from steps.stage import with_cost
        from steps.tracking import log_stage

        parts = [_reference(path, DatasetRef, "--part") for path in arguments.part]
        made = _first(tuple(with_cost(ref, parts) for ref in made), stage, section, values)
        log_stage(config, arguments.run, stage.name, made[0])
    if stage.name == "report":
        _close(config, arguments.run, dict(zip(stage.inputs, values, strict=True)))
    _write(outputs, {name: ref.model_dump_json(indent=1) for name, ref in zip(expected, made, strict=True)})


def _values(stage: Stage, config: Config, arguments: argparse.Namespace) -> list[Any]:
    """What ``run`` takes behind its section, in order."""
    files, types = _pairs(arguments.input, "--input"), accepts(stage)
    _expect(files, tuple(types), "--input")
    digests: dict[str, str] = {}
    if DIGESTS in stage.inputs:
        if arguments.digests is None:
            raise ValueError("--digests FILE is missing: the digests of the inputs that `open` left")
        digests = json.loads(_text(arguments.digests, "--digests"))
        bring_inputs(config)
    return [
        _reference(files[name], types[name], f"--input {name}") if name in types else value_of(name, config, digests)
        for name in stage.inputs
    ]


def _call(stage: Stage, section: Any, values: list[Any], shard: str | None) -> tuple[Any, ...]:
    """The stage's outputs, measured and stamped as its ZenML step does it."""
    from steps.stage import effective, measured

    if not stage.cached:
        effective(_run_of(stage))(section, *values)
        return ()
    if shard:
        return (measured(import_module(f"steps.{stage.name}").run_shard)(section, *values, shard=shard),)
    made = measured(_run_of(stage))(section, *values)
    return made if isinstance(made, tuple) else (made,)


def _first(made: tuple[Any, ...], stage: Stage, section: Any, values: list[Any]) -> tuple[Any, ...]:
    """The references as the first run stamped them: what was there is not this run's work, nor its cost."""
    from artiagent.exchange.remote import Remote, open_store
    from artiagent.lineage import stage_digest
    from steps.stage import digest_of, source_root

    identity = [digest_of(v) if isinstance(v, BaseModel) else json.dumps(v, sort_keys=True) for v in (section, *values)]
    key = stable_hash(stage.name, *identity, stage_digest(f"steps.{stage.name}", source_root()))
    name, kept = f"references/{stage.name}/{key}.json", open_store() or Remote(home().as_uri())
    if (known := kept.read(name)) is not None:
        first = tuple(type(ref).model_validate(tree) for ref, tree in zip(made, json.loads(known), strict=True))
        if list(map(digest_of, first)) == list(map(digest_of, made)):
            return first
    kept.write(name, json.dumps([ref.model_dump(mode="json") for ref in made], indent=1).encode())
    return made


def _close(config: Config, run: str, refs: dict[str, Any]) -> None:
    """The record of the run, completed: what every stage made, and whether it had to."""
    from artiagent import exchange
    from pipelines.runs import StageResult, close_run, load_run
    from steps.stage import digest_of
    from steps.tracking import origin

    results = {
        stage.name: StageResult(
            digest=digest_of(ref), cached=origin(ref) != run,
            seconds=float(ref.summary.get("seconds", 0)), peak_mb=float(ref.summary.get("peak_mb", 0)),
        )
        for stage in stages(config)
        if stage.cached and (ref := refs.get(stage.outputs[0])) is not None
    }  # fmt: skip
    close_run(load_run(run), results)
    exchange.send_run(run)


def _run_of(stage: Stage) -> Callable[..., Any]:
    return import_module(f"steps.{stage.name}").run


def _reference(path: Path, kind: type[BaseModel], option: str) -> Any:
    try:
        return kind.model_validate_json(_text(path, option))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{option}: {path} is no {kind.__name__} ({where}: {first['msg']})") from error


def _text(path: Path, option: str) -> str:
    if not path.is_file():
        raise ValueError(f"{option}: {path}: no such file; the stage before writes it")
    return path.read_text()


def _pairs(given: list[str], option: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in found:
            raise ValueError(f"{option} {text!r}: expected NAME=FILE, every name once")
        found[name] = Path(path)
    return found


def _write(outputs: dict[str, Path], texts: dict[str, str]) -> None:
    for name, text in texts.items():
        write_atomic(outputs[name], text.encode())


def _expect(found: dict[str, Path], names: tuple[str, ...], option: str) -> None:
    if set(found) != set(names):
        raise ValueError(f"{option}: expected {', '.join(names) or 'none'}; got {', '.join(found) or 'none'}")


def stop(number: int, frame: FrameType | None) -> None:
    """Signal handler: as Ctrl-C, so that what is under way is put away."""
    raise KeyboardInterrupt


def _refuse(label: str, message: str) -> int:
    print(f"artiagent {label}: {message}", file=sys.stderr)
    return WRONG


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main())
