"""Seconds per unit of every stage on a device, each with its provenance: measured, of a run, counted, or assumed.

Knows the files that rates come from: rate files (``bench/rates/*.json``), rehearsals (`artiagent rehearse`), folders of
finished runs, and ``infra/assumptions.yaml``. Does not know how much there is to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import yaml
from pydantic import Field, model_validator

from artiagent.config import Config, Section
from artiagent.run_config import ConfigError, validated
from artiagent.scale.estimate import Estimate

ROOT = Path(__file__).resolve().parents[2]
ASSUMPTIONS, MEASURED = ROOT / "infra" / "assumptions.yaml", ROOT / "bench" / "rates"
CPU = "cpu"
ANY = "*"
# What a stage's time grows with, by unit of `demand.units`; "call" is a question to a model in the process.
UNITS: dict[str, tuple[str, ...]] = {
    "ingest": ("image",), "perceive": ("image",), "plan": ("source",), "synthesize": ("row",), "curate": ("job",),
    "publish": ("job",), "instruct": ("accepted",), "finetune": ("frozen_sample", "whole_sample"),
    "evaluate_base": ("item",), "evaluate_tuned": ("item",), "score": ("item",), "train_reward": ("accepted",),
}  # fmt: skip
ONCE = ("run",)  # of stages that are not named


class Rate(Section):
    """What a unit of a stage takes on one device; of several devices each takes its share.

    Attributes:
        stage: name, as `pipelines.stages` has it.
        unit: of `UNITS`.
        device: GPU model, "cpu", or "*" with ``flops``.
        seconds: of a unit, or
        flops: operations of a unit; seconds then follow from what the device is assumed to sustain.
        settings: dotted key -> value that the configuration must have for this rate to hold.
        whole: whether calls to a model in the process are in it.
        amount: units over which it was measured; 0: unknown.
        fixed: seconds that every piece begins with, where two sizes told them apart from those of a unit.
    """

    stage: str
    unit: str
    device: str
    seconds: Estimate | None = None
    flops: Estimate | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    whole: bool = False
    amount: float = Field(default=0, ge=0)
    fixed: Estimate | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.seconds is None) == (self.flops is None):
            raise ValueError(f"rate of {self.stage}: expected either seconds or flops")
        return self

    @property
    def basis(self) -> str:
        return "assumed" if self.seconds is None else self.seconds.basis

    def misfits(self, config: Config) -> list[str]:
        """Settings in which the configuration differs, as ``key=value here, not value there``."""
        found = {key: _value(config, key) for key in self.settings}
        return [f"{key}={there!r}, not {found[key]!r}" for key, there in self.settings.items() if found[key] != there]


class RateFile(Section):
    """A file of rates. What else a run tells holds for configurations of its profile."""

    note: str = ""
    profile: str = ""
    rates: tuple[Rate, ...]
    acceptance: Estimate | None = None
    scene_share: Estimate | None = None


class Device(Section):
    """A GPU model: its dense bfloat16 rate on paper, and the share of it that real work sustains."""

    tflops: float = Field(gt=0)
    sustained: Estimate


class Assumptions(Section):
    """``infra/assumptions.yaml``: everything that nobody measured, each with its bounds and its reason."""

    devices: dict[str, Device]
    rates: tuple[Rate, ...]
    acceptance: Estimate
    scene_share: Estimate  # of the images that become a scene
    caption_share: Estimate  # of the images that no annotation has a caption for
    region: Estimate  # share of the image that a variant's region covers
    aspect: Estimate  # longer side over shorter side
    bytes_per_pixel: Estimate
    model_gb: dict[str, Estimate]  # inputs.vlm -> its fine-tuned models and checkpoints, 10^9 bytes
    months: Estimate  # that everything is kept
    provision: Estimate  # seconds from asking for a node to having it
    setup: dict[str, Estimate]  # "cpu", "gpu" -> seconds from a node to the first unit of work
    idle: Estimate  # seconds that a node is kept without a pod
    checkpoint: Estimate  # seconds between what is mirrored of an unfinished shard
    join: Estimate  # seconds that joining the parts of a stage takes
    stragglers: Estimate  # sigma of the log-normal factor of a shard's time
    text_tokens: dict[str, Estimate]  # task -> tokens of its prompt
    answer_tokens: dict[str, Estimate]
    image_tokens: Estimate
    repeated: Estimate  # factor on calls: repairs and retries that are paid
    latency: Estimate  # seconds of a call to a server
    tokens_per_minute: Estimate  # that a server gives one account, however many ask
    benchmark_items: dict[str, Estimate]  # layout -> images
    origin: str = ""


class Chosen(NamedTuple):
    """A rate that was found for a stage's unit."""

    rate: Rate
    seconds: Estimate  # of a unit on one device


def load_assumptions(path: Path = ASSUMPTIONS) -> Assumptions:
    """Raises ConfigError naming file and key."""
    return validated(Assumptions, {**yaml.safe_load(path.read_text()), "origin": str(path)}, str(path))


def load_rates(path: Path) -> RateFile:
    """A rate file, a rehearsal's report or the folder of a run. Raises ConfigError naming what the file lacks."""
    from artiagent.scale.sources import rates_of_rehearsal, rates_of_run, read_json

    if path.is_dir():
        return rates_of_run(path)
    tree = read_json(path)
    if "rehearsal" in tree:
        return rates_of_rehearsal(tree, path)
    if path.name == "run.json":
        return rates_of_run(path.parent)
    return validated(RateFile, tree, str(path))


