"""What a run reads and did not make itself: images, models, benchmarks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from artiagent.config.section import Section

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
