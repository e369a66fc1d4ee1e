"""What fine-tuning costs: rehearsals of full-size architectures with random weights, one process after another.

On a GPU LoRA and stage one trained whole, as the paper's backbones would be at 262,144 px; on a CPU the nano model and
a small share of the layers of the large ones. One call, one file:

    python bench/finetune.py --out bench/finetune.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from toolbox import cpu_model

from artiagent.store import write_atomic

GPU = (
    "--model qwen2.5-vl-7b --method lora --stage language --batch-pairs 4",
    "--model qwen2.5-vl-7b --method lora --stage vision --batch-pairs 4",
    "--model qwen2.5-vl-7b --method full --stage language --batch-pairs 2",
    "--model internvl3.5-8b --method lora --stage language --batch-pairs 4",
)
CPU = (
    "--model nano --method lora --pixels 16384 --batch-pairs 8 --dtype float32 --no-checkpointing",
    "--model nano --method full --stage vision --pixels 16384 --batch-pairs 8 --dtype float32 --no-checkpointing",
    "--model qwen2.5-vl-7b --method lora --depth 0.04 --batch-pairs 1 --steps 2",
    "--model internvl3.5-8b --method lora --depth 0.04 --batch-pairs 1 --steps 2",
)


def measure(arguments: str) -> dict:
    """One rehearsal in a process of its own, so that its peak of memory is its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        command = [sys.executable, "-m", "artiagent.cli", "rehearse", "finetune", *arguments.split(), "--out", str(out)]
        ended = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        if ended.returncode:  # a card that is too small says so; the others are still measured
            return {"arguments": arguments, "error": ended.stderr.strip().splitlines()[-1]}
        return {"arguments": arguments, **json.loads(out.read_text())}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = options.parse_args()
    gpu = torch.cuda.is_available()
    reports = [measure(arguments) for arguments in (GPU if gpu else CPU)]
    machine = torch.cuda.get_device_name() if gpu else cpu_model()
    write_atomic(asked.out, json.dumps({"machine": machine, "reports": reports}, indent=1).encode())


if __name__ == "__main__":
    main()
