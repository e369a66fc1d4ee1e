"""What `artiagent plan` is told by measurement, and how far its predictions are off.

python bench/plan.py count      # operations of full fine-tuning and of FLUX.1-dev at full size
python bench/plan.py pixels     # bytes of a pixel: PNG of the embedded photographs
python bench/plan.py rates RUN  # rates of a finished run, e.g. runs/nano-1a2b3c4d
python bench/plan.py validate   # two sizes of a chain predict a third: CPU seconds, this machine
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
RATES = ROOT / "bench" / "rates"
SIZES = (16, 48, 144)  # sources


def count() -> None:
    """Operations, without a GPU: they are arithmetic, the seconds are not."""
    _write(RATES / "qwen2.5-vl-7b-full.json", {"note": "operations of a conversation", "rates": _conversations()})
    _write(RATES / "flux-dev-512.json", {"note": "operations of a row evaluation", "rates": [_row(512)]})
    _write(RATES / "planning.json", {"note": "seconds of a source", "rates": [_planning()]})


def _planning() -> dict:
    """Measured by bench/manifest.py: four variants each, two cores; a larger machine takes less."""
    report = json.loads((ROOT / "bench" / "manifest.json").read_text())
    (phase,) = (phase for phase in report["phases"] if phase["phase"] == "plan")
    told = f"python bench/manifest.py, {report['sources']:,} sources on {report['cores']} cores ({report['cpu']})"
    seconds = {
        "value": phase["seconds"] / report["sources"], "basis": "measured", "source": f"{told}, {report['date']}",
    }  # fmt: skip
    return {"stage": "plan", "unit": "source", "device": "cpu", "seconds": seconds}


def _row(side: int) -> dict:
    """FLUX.1-dev's transformer, all blocks, on the meta device: pictures that are square, 4:3 and 3:2."""
    flops = [_transformer_flops(side // 16 * (longer // 16)) for longer in (side, side * 4 // 3, side * 3 // 2)]
    source = "python bench/plan.py count: all blocks, 512 text tokens, square to 3:2"
    return {
        "stage": "synthesize", "unit": "row", "device": "*",
        "settings": {"inputs.generator": "black-forest-labs/FLUX.1-dev", "perception.short_side": side},
        "flops": {"low": flops[0], "value": flops[1], "high": flops[2], "basis": "counted", "source": source},
    }  # fmt: skip


def _transformer_flops(tokens: int) -> int:
    import torch
    from diffusers import FluxTransformer2DModel
    from torch.utils.flop_counter import FlopCounterMode

    text = 512
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=19, num_single_layers=38, guidance_embeds=True)
        inputs = {
            "hidden_states": torch.empty(1, tokens, 64), "encoder_hidden_states": torch.empty(1, text, 4096),
            "pooled_projections": torch.empty(1, 768), "timestep": torch.empty(1), "guidance": torch.empty(1),
            "img_ids": torch.empty(tokens, 3), "txt_ids": torch.empty(text, 3),
        }  # fmt: skip
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**inputs)
    return counter.get_total_flops()


def _conversations() -> list[dict]:
    """Forward operations of one layer each, counted by the rehearsal, for all layers and both stages of full training,
    the language model's forward pass computed once more (gradient checkpointing)."""
    from artiagent.config import SftSection, SftStage
    from artiagent.learning.architectures import ARCHITECTURES
    from artiagent.learning.rehearsal import _at_full_depth, training_flops

    reports = json.loads((ROOT / "bench" / "finetune.json").read_text())["reports"]
    (report,) = (r for r in reports if r["rehearsal"]["model"] == "qwen2.5-vl-7b")
    architecture, asked = ARCHITECTURES["qwen2.5-vl-7b"], report["rehearsal"]
    counted = {part: report["compute"][f"forward_{part}_flops"] for part in ("vision", "language", "head")}
    flops = _at_full_depth(counted, architecture.config(asked["depth"]), architecture.config(1.0))
    rates = []
    for unit, train_vision in (("frozen_sample", False), ("whole_sample", True)):
        section = SftSection(method="full", stages=(SftStage(name=unit, train_vision=train_vision),))
        again = flops["language"] + (flops["vision"] if train_vision else 0)
        each = (training_flops(flops, section) + again) / report["tokens"]["rows"]
        settings = {
            "inputs.vlm": "Qwen/Qwen2.5-VL-7B-Instruct", "sft.method": "full", "sft.image_pixels": asked["pixels"],
            "sft.gradient_checkpointing": True,
        }  # fmt: skip
        source = f"python bench/plan.py count: bench/finetune.json ({report['date'][:10]}), one layer of each, for all"
        rates.append(
            {
                "stage": "finetune", "unit": unit, "device": "*", "settings": settings,
                "flops": {"value": each, "basis": "counted", "source": source},
            }
        )  # fmt: skip
    return rates


