"""What trained models are good for: search, correction, audit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from artiagent.config.section import Section, transport


class SearchSection(Section):
    """Reward-guided generation (spec: training, "Reward-guided generation")."""

    prompts: str = "configs/prompts/nano_objects.txt"  # a prompt per line; # begins a comment
    limit: int | None = Field(default=None, ge=1)  # the first so many prompts
    algorithms: tuple[Literal["random", "zero_order", "particles"], ...] = ("random", "zero_order", "particles")
    rounds: int = Field(default=6, ge=1, le=12)  # round r of random search draws 2^r fresh noises
    budget: float = Field(default=0.4, gt=0, le=1)  # of random search's transformer calls, for each other algorithm
    steps: int | None = Field(default=None, ge=1)  # per picture; None: 4 of a few-step generator, else 28
    guidance: float | None = None  # None: none of a few-step generator, else 3.5; without embedded guidance two calls
    size: int = Field(default=128, ge=16)  # px, height and width
    neighbours: int = Field(default=2, ge=1)  # zero-order: candidates of a round
    radii: tuple[float, ...] = Field(default=(0.5,), min_length=1)  # zero-order: fresh noise in neighbours, in turn
    particles: int = Field(default=6, ge=2)
    look_after: tuple[int, ...] = (1,)  # particles: steps (from 0) after which estimates are scored and resampled
    temperature: float = Field(default=2.0, gt=0)  # particles: weight exp(gain in reward / temperature)
    churn: float = Field(default=1.0, ge=0, le=1)  # particles: fresh noise in copies
    restart: int = Field(default=1, ge=0)  # particles: step to which the best go back for another round
    top: int = Field(default=4, ge=2)  # best pictures so far that are kept and whose diversity is measured
    seed: int = 0
    batch: int = transport(16, ge=1)  # images per transformer call
    window: int = transport(4, ge=1)  # prompts that are searched side by side
    resamples: int = Field(default=10_000, ge=100)
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bfloat16 where it is native
    threads: int = transport(2, ge=1)

    @field_validator("radii")
    @classmethod
    def _mixable(cls, radii: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < radius <= 1 for radius in radii):
            raise ValueError(f"search.radii {list(radii)}: expected numbers above 0, at most 1")
        return radii


class CorrectionSection(Section):
    """VLM-guided correction (spec: training, "Correction")."""

    rounds: int = Field(default=3, ge=1)
    threshold: float = Field(default=0.02, gt=0, lt=1)  # P(Yes) from which an image is worked on
    # where to repaint: the VLM's boxes, peaks of the verifier's badness, boxes around both that grow
    sources: tuple[Literal["vlm", "badness", "grown"], ...] = Field(default=("vlm", "badness", "grown"), min_length=1)
    proposals: int = Field(default=6, ge=1)  # places per image and round, the sources in turn
    candidates: int = Field(default=2, ge=1)  # repaintings per place and round
    refine: int = Field(default=12, ge=0)  # further ones at the place of the best
    dilate: float = Field(default=0.15, ge=0)  # by which a box grows on each side, as a share of that side
    grow: tuple[float, ...] = (1.5, 2.25)  # factors by which the sides of the grown boxes exceed what was located
    largest: float = Field(default=0.5, gt=0, le=1)  # share of the image that a place may cover
    feather: int = Field(default=3, ge=0)  # px over which the repainting fades into the input, inside the dilated box
    reward_margin: float = Field(default=0.5, ge=0)  # nats by which the verifier has to prefer the repainting
    verdict_margin: float = Field(default=0.5, ge=0)  # nats by which the log odds of the VLM's No have to rise
    member: int | None = Field(default=0, ge=0, le=1)  # verifier of the ensemble that steers; None: their mean
    base: str | None = None  # FluxPipeline that a bare ControlNet folder goes with
    steps: int = Field(default=4, ge=1)  # denoising steps per repainting; 28 and more of a model that is not distilled
    strength: float = Field(
        default=0.9, gt=0, le=1
    )  # of the inpainters that start from the image; a Fill model does not
    guidance: float | None = Field(default=None, ge=0)  # None: 30 of a Fill model, else 3.5
    size: int = Field(default=128, ge=16)  # px: longest side that an inpainter sees; of larger images a window
    limit: int | None = Field(default=None, ge=1)  # the first so many images of a benchmark
    window: int = transport(32, ge=1)  # images that are corrected together
    seed: int = 0
    batch: int = transport(16, ge=1)  # repaintings per transformer call
    resamples: int = Field(default=10_000, ge=100)
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = transport(2, ge=1)


class AuditedPlace(Section):
    """A generator to audit: a pipeline folder or hub id that draws here, or the images that another one made."""

    name: str = ""  # in tables; "": the last part of the location
    location: str
    sha256: str | None = None  # checked where given; filled in when a run is submitted


class AuditSection(Section):
    """Prevalence of artifacts in what generators draw (``artiagent audit``)."""

    generators: tuple[AuditedPlace, ...] = (
        AuditedPlace(location="data/weights/nano-schnell"),
        AuditedPlace(location="data/weights/nano-flux"),
    )
    prompts: str = "configs/prompts/nano.txt"
    prompts_sha256: str | None = None  # checked where given; filled in when a run is submitted
    limit: int | None = Field(default=None, ge=1)  # the first so many prompts
    images: int = Field(default=4, ge=1)  # per prompt and generator
    steps: int | None = Field(default=None, ge=1)  # None: 4 of a few-step generator, else 28
    guidance: float | None = None  # None: none of a few-step generator, else 3.5
    size: int = Field(default=128, ge=16)  # px, height and width
    threshold: float = Field(default=0.5, gt=0, lt=1)  # P(Yes) from which an image is faulty
    thresholds: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)  # at which the rate is reported beside
    seed: int = 0
    batch: int = transport(16, ge=1)  # images that are drawn and kept together
    resamples: int = Field(default=10_000, ge=100)
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = transport(2, ge=1)
