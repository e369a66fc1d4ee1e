"""What search and correction cost at full size, with random weights: FLUX.1-schnell's, FLUX.1-Fill-dev's, CLIP
ViT-B/16's and Qwen2.5-VL-7B's architectures, one after the other on one GPU, in under two and a half minutes:

    python bench/mitigation.py --out bench/mitigation.json

On a CPU small shares of them: --sampler tiny-flux --inpainter tiny-flux --vlm nano --size 64 --dtype float32
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from artiagent.mitigation.rehearsal import Rehearsal, rehearse, table
from artiagent.store import write_atomic


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    for field in fields(Rehearsal):
        name = f"--{field.name.replace('_', '-')}"
        if field.name == "batches":
            options.add_argument(name, type=int, nargs="+", default=field.default)
        else:
            options.add_argument(name, type=type(field.default), default=field.default)
    asked = vars(options.parse_args())
    out = asked.pop("out")

    def keep(line: str, report: dict[str, Any]) -> None:
        """Every part as soon as it is there: a borrowed machine may go at any moment."""
        print(line, flush=True)
        write_atomic(out, json.dumps(report, indent=1).encode())

    print(f"\n{table(rehearse(Rehearsal(**{**asked, 'batches': tuple(asked['batches'])}), keep))}")


if __name__ == "__main__":
    main()