class Rates:
    """All rates that are known, those given by hand before the others.

    Args:
        assumptions: of last resort.
        given: files named by hand, later ones first.
        known: files of the checkout.
    """

    def __init__(self, assumptions: Assumptions, given: Sequence[RateFile], known: Sequence[RateFile]) -> None:
        self.assumptions = assumptions
        self._files = [*reversed(given), *known]
        self._given = given
        self._ranked = [
            *(rate for file in reversed(given) for rate in file.rates),
            *sorted((rate for file in known for rate in file.rates), key=lambda rate: -len(rate.settings)),
            *sorted(assumptions.rates, key=lambda rate: -len(rate.settings)),
        ]

    @classmethod
    def load(cls, given: Sequence[RateFile] = (), folder: Path = MEASURED, assumptions: Path = ASSUMPTIONS) -> Self:
        """With the checkout's files. Raises ConfigError."""
        known = [load_rates(path) for path in sorted(folder.glob("*.json"))]
        return cls(load_assumptions(assumptions), given, known)

    def known(self, name: Literal["acceptance", "scene_share"], config: Config) -> Estimate:
        """Of a file named by hand, of a run of the same profile, or assumed."""
        fitting = (f for f in self._files if f in self._given or f.profile == config.profile)
        return next((found for f in fitting if (found := getattr(f, name))), getattr(self.assumptions, name))

    def choose(self, stage: str, unit: str, devices: Sequence[str], config: Config) -> Chosen:
        """The first rate that fits, on the first device that has one. Raises ConfigError saying what to add."""
        found = (self._choose(stage, unit, device, config) for device in devices)
        if (chosen := next(filter(None, found), None)) is None:
            raise ConfigError(self._missing(stage, unit, devices[0], config))
        return chosen

    def _choose(self, stage: str, unit: str, device: str, config: Config) -> Chosen | None:
        named = [rate for rate in self._ranked if (rate.stage, rate.unit) == (stage, unit)]
        near = [rate for rate in named if rate.device in (device, ANY)]
        for rate in near:
            if not rate.misfits(config):
                return Chosen(rate, rate.seconds or self._from_flops(rate, device))
        for rate in named:
            if {rate.device, device} <= set(self.assumptions.devices) and not rate.misfits(config):
                return Chosen(rate, self._converted(rate, device))
        return None

    def _from_flops(self, rate: Rate, device: str) -> Estimate:
        if (known := self.assumptions.devices.get(device)) is None:
            raise ConfigError(
                f"{self.assumptions.origin}: devices has no {device} (has {', '.join(self.assumptions.devices)}); add "
                f"its tflops and what is sustained of them, or give seconds with --rates"
            )
        peak = Estimate(value=known.tflops * 1e12, basis="counted", source="data sheet")
        sustained = Estimate(
            value=peak.value * known.sustained.value, low=peak.value * known.sustained.low,
            high=peak.value * known.sustained.high, basis="assumed", source=known.sustained.source,
        )  # fmt: skip
        return rate.flops.over(
            sustained,
            f"{rate.flops.value / 1e12:,.1f} TFLOP ({rate.flops.source}) at {known.sustained} of {known.tflops:g} "
            f"TFLOP/s ({known.sustained.source})",
        )

    def _converted(self, rate: Rate, device: str) -> Estimate:
        """Another GPU's seconds, in the proportion of what both sustain: an assumption, whatever the rate was."""
        there, here = (self.assumptions.devices[name] for name in (rate.device, device))
        factor = there.tflops * there.sustained.value / (here.tflops * here.sustained.value)
        told = f"{rate.seconds.basis} on {rate.device} ({rate.seconds.source}), x {factor:.2f} for {device}: assumed"
        low, value, high = (factor * getattr(rate.seconds, name) for name in ("low", "value", "high"))
        spread = 1.0 if rate.seconds.basis == "assumed" else 1.3  # of a conversion of what was certain
        return Estimate(value=value, low=low / spread, high=high * spread, basis="assumed", source=told)

    def _missing(self, stage: str, unit: str, device: str, config: Config) -> str:
        near = [r for r in self._ranked if (r.stage, r.unit) == (stage, unit) and r.device in (device, ANY)]
        if near:
            off = "; ".join(", ".join(rate.misfits(config)) for rate in near)
            return (
                f"stage {stage!r}: no rate per {unit} on {device} fits this configuration (known ones have {off}); "
                f"{_remedy(stage)}"
            )
        others = sorted({r.device for r in self._ranked if (r.stage, r.unit) == (stage, unit)})
        known = f"known on {', '.join(others)}" if others else "known nowhere"
        return f"stage {stage!r}: no rate per {unit} on {device} ({known}); {_remedy(stage)}"


def _remedy(stage: str) -> str:
    kind = {"synthesize": "synthesis", "finetune": "finetune"}.get(stage)
    measure = f"measure one with 'artiagent rehearse {kind} ... --out F.json' and give --rates F.json, or "
    return f"{measure if kind else ''}add one under rates in infra/assumptions.yaml, or in a file that --rates names"


def _value(config: Config, key: str) -> Any:
    return reduce(getattr, key.split("."), config)
