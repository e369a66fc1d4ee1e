"""Recipe of nano-schnell and nano-fill: scenes -> guided flow -> four-step generator; the same flow -> repair network.

`python -m artiagent.nano.few_step --help` shows how to run it. Both folders share nano-FLUX's autoencoder, tokenizers
and words, so that the codec leaves the same trace. A killed run continues where its last checkpoint was.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxFillPipeline, FluxPipeline
from transformers import CLIPTokenizer, T5TokenizerFast

from artiagent.nano.anatomy import PartJudge
from artiagent.nano.few_step_stages import Bench, FewStepRecipe
from artiagent.nano.flux_export import FEW_STEP, assemble, build_scheduler, export_folder
from artiagent.nano.latent_pool import LatentPool
from artiagent.nano.loop import describe_machine
from artiagent.nano.scene_stream import streaming
from artiagent.nano.scenes import TRAIN_SEEDS

FIRST_SEED = TRAIN_SEEDS[400_000_000]


def train_few_step(
    out: Path,
    work: Path,
    *,
    flux: Path = Path("data/weights/nano-flux"),
    parser: Path = Path("data/weights/nano-parser"),
    recipe: FewStepRecipe | None = None,
    seed: int = 0,
    threads: int = 1,
    workers: int = 0,
    device: str | None = None,
    eager: bool = False,
) -> dict[str, Any]:
    """Train both, write `out`/nano-schnell and `out`/nano-fill, return the report that lies in each as training.json.

    `flux` gives autoencoder and tokenizers, `parser` judges which guidance to distil. `work` keeps a checkpoint of the
    stage in hand and the weights of each finished stage, which is not repeated. `workers` processes render beside the
    training. On CUDA the blocks are compiled unless `eager`. Raises ValueError for a checkpoint of other sizes.
    """
    torch.set_num_threads(threads)
    recipe = recipe or FewStepRecipe()
    work.mkdir(parents=True, exist_ok=True)
    seeds = range(FIRST_SEED + seed * recipe.scenes, FIRST_SEED + (seed + 1) * recipe.scenes)
    with streaming(seeds, recipe.size, workers) as stream:  # before CUDA starts: its workers are forked
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        vae = AutoencoderKL.from_pretrained(flux, subfolder="vae", dtype=torch.float32).eval().to(device)
        clip = CLIPTokenizer.from_pretrained(flux / "tokenizer")
        t5 = T5TokenizerFast.from_pretrained(flux / "tokenizer_2")
        pool = LatentPool(
            stream, vae, clip, t5, capacity=recipe.scenes, size=recipe.size, held_out=recipe.held_out
        )  # fmt: skip
        bench = Bench(pool, recipe, work, seed, PartJudge(parser), device, not eager)
        bench.report = {"seed": seed, "workers": workers, "hardware": describe_machine(device, threads)} | bench.report
        pool.wait_for(min(recipe.first_scenes, recipe.scenes))
        base = bench.train_base(flux)
        schnell = bench.train_schnell(base)
        fill = bench.train_fill(bench.train_fill_base(base))
    scheduler = build_scheduler(**FEW_STEP)
    for name, flow, kind in (("nano-schnell", schnell, FluxPipeline), ("nano-fill", fill, FluxFillPipeline)):
        pipeline = assemble(vae, flow, clip, t5, torch.float16, scheduler=scheduler, pipeline=kind)
        export_folder(pipeline, out / name, bench.report)
    return bench.report


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m artiagent.nano.few_step",
        description="Train nano-schnell (a four-step FluxPipeline) and nano-fill (a FluxFillPipeline).",
        epilog="examples:\n"
        "  python -m artiagent.nano.few_step                                    one GPU, about 8 minutes in all\n"
        "  python -m artiagent.nano.few_step --device cpu --minutes 300 --batch 24 --scenes 16000 --workers 1\n"
        "  python -m artiagent.nano.few_step --minutes 60 --work runs/longer    better ones; resumes from its folder\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("data/weights"), help="where nano-schnell and nano-fill go")
    parser.add_argument("--work", type=Path, default=Path(".artiagent/train/few-step"), help="checkpoints, sheets")
    parser.add_argument("--flux", type=Path, default=Path("data/weights/nano-flux"), help="autoencoder and tokenizers")
    parser.add_argument("--parser", type=Path, default=Path("data/weights/nano-parser"), help="judges the guidance")
    parser.add_argument("--minutes", type=float, default=6.0, help="optimisation and paths in all (default 6)")
    parser.add_argument("--steps", type=int, help="at most so many steps in each stage")
    parser.add_argument("--batch", type=int, default=768, help="default 768, which a large GPU wants")
    parser.add_argument("--scenes", type=int, default=96_000, help="scenes to render (default 96000)")
    parser.add_argument("--paths", type=int, default=64_000, help="most paths to distil from (default 64000)")
    parser.add_argument("--judged", type=int, default=256, help="pictures that decide on a guidance (default 256)")
    parser.add_argument("--from-noise", action="store_true", help="random weights at first instead of nano-FLUX's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--workers", type=int, default=max(0, (os.cpu_count() or 1) - 2), help="rendering processes")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: CUDA where there is one")
    parser.add_argument("--eager", action="store_true", help="do not compile the blocks on CUDA")
    options = vars(parser.parse_args(arguments))
    names = ("minutes", "steps", "batch", "scenes", "paths", "judged", "from_noise")
    sizes = {name: options.pop(name) for name in names}
    recipe = replace(FewStepRecipe(), **sizes, first_scenes=min(FewStepRecipe.first_scenes, sizes["scenes"]))
    report = train_few_step(options.pop("out"), options.pop("work"), recipe=recipe, **options)
    print(f"faultless in four steps {report['schnell_faultless']:.3f}, ", end="")
    print(f"repairs with the parts of the original {report['fill_same_parts']:.3f}")


if __name__ == "__main__":
    main()