def pixels() -> None:
    """Bytes of a pixel as the pipeline's PNG."""
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    from artiagent.images import encode

    found = []
    for row in pq.read_table(ROOT / "data" / "photos" / "images.parquet").to_pylist():
        picture = np.array(Image.open(io.BytesIO(row["image"])).convert("RGB"))
        found.append(len(encode(picture, "png")) / picture[..., 0].size)
    print(f"{len(found)} photographs: {np.mean(found):.2f} bytes a pixel, {min(found):.2f} to {max(found):.2f}")


def rates(run: Path) -> None:
    from artiagent.scale.sources import rates_of_run

    _write(RATES / "nano-cpu.json", rates_of_run(run).model_dump(mode="json", exclude_none=True))


def validate() -> None:
    """Perception to curation at three sizes: the first two predict the third, as `--rates RUN --rates RUN` does; beside
    it what the second alone predicts."""
    from artiagent.scale.estimate import Estimate
    from artiagent.scale.rates import Rate, RateFile
    from artiagent.scale.sources import fitted

    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:  # as runs are
        chains = list(fresh.map(_chain, SIZES))
    files = [
        RateFile(profile="nano", rates=tuple(
            Rate(stage=stage, unit="row", device="cpu", amount=units,
                 seconds=Estimate(value=cpu / units, basis="measured", source="bench/plan.py"))
            for stage, (cpu, units) in chain.items()
        ))
        for chain in chains[:-1]
    ]  # fmt: skip
    (fit,) = fitted(files)
    found = {}
    for rate, alone in zip(fit.rates, files[-1].rates, strict=True):
        cpu, units = chains[-1][rate.stage]
        found[rate.stage] = {
            "units": [chain[rate.stage][1] for chain in chains], "cpu_seconds": [c[rate.stage][0] for c in chains],
            "fixed": rate.fixed.value, "each": rate.seconds.value, "measured": cpu,
            "predicted": rate.fixed.value + rate.seconds.value * units, "by_one_size": alone.seconds.value * units,
        }  # fmt: skip
    keys = ("measured", "predicted", "by_one_size")
    found["sum"] = {key: sum(row[key] for row in found.values()) for key in keys}
    print(f"{'CPU seconds':<14}" + "".join(f"{key:>14}{'error':>9}" for key in keys[1:]) + f"{'measured':>14}")
    for stage, row in found.items():
        errors = "".join(f"{row[key]:>14.1f}{row[key] / row['measured'] - 1:>+9.1%}" for key in keys[1:])
        print(f"{stage:<14}{errors}{row['measured']:>14.1f}")
    machine = {"date": time.strftime("%Y-%m-%d"), "command": "python bench/plan.py validate", "sources": SIZES}
    _write(ROOT / "bench" / "plan.json", machine | {"load": os.getloadavg()[0], "stages": found})


def _chain(sources: int) -> dict[str, tuple[float, int]]:
    """CPU seconds of each stage, children included, and its units."""
    from artiagent.checkpoints import checkpoint_ref
    from artiagent.curation.stage import curate
    from artiagent.perception.stage import perceive
    from artiagent.run_config import load_config
    from artiagent.synthesis.planner import plan
    from artiagent.synthesis.stage import synthesize

    config = load_config(ROOT / "configs" / "nano.yaml", [f"inputs.sets.0.limit={sources}"])
    sets = config.inputs.sets[:1]
    generator, judge = (checkpoint_ref(name, getattr(config.inputs, name)) for name in ("generator", "vlm"))
    spent: dict[str, tuple[float, int]] = {}

    def timed(name: str, work):
        before = _cpu()
        made = work()
        spent[name] = (_cpu() - before, made.rows)
        return made

    with TemporaryDirectory() as folder:
        out = Path(folder)
        scenes = timed("perceive", lambda: perceive(config.perception, sets, out / "scenes", judge))
        jobs = timed("plan", lambda: plan(config.planning, scenes, config.perception.patch, out / "jobs"))
        pairs = timed("synthesize", lambda: synthesize(config.synthesis, scenes, jobs, generator, out / "pairs"))
        timed("curate", lambda: curate(config.curation, pairs, scenes, judge, out / "curated"))
    return spent


def _cpu() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _write(path: Path, tree: dict) -> None:
    from artiagent.store import write_atomic

    write_atomic(path, f"{json.dumps(tree, indent=1)}\n".encode())
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("count", "pixels", "rates", "validate"))
    parser.add_argument("run", nargs="?", type=Path)
    asked = parser.parse_args()
    globals()[asked.what](*([asked.run] if asked.what == "rates" else []))
