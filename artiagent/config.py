"""One typed configuration, one section per stage; the defaults of the project live here and nowhere else.

Every stage receives only its own section, so that changing one section leaves the other stages' cache keys alone. How
a tree of sections is read from a file: `run_config`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from artiagent.records import stable_hash


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys refused. Errors do not repeat values: one may be a secret."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def digest(self) -> str:
        """Hash of the section's values; part of cache keys and of every record of provenance.

        Fields made by `transport` stay out: how often a call is repeated does not change what is answered.
        """
        return stable_hash(self.model_dump_json(exclude=self._transport()))

    def _transport(self) -> dict[str, Any]:
        """Names of the fields that stay out, nested as pydantic's ``exclude`` takes them."""
        excluded: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if _outside(field):
                excluded[name] = True
            elif isinstance(value, Section) and (inner := value._transport()):
                excluded[name] = inner
        return excluded


def transport(default: Any, **limits: Any) -> Any:
    """A field that says how a result is obtained and never what it is; it does not enter `Section.digest`."""
    return Field(default, json_schema_extra={"transport": True}, **limits)


def _outside(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("transport"))


Layout = Literal["folder", "coco", "caltech101", "hands11k", "celeba_hq"]


class InputSet(Section):
    """A named set of source images.

    ``layout`` says how the files lie: ``folder`` is any folder, or a Parquet file with columns file_name and image, and
    COCO annotations if there are any; the others are data sets as published (see ``artiagent.perception.sources``).
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")  # enters ids and file names
    layout: Layout = "folder"
    images: str  # folder or Parquet file; of a published data set its root
    annotations: str | None = None  # COCO JSON; of a published data set found by its layout
    parts: str | None = None  # further COCO JSON about the same images, joined by file name: part annotations
    categories: tuple[str, ...] = ()  # only images that show one of them; (): all
    instances: tuple[int, int] | None = None  # least and most entity instances (of ``categories``) in an image
    licence: str | None = None  # of images whose annotations name none; None: as published for the layout
    scored: bool = True  # False: goes through the chain, but is reported apart
    limit: int | None = Field(default=None, ge=1)


class VlmSection(Section):
    """Who answers the agents' calls. Keys never stand here: ``api_key_env`` names an environment variable."""

    backend: Literal["local", "openai"] = "local"
    model: str | None = None  # local: folder or hub id, None: inputs.vlm; openai: the server's name of the model
    model_sha256: str | None = None  # of a local model; filled in when a run is submitted
    base_url: str = "http://127.0.0.1:8000/v1"  # of any OpenAI-compatible server
    api_key_env: str = transport("OPENAI_API_KEY")
    structured: Literal["json_schema", "json_object", "prompt"] = "json_schema"  # how a schema is asked for
    # Longest side that is sent; larger images are scaled down. A multiple of 28: Qwen2.5-VL need not scale once more.
    image_side: int = Field(default=756, ge=28)
    image_format: Literal["png", "jpeg"] = "png"
    max_tokens: int = Field(default=512, ge=1)
    coordinates: Literal["auto", "pixels", "per_mille"] = "auto"  # auto: local by the processor, else pixels as sent
    prompts: dict[str, int] = Field(default_factory=dict)  # prompt -> version; others: the newest
    concurrency: int = transport(16, ge=1)  # requests under way at a time
    requests_per_minute: float | None = transport(None, gt=0)
    tokens_per_minute: float | None = transport(None, gt=0)
    timeout: float = transport(60.0, gt=0)  # seconds, of one request
    attempts: int = transport(5, ge=1)  # of one call, the first included
    backoff: float = transport(0.5, gt=0)  # seconds before the second attempt; doubles, with jitter
    cache: bool = transport(True)  # answers on disk by content hash
    price_in: float = transport(0.0, ge=0)  # per million tokens, for the account
    price_out: float = transport(0.0, ge=0)
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = transport(2, ge=1)
    batch: int = transport(32, ge=1)

    @field_validator("base_url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        if "@" in url or "?" in url or "#" in url:
            raise ValueError("no user, password or query belongs into an address; a key comes from api_key_env")
        return url


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


BenchmarkLayout = Literal["artibench", "synthscars", "loki", "richhf"]


class BenchmarkSet(Section):
    """A benchmark and how its files lie (see ``artiagent.evaluation.benchmarks``)."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")  # enters keys and file names
    layout: BenchmarkLayout = "artibench"
    path: str  # file or folder
    images: str | None = None  # folder or Parquet file of the images where the layout keeps them apart
    heat_threshold: float = Field(default=0.3, gt=0, lt=1)  # of heat maps scaled to 0..1, from which a pixel is faulty


class InputsSection(Section):
    sets: tuple[InputSet, ...] = (
        InputSet(name="scenes", images="data/scenes/images.parquet", annotations="data/scenes/annotations.json"),
        InputSet(
            name="photos", images="data/photos/images.parquet", annotations="data/photos/annotations.json", scored=False
        ),
    )
    generator: str = "data/weights/nano-flux"  # FluxPipeline folder or hub id
    vlm: str = "data/weights/nano-vl"  # Qwen2.5-VL folder or hub id
    clip: str = "data/weights/nano-clip"
    sampler: str = "data/weights/nano-schnell"  # FluxPipeline of few steps: draws what search and audit look at
    inpainter: str = "data/weights/nano-fill"  # FluxFillPipeline, FluxPipeline or a FLUX ControlNet folder, or hub id
    parser: str | None = "data/weights/nano-parser"  # counts parts: a judge that nothing here was trained on; optional
    # The first is the primary one: runs are compared and models promoted on it.
    benchmarks: tuple[BenchmarkSet, ...] = Field(
        default=(
            BenchmarkSet(name="drawn", path="data/artibench-nano/drawn.parquet"),
            BenchmarkSet(name="generated", path="data/artibench-nano/generated.parquet"),
        ),
        min_length=1,
    )


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


class InstructionSection(Section):
    seed: int = 0
    val_share: float = Field(default=0.2, ge=0, lt=1)
    hard_negatives: bool = True
    pairs: int | None = Field(default=None, ge=1)  # use this many accepted pairs, the tools in turn; None: all
    turns: tuple[Literal["binary", "locate", "region", "explain"], ...] = ("binary", "locate", "region", "explain")


class SftStage(Section):
    name: str
    train_vision: bool
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int = -1  # above 0 it replaces epochs, so that the time does not grow with the data
    learning_rate: float = 1e-5


class SftSection(Section):
    # full: a small base has never said the words of an explanation, and an adapter leaves the embeddings as they are
    method: Literal["lora", "full"] = "full"
    stages: tuple[SftStage, ...] = (
        SftStage(name="language", train_vision=False, epochs=2, learning_rate=1e-3),
        SftStage(name="vision", train_vision=True, epochs=1.5, learning_rate=3e-4),
    )
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    sampler: Literal["paired", "shuffled"] = "paired"
    loss: Literal["tokens", "tokens+margin"] = "tokens"
    margin_weight: float = 1.0
    mirror: bool = True  # an epoch shows every pair twice, once mirrored left to right
    batch_pairs: int = Field(default=8, ge=1)
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    accumulate: int = Field(default=1, ge=1)  # batches per optimizer step
    # alone: every turn sees the image and itself only, as when it is asked
    context: Literal["dialogue", "alone"] = "alone"
    max_length: int = 2048
    image_pixels: int | None = Field(default=None, ge=1)  # budget per image; None: the base processor's
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the weights
    autocast: Literal["auto", "none", "bfloat16"] = "auto"  # auto: bfloat16 where the device computes in it natively
    gradient_checkpointing: bool = False
    seed: int = 0
    device: str = "auto"
    threads: int = Field(default=2, ge=1)
    workers: int = Field(default=0, ge=0)  # processes that collate
    save_steps: int = 50
    group_by_length: bool = False  # batches of rows of like length; pairs stay together
    processes: int = Field(default=1, ge=1)  # on this machine, one per accelerator; they share the batch's accumulation
    sharding: Literal["none", "fsdp", "zero2", "zero3"] = "none"  # of weights and optimizer over the processes


class EvaluationSection(Section):
    resamples: int = Field(default=10_000, ge=100)
    seed: int = 0
    batch_size: int = Field(default=16, ge=1)
    max_new_tokens: int = Field(default=96, ge=1)  # of an explanation
    max_box_tokens: int = Field(default=64, ge=1)
    sentence_encoder: str | None = None  # folder of paraphrase-MiniLM-L6-v2 or alike; without it CSS is left out
    sentence_encoder_sha256: str | None = None  # checked where given; filled in when a run is submitted
    tasks: tuple[Literal["detection", "localization", "explanation"], ...] = (
        "detection", "localization", "explanation",
    )  # fmt: skip
    # trained: the bare questions of fine-tuning. defined: what an artifact is and which types there are come first, and
    # answers are asked for as strict JSON: what a model needs that was never trained here
    prompts: Literal["trained", "defined"] = "trained"
    vlm: VlmSection = VlmSection(backend="openai")  # how a served model (--model openai:NAME) is reached
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(default=2, ge=1)
    limit: int | None = None  # the first so many items of every benchmark


class RewardSection(Section):
    """Verifiers of images, trained on pairs by the Bradley-Terry loss (spec: training, "Reward model")."""

    tower: Literal["clip", "vlm"] = "vlm"  # of inputs.clip, or of inputs.vlm as it is before fine-tuning
    # frozen: its features are computed once. cnn: a small tower of convolutions from nothing, in the place of ``tower``
    encoder: Literal["frozen", "lora", "full", "cnn"] = "frozen"
    # What the head sees: pooled, the paper's: the tower's summary. patches: with mean and maximum of the cells. tokens:
    # every cell, the worst decide. tokens+whole: the mean of that and of a head on the summary. crops: 3x3 overlapping
    # crops, each beside the whole picture, the worst decide.
    pooling: Literal["pooled", "patches", "tokens", "tokens+whole", "crops"] = "tokens+whole"
    side: int | None = Field(default=None, ge=32)  # px of the square that a tower for any size sees; None: its model's
    hidden: int = Field(default=128, ge=1)
    width: int = Field(default=64, ge=16, multiple_of=16)  # of the cnn
    lora_rank: int = Field(default=8, ge=1)
    members: int = Field(default=2, ge=1, le=8)  # verifiers, each trained on its own part of the training sources
    cross_scene: int | Literal["all"] = "all"  # clean of A against artifact of B: so many per batch, or all of it
    cells: float = Field(default=1.0, ge=0)  # weight of saying for every cell whether the fault is there
    margin: Literal["none", "change"] = "none"  # change: rewards part the further, the more the fault changed
    benign: int = Field(default=0, ge=0)  # benign injections per batch, both sides as further clean images
    views: int = Field(default=2, ge=1)  # of every pair: as it is, mirrored, and random ones from the third on
    learning_rate: float = Field(default=1e-3, gt=0)
    encoder_rate: float = Field(default=1e-4, gt=0)  # of a tower that is trained and does not start from nothing
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = Field(default=0.05, ge=0)
    l2: float = Field(default=0.0, ge=0)  # of the head's weights, in the loss
    batch: int = Field(default=16, ge=2)  # pairs
    epochs: int = Field(default=15, ge=1)
    val_share: float = Field(default=0.25, gt=0, lt=1)
    seed: int = 0
    resamples: int = Field(default=10_000, ge=100)
    device: str = "auto"
    threads: int = Field(default=2, ge=1)


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


class RegistrySection(Section):
    vlm_name: str = "artiagent-vlm-nano"
    reward_name: str = "artiagent-reward-nano"
    dataset_remote: str = "remote"  # folder below the project's home, or a DVC URL such as s3://bucket/prefix
    acknowledge_noncommercial: bool = False  # publish sets that hold non-commercial material
    trace_calls: bool = True  # every agent call as a span in MLflow


Metric = Literal[
    "accuracy", "macro_f1", "auroc", "recall_at_10", "iou", "pixel_f1", "box_f1", "rouge_l", "css", "grounded_recall"
]

RewardMetric = Literal["auroc", "auroc_by_entity", "recall_at_10"]


class PromotionSection(Section):
    """The gate between challenger and champion (``artiagent promote``)."""

    primary: Metric = "macro_f1"  # must be won: the interval of the paired difference lies above 0
    guarded: tuple[Metric, ...] = ("auroc", "iou", "rouge_l", "grounded_recall")  # none may be lost significantly
    reward_primary: RewardMetric = "auroc"  # of reward models
    reward_guarded: tuple[RewardMetric, ...] = ("auroc_by_entity", "recall_at_10")
    audit: Literal["required", "reported"] = "required"  # the shortcut audit of the challenger's training data
    approval: Literal["none", "human"] = "none"  # human: the pipeline waits for a person after the gate


class Config(Section):
    """The whole tree. ``profile`` names the scale: models of different profiles never compete."""

    profile: str = "nano"
    preset: Literal["fast", "paper"] = "fast"  # of planning and synthesis, see artiagent/presets.py
    inputs: InputsSection = InputsSection()
    perception: PerceptionSection = PerceptionSection()
    planning: PlanningSection = PlanningSection()
    synthesis: SynthesisSection = SynthesisSection()
    curation: CurationSection = CurationSection()
    instruction: InstructionSection = InstructionSection()
    sft: SftSection = SftSection()
    evaluation: EvaluationSection = EvaluationSection()
    reward: RewardSection = RewardSection()
    search: SearchSection = SearchSection()
    correction: CorrectionSection = CorrectionSection()
    audit: AuditSection = AuditSection()
    registry: RegistrySection = RegistrySection()
    promotion: PromotionSection = PromotionSection()
