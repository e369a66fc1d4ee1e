"""The nano world as commands: its recipes write below ``data/`` (``make data-pin`` versions it), its measurements print
or write where they are told."""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from artiagent.config import CurationSection
    from artiagent.curation.judge import Judge
    from artiagent.records import CheckpointRef

Command = Callable[[argparse.Namespace], int]
Add = Callable[..., argparse.ArgumentParser]
GENERATOR = "data/weights/nano-flux"


def add_commands(kinds: argparse._SubParsersAction, add: Add, config_options: Callable) -> None:
    """All commands with their options; `add(kinds, name, help, command)` makes a parser."""
    made = add(kinds, "train", "train one of the nano models (minutes and more)", train, add_help=False)
    made.add_argument("model", choices=("flux", "vl", "clip", "parser", "sam", "grounder"))
    made.add_argument("options", nargs=argparse.REMAINDER, help="options of the recipe; try --help after the model")
    made = add(kinds, "scenes", "render source scenes with part annotations", scenes)
    made.add_argument("--out", type=Path, default=Path("data/scenes"))
    made.add_argument("--count", type=int, default=200)
    made.add_argument("--first-seed", type=int, default=0)
    made = add(kinds, "bench", "write ArtiBench-nano, drawn split", bench)
    made.add_argument("--out", type=Path, default=Path("data/artibench-nano"))
    made.add_argument("--count", type=int, default=600)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--generator", default=GENERATOR, help="FluxPipeline folder both classes pass through")
    made = add(kinds, "generated", "draw the generated split's samples, or join two labellings of them", generated)
    made.add_argument("--out", type=Path, default=Path("data/artibench-nano"))
    made.add_argument("--samples", type=Path, required=True, help="folder for samples and sheets")
    made.add_argument("--count", type=int, default=120)
    made.add_argument("--generator", default=GENERATOR, help="FluxPipeline folder")
    made.add_argument(
        "--labels", type=Path, nargs=2, help="JSON files of two labellings; see artiagent/nano/generated.py"
    )
    made = add(kinds, "photos", "write the photographs with their hand-made annotations", photos)
    made.add_argument("--out", type=Path, default=Path("data/photos"))
    made = add(kinds, "probe", "linear probe on frozen vision features, twin against artifact image", probe)
    _curated(made)
    made.add_argument("--model", type=Path, default=Path("data/weights/nano-vl"), help="model folder")
    made.add_argument("--threads", type=int, default=1, help="CPU threads")
    made = add(kinds, "truth", "precision of accepted pairs by nano-parser", truth)
    _curated(made)
    _parser_folder(made)
    made = add(kinds, "judges", "precision and recall of every filter of curation, where the truth is known", judges)
    config_options(made)
    _parser_folder(made)
    made.add_argument("--count", type=int, default=400, help="edits of known truth, half of them without a fault")
    made.add_argument("--pairs", type=Path, help="also injected pairs, with nano-parser's opinion for the truth")
    made.add_argument("--no-views", action="store_true", help="do not ask the local model about three views")
    made.add_argument("--url", help="also the judges of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1")
    made.add_argument("--model", default="", help="name of the server's model")
    made.add_argument("--out", type=Path, required=True, help="folder for edits, judges.json and judges.md")
    _add_grounding(kinds, add, config_options)


def _add_grounding(kinds: argparse._SubParsersAction, add: Add, config_options: Callable) -> None:
    made = add(
        kinds, "grounding", "boxes, masks and linking of a detector and a segmenter on held-out scenes", grounding
    )
    config_options(made)
    made.add_argument("--scenes", type=int, default=300, help="ordinary scenes; a third as many of two alike entities")
    made.add_argument("--detector", default="data/weights/nano-grounder", help="folder of a VLM that writes boxes")
    made.add_argument("--segmenter", default="data/weights/nano-sam", help="Sam folder or published file")
    made.add_argument("--out", type=Path, required=True, help="folder for grounding.json and grounding.png")


def train(arguments: argparse.Namespace) -> int:
    """Run a model's recipe with its own options."""
    module = f"artiagent.nano.{arguments.model}"
    sys.argv = [f"artiagent nano train {arguments.model}", *arguments.options]
    runpy.run_module(module, run_name="__main__")
    return 0


