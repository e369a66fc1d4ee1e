"""From images to curated pairs: perception, planning, synthesis, curation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from artiagent.config.agents import VlmSection
from artiagent.config.section import Section, transport


class DetectionSection(Section):
    """Detectors and segmenters of the grounding backends; folders, published checkpoint files or hub ids."""

    boxes: Literal["detector", "vlm"] = "detector"  # vlm: the model under ``detector`` is a VLM that is asked for boxes
    detector: str = "groundingdino_swint_ogc.pth"  # transformers: e.g. IDEA-Research/grounding-dino-tiny, facebook/sam3
    detector_sha256: str | None = None  # checked where given; filled in when a run is submitted
    text_encoder: str = "google-bert/bert-base-uncased"  # of groundingdino-py: tokenizer and configuration
    text_encoder_sha256: str | None = None
    segmenter: str = "sam_vit_h_4b8939.pth"  # transformers: e.g. facebook/sam2.1-hiera-large
    segmenter_sha256: str | None = None
    box_threshold: float = Field(default=0.3, ge=0, le=1)
    text_threshold: float = Field(default=0.25, ge=0, le=1)
    overlap_max: float = Field(default=0.7, gt=0, le=1)  # IoU above which the weaker box of a class is dropped
    device: str = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int = transport(2, ge=1)
    batch: int = transport(4, ge=1)  # images per forward pass


class PerceptionSection(Section):
    grounding: Literal["annotations", "grounded_sam", "transformers"] = "annotations"
    detection: DetectionSection = DetectionSection()
    # template: what the annotations show. vlm: the agent's. caption: the entries of ``terms`` whose entity the VLM's
    # caption, or the data set's own class, names; without ``terms`` an error.
    vocabulary: Literal["template", "vlm", "caption"] = "template"
    terms: dict[str, dict[Literal["peripheral", "intermediate"], tuple[str, ...]]] = Field(default_factory=dict)
    vlm: VlmSection = VlmSection()
    window: int = transport(32, ge=1)  # images that are perceived together
    patch: int = Field(default=8, ge=1)  # pixels per token of the backbone
    short_side: int = Field(default=128, ge=16)
    bucket: int = Field(default=1, ge=1)  # sides are cropped to multiples of so many patches: fewer different sizes
    max_aspect: float = Field(default=2.0, ge=1.0)  # longer images are centre-cropped to this ratio
    max_pixels: int = Field(default=120_000_000, ge=1)  # larger files are refused before decoding
    min_pixels: int = Field(default=1024, ge=1)
    containment: float = Field(default=0.9, gt=0, le=1)
    entity_min_share: float = Field(default=0.01, ge=0, le=1)
    part_min_patches: int = Field(default=2, ge=1)  # per side
    part_max_share: float = Field(default=0.5, gt=0, le=1)  # of its entity


class PlanningSection(Section):
    """Toolbox parameters (spec: synthesis, section 3) and the seeded global plan."""

    seed: int = 0
    variants: int = Field(default=3, ge=1, le=64)  # K artifact images per source
    artifacts: tuple[float, ...] = (0.8, 0.15, 0.05)  # probability of 1, 2, 3 artifacts per image
    tools: dict[Literal["add", "remove", "distort", "fuse"], float] = Field(
        default_factory=lambda: {"add": 1.0, "remove": 1.0, "distort": 1.0, "fuse": 1.0}
    )
    benign_share: float = Field(default=0.25, ge=0)  # benign injections per source
    placement: Literal["contour_ring", "centroid_ring"] = "contour_ring"
    add_radius: int = Field(default=3, ge=1)  # alpha
    add_distance_weight: float = Field(default=0.05, ge=0)  # lambda
    add_temperature: float = Field(default=0.05, ge=0)  # tau; 0 = argmax
    add_min_visible: float = Field(default=0.85, ge=0, le=1)
    add_coverage: float = Field(default=0.3, ge=0, le=1)  # patches that the part covers less are not copied; 0: all
    add_contact: float = Field(default=0.5, ge=0)  # the copy's contact with its owner, as a share of the part's own
    remove_radius: int = Field(default=2, ge=1)
    jitter_sigma: float = Field(default=1.5, gt=0)
    jitter_attempts: int = Field(default=10, ge=1)
    strips: int = Field(default=4, ge=2)
    fuse_radius: int = Field(default=2, ge=1)
    fuse_seeds: int = Field(default=5, ge=1)
    fuse_offset: int = Field(default=4, ge=1)
    fuse_min_overlap: int = Field(default=5, ge=1)
    fuse_max_containment: float = Field(default=0.7, gt=0, le=1)
    fuse_reverse: bool = True
    fuse_spread: int = Field(default=1, ge=0)  # how far the width of the band varies; 0: the paper
    fuse_one_sided: float = Field(default=0.5, ge=0, le=1)  # chance that only one entity takes from the other; paper: 0


class ToolFractions(Section):
    """A fraction of the schedule for each tool; a single number stands for all of them."""

    add: float = Field(ge=0, le=1)
    remove: float = Field(ge=0, le=1)
    distort: float = Field(ge=0, le=1)
    fuse: float = Field(ge=0, le=1)
    benign: float = Field(ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _alike(cls, value: Any) -> Any:
        return dict.fromkeys(cls.model_fields, value) if isinstance(value, int | float) else value

    @property
    def largest(self) -> float:
        return max(self.add, self.remove, self.distort, self.fuse, self.benign)


class SynthesisSection(Section):
    """Inversion-injection (spec: synthesis, section 2). Phases are fractions of the schedule.

    An addition must be carried nearly to the end, a fusion heals best when both windows close half-way: then the bodies
    grow together instead of lying in each other as a mosaic.
    """

    solver: Literal["euler", "rf_solver", "fireflow"] = "fireflow"
    steps: int = Field(default=10, ge=2)
    guidance: float = 1.0
    pe_fraction: ToolFractions = ToolFractions(add=0.9, remove=0.96, distort=0.7, fuse=0.5, benign=0.9)
    value_fraction: ToolFractions = ToolFractions(add=0.8, remove=0.8, distort=0.7, fuse=0.5, benign=0.8)
    pe_blocks: Literal["before_values", "all"] = "before_values"  # which blocks take moved positions
    value_blocks: float = Field(
        default=0.75, ge=0, le=1
    )  # share of the (single-stream) blocks, from the last, for values
    value_after: Literal["live", "keep", "restore"] = "keep"  # a target's value once its position window has closed
    shared_inversion: bool = True  # one inversion and one twin for all variants of a source; False: one each, the paper
    variant_tokens: Literal["region", "all"] = "region"  # region: outside it a variant is the twin, and is not computed
    variants_per_batch: int | Literal["auto"] = "auto"  # auto: what fits into the free memory
    background: Literal["guaranteed", "free"] = "guaranteed"
    feather: int = Field(default=1, ge=0)  # patches by which the recorded region exceeds the targets
    cache_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    cache_device: str = "same"
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(default=1, ge=1)  # per worker
    workers: int = Field(default=2, ge=1)  # processes with a model each; 1 on a GPU
    compile: Literal["none", "blocks"] = "none"  # torch.compile of the transformer's blocks
    quantize: Literal["none", "int8", "float8"] = "none"  # weights of the blocks (torchao)
    offload: Literal["none", "vae", "blocks"] = "none"  # what waits on the CPU; text encoders always do
    prompt_window: int = Field(default=64, ge=1)  # captions embedded at a time, while the transformer makes room
    shards: int = Field(default=1, ge=1)
    image_format: Literal["png", "jpeg"] = "png"

    @model_validator(mode="after")
    def _consistent(self) -> SynthesisSection:
        if self.background == "free" and self.variant_tokens == "region":
            raise ValueError(
                "background 'free' needs variant_tokens 'all': region tokens alone keep the twin's background"
            )
        if isinstance(self.variants_per_batch, int) and self.variants_per_batch < 1:
            raise ValueError(f"variants_per_batch {self.variants_per_batch}: expected 'auto' or at least 1")
        return self


class CurationSection(Section):
    # auto: lpips where its weights are, else ssim by name; settled when a run is submitted
    metric: Literal["lpips", "ssim", "auto"] = "ssim"
    lpips_weights: str | None = None  # torchvision's AlexNet: a file, or "hub" for torch hub's cache or download
    lpips_sha256: str | None = None  # checked where given; filled in when a run is submitted
    metric_note: str = transport("")  # why ssim stands in for lpips; filled in when a run is submitted
    lpips_window: tuple[float, float] = (0.5, 0.9)  # similarity 1 - LPIPS, the paper's
    ssim_window: tuple[float, float] = (0.3, 0.8)  # calibrated for the fallback
    min_crop: int = 64
    change_inside_min: float = Field(default=0.05, ge=0)
    change_share_min: float = Field(default=0.2, ge=0, le=1)  # share of target pixels that visibly changed
    change_outside_max: float = Field(default=0.002, ge=0)
    benign_inside_max: float = Field(default=0.03, ge=0)  # a benign injection that changes more is no hard negative
    seam_max: float = Field(default=4.0, gt=0)
    # presence: "is there a <part> in <box>?" on both sides. views: the paper's three views and yes or no.
    judge: Literal["presence", "views", "none"] = "presence"
    vlm: VlmSection = VlmSection()
    window: int = transport(32, ge=1)  # pairs that are curated together
    judge_margin: float = 0.001  # how far P(yes) must rise (add) or fall (remove); benign injections move it less
    judge_slack: float = 0.4  # how far it may rise (distort, fuse)
    device: str = "auto"
    threads: int = Field(default=2, ge=1)
    explain: Literal["template", "vlm"] = "template"
    audit_resamples: int = Field(default=1000, ge=100)
    audit_upper: float = 0.58