def scenes(arguments: argparse.Namespace) -> int:
    """Render ``count`` source scenes from ``first_seed`` on."""
    from artiagent.nano.coco import write_scene_set
    from artiagent.nano.scenes import SOURCE_SEEDS

    seeds = range(arguments.first_seed, arguments.first_seed + arguments.count)
    if not (seeds and seeds[0] in SOURCE_SEEDS and seeds[-1] in SOURCE_SEEDS):
        raise ValueError(
            f"seeds {seeds}: expected at least one, all inside {SOURCE_SEEDS} (others train or test models)"
        )
    print(write_scene_set(arguments.out, seeds))
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Write the benchmark's drawn split; both classes pass through the generator's autoencoder."""
    from artiagent.nano.artibench import write_artibench

    encode = _encode_path(arguments.generator)
    print(write_artibench(arguments.out, arguments.count, seed=arguments.seed, encode=encode))
    return 0


def generated(arguments: argparse.Namespace) -> int:
    """Without labels, samples and sheets; with two labellings, the benchmark file and its card."""
    from artiagent.checkpoints import locate
    from artiagent.nano.generated import SAMPLES, sample, write_generated

    if arguments.labels:
        first, second = (json.loads(path.read_text()) for path in arguments.labels)
        _print(write_generated(arguments.samples / SAMPLES, first, second, arguments.out))
        return 0
    for sheet in sample(locate(arguments.generator), arguments.samples, arguments.count):
        print(sheet)
    return 0


def photos(arguments: argparse.Namespace) -> int:
    """Write the photographs that come with scikit-image and scikit-learn."""
    from artiagent.nano.photos import write_photo_set

    print(write_photo_set(arguments.out))
    return 0


def probe(arguments: argparse.Namespace) -> int:
    """Print AUROC and pair accuracy on held-out sources; exit code 1 below the gate of .75."""
    from artiagent.nano.probe import GATE, pair_features
    from artiagent.nano.probe import probe as measure
    from artiagent.vlm.local import LocalVlm

    found = measure(*pair_features(LocalVlm(arguments.model, threads=arguments.threads), arguments.curated))
    _print({name: value.model_dump() for name, value in found.items()})
    return 0 if found["auroc"].value >= GATE else 1


def truth(arguments: argparse.Namespace) -> int:
    """Print the share of accepted and of rejected artifacts that the parser sees."""
    from artiagent.nano.parser import Parser
    from artiagent.nano.truth import precision

    table = precision(Parser(arguments.parser), arguments.curated)
    _print({verdict: {tool: i.model_dump() for tool, i in row.items()} for verdict, row in table.items()})
    return 0


def judges(arguments: argparse.Namespace) -> int:
    """Ask every stage and every judge that can run here about every artifact, and print the table."""
    from artiagent.checkpoints import checkpoint_ref
    from artiagent.curation.perceptual import load_metric
    from artiagent.nano.drawn_pairs import write_filter_test
    from artiagent.nano.judge_quality import edits_truth, markdown, opinions, parser_truth, quality
    from artiagent.nano.parser import Parser
    from artiagent.run_config import load_config
    from artiagent.store import open_dataset, write_atomic

    config = load_config(arguments.config, arguments.set)
    section = config.curation
    asked = _judges(section, checkpoint_ref("base", config.inputs.vlm), arguments)
    edits = open_dataset(arguments.out / "pairs")
    if edits is None:
        edits, _ = write_filter_test(arguments.out, arguments.count, encode=_encode_path(config.inputs.generator))
    sets = {"edits": (edits, edits_truth)}
    if arguments.pairs:
        sets["injected"] = (arguments.pairs, parser_truth(Parser(arguments.parser)))
    metric = load_metric(section)
    tables = {name: quality(opinions(pairs, section, metric, asked, truth)) for name, (pairs, truth) in sets.items()}
    text = "\n\n".join(f"{name}:\n\n{markdown(table)}" for name, table in tables.items())
    write_atomic(arguments.out / "judges.json", (json.dumps(tables, indent=1) + "\n").encode())
    write_atomic(arguments.out / "judges.md", f"{text}\n".encode())
    print(text)
    return 0


def _judges(section: CurationSection, base: CheckpointRef, arguments: argparse.Namespace) -> dict[str, Judge]:
    """Name -> judge: the local model in both ways, and a server's model where one is named."""
    from artiagent.curation.judge import load_judge
    from artiagent.vlm import load_vlm

    ways = ["presence"] if arguments.no_views else ["presence", "views"]
    backends = {"local": section.vlm.model_copy(update={"backend": "local"})}
    if arguments.url:
        server = {"backend": "openai", "base_url": arguments.url, "model": arguments.model, "structured": "prompt"}
        backends["openai"] = section.vlm.model_copy(update=server)
    made = {}
    for backend, vlm_section in backends.items():
        vlm = load_vlm(vlm_section, base, "curation.vlm")
        for way in ways:
            asked = section.model_copy(update={"judge": way, "vlm": vlm_section})
            made[f"judge {way}, {backend} {vlm.name}"] = load_judge(asked, vlm)
    return made


def grounding(arguments: argparse.Namespace) -> int:
    """Print the figures and write them, with a sheet of the first dozen scenes."""
    from artiagent.images import encode
    from artiagent.nano.grounding_evaluation import evaluate_grounding
    from artiagent.nano.grounding_sheet import draw_sheet
    from artiagent.perception.grounding.detect import load_grounder
    from artiagent.run_config import load_config
    from artiagent.store import write_atomic

    settings = [
        "perception.grounding=grounded_sam", "perception.detection.boxes=vlm",
        f"perception.detection.detector={arguments.detector}", f"perception.detection.segmenter={arguments.segmenter}",
    ]  # fmt: skip
    section = load_config(arguments.config, [*settings, *(arguments.set or [])]).perception
    loaded = load_grounder(section)
    report, shown = evaluate_grounding(loaded.detector, loaded.segmenter, section, arguments.scenes)
    rows = zip(shown.samples, shown.detections, shown.instances, strict=True)
    strips = [
        (", ".join(sample.vocabulary.entities), sample.image, sample.instances, detections, instances)
        for sample, detections, instances in list(rows)[:12]
    ]
    write_atomic(arguments.out / "grounding.png", encode(draw_sheet(strips)))
    write_atomic(arguments.out / "grounding.json", (json.dumps(report, indent=1) + "\n").encode())
    _print(report)
    return 0


def _curated(made: argparse.ArgumentParser) -> None:
    made.add_argument("--curated", type=Path, required=True, help="folder of a curated data set")


def _parser_folder(made: argparse.ArgumentParser) -> None:
    made.add_argument("--parser", type=Path, default=Path("data/weights/nano-parser"), help="nano-parser's folder")


def _encode_path(generator: str) -> Callable:
    from artiagent.checkpoints import locate
    from artiagent.nano.flux_vae import encode_path

    return encode_path(locate(generator))


def _print(value: object) -> None:
    print(json.dumps(value, indent=1))
