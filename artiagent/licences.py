"""Licences of source images and models, as published: who may use what for money, and on which terms it is passed on.

Facts and how to read them, no legal advice; docs/datasets.md says which were looked up and which are from memory. What
nobody states stays unknown: it is never taken for free. Does not know data sets on disk beyond their rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import yaml
from pydantic import ConfigDict

from artiagent.checkpoints import model_name
from artiagent.records import DatasetRef, Pair, Record, Scene
from artiagent.store import checkout, read_rows

UNKNOWN = "unknown"
_ATTRIBUTION = "name the author, link the licence, say what was changed"


class Licence(Record):
    """Terms of one work. ``commercial`` is None where nobody said; without ``derivatives`` nothing altered goes out."""

    name: str  # SPDX id, or the name its publisher uses
    commercial: bool | None = None
    derivatives: bool = True
    conditions: str = ""  # on passing it, or what was made with it, on
    source: str = ""  # where that is stated

    @property
    def restricted(self) -> bool:
        """Whether publishing takes an acknowledgement: no commercial use, or no altered copies."""
        return self.commercial is False or not self.derivatives


def _free(name: str, source: str, conditions: str = "keep the licence text and notices") -> Licence:
    return Licence(name=name, commercial=True, conditions=conditions, source=source)


_FLUX_DEV = Licence(
    name="FLUX.1-dev Non-Commercial License", commercial=False, source="LICENSE-FLUX1-dev of black-forest-labs/flux",
    conditions="model for non-commercial purposes only; its images must not train a competing model; versions of the "
    "licence differ in what they say of images",
)  # fmt: skip
_QWEN_RESEARCH = Licence(
    name="Qwen Research License", commercial=False, source="LICENSE beside the weights on the hub",
    conditions="research and evaluation only; commercial use on request",
)  # fmt: skip
_QWEN = Licence(
    name="Qwen License Agreement", commercial=True, source="LICENSE beside the weights on the hub",
    conditions="licence on request above 100 million monthly users; name Qwen where outputs train a model",
)  # fmt: skip
_STABILITY = Licence(
    name="Stability AI Community License", commercial=True, source="LICENSE.md beside the weights on the hub",
    conditions="free below one million US dollars of yearly revenue; outputs must not train a foundation model",
)  # fmt: skip
_SAM3 = Licence(
    name="SAM License", commercial=True, source="LICENSE of facebookresearch/sam3",
    conditions="pass the agreement on; acknowledge in publications; no military use",
)  # fmt: skip
_OPENAI = Licence(
    name="OpenAI terms", commercial=True, source="OpenAI's Terms of Use",
    conditions="outputs must not be used to develop models that compete with OpenAI",
)  # fmt: skip
_GEMINI = Licence(
    name="Gemini API terms", commercial=True, source="Gemini API Additional Terms of Service",
    conditions="the service must not be used to develop models that compete with it",
)  # fmt: skip
_ALEXNET = Licence(
    name="not stated (torchvision weights)", source="torchvision documentation, Models and pre-trained weights",
    conditions="torchvision points to the terms of the training data, ImageNet",
)  # fmt: skip
_CELEBA = Licence(
    name="CelebA agreement (non-commercial research only)", commercial=False,
    source="Dataset Agreement of CelebA and of CelebAMask-HQ",
    conditions="neither the images nor derived data may be copied, published or distributed further",
)  # fmt: skip
_HANDS = Licence(
    name="free for reasonable academic fair use (11K Hands)", commercial=False, source="page of the 11K Hands data set",
    conditions="academic use; cite the paper",
)  # fmt: skip
_COCO = Licence(
    name="Flickr users' licences, most of them non-commercial (COCO; annotations CC-BY-4.0)", commercial=False,
    source="COCO terms of use; `licenses` of the annotation files",
    conditions="every image under its own licence; COCO owns none of them",
)  # fmt: skip
_CALTECH = Licence(
    name="CC-BY-4.0", commercial=True, conditions=_ATTRIBUTION, source="record of Caltech 101 at CaltechDATA"
)
LAYOUTS: dict[str, Licence] = {"coco": _COCO, "caltech101": _CALTECH, "hands11k": _HANDS, "celeba_hq": _CELEBA}
LAYOUT_LICENCES: dict[str, str] = {layout: licence.name for layout, licence in LAYOUTS.items()}

# Patterns are searched in the lower-case hub id, folder or file name; the first that is found decides.
_MODELS: tuple[tuple[str, Licence], ...] = (
    (r"\bnano-(flux|vl|clip|parser|sam|grounder)\b", _free("Apache-2.0", "LICENSE of this repository")),
    (r"flux[._-]?1[._-](\w+[._-])?dev", _FLUX_DEV),
    (r"flux[._-]?1[._-]schnell", _free("Apache-2.0", "README of the FLUX repository")),
    (r"qwen2\.5-vl-3b", _QWEN_RESEARCH),
    (r"qwen2\.5-vl-72b", _QWEN),
    (r"qwen2\.5-vl-(7|32)b", _free("Apache-2.0", "model card on the hub")),
    (r"qwen-image(?!-2\.)", _free("Apache-2.0", "README of QwenLM/Qwen-Image")),
    (r"internvl3[._]5", _free("Apache-2.0", "model card on the hub")),
    (r"stable-diffusion-3\.5|sd3\.5", _STABILITY),
    (r"clip-vit-", _free("MIT", "LICENSE of openai/CLIP")),
    (r"sam3", _SAM3),
    (r"sam2|sam_vit_[bhl]|sam-vit-", _free("Apache-2.0", "README of segment-anything and of sam2")),
    (r"grounding-?_?dino", _free("Apache-2.0", "LICENSE of IDEA-Research/GroundingDINO")),
    (r"blip2-", _free("MIT", "model cards on the hub; the code is BSD-3-Clause")),
    (r"lpips", _free("BSD-2-Clause", "LICENSE of richzhang/PerceptualSimilarity")),
    (r"alexnet", _ALEXNET),
    (r"^(gpt-(?!oss)|chatgpt|o\d)", _OPENAI),
    (r"^(models/)?gemini-", _GEMINI),
)  # fmt: skip
# Names that are not SPDX ids, as rows carry them and as front matter of model cards has them.
_NAMED = {
    **{x.name.lower(): x for x in (_FLUX_DEV, _QWEN_RESEARCH, _QWEN, _STABILITY, _SAM3, _OPENAI, _GEMINI, _ALEXNET)},
    **{x.name.lower(): x for x in (_CELEBA, _HANDS, _COCO)},
    "flux-1-dev-non-commercial-license": _FLUX_DEV, "qwen-research": _QWEN_RESEARCH, "qwen": _QWEN,
    "stabilityai-ai-community": _STABILITY,
}  # fmt: skip
_CREATIVE = re.compile(r"\bcc[ -]?by\b|creativecommons\.org/licenses/by|\battribution\b", re.IGNORECASE)
_ELEMENT = r"\bby(?:[ -](?:nc|nd|sa))*[ -]{}\b|{}"  # as abbreviated behind BY, or in words
_NON_COMMERCIAL = re.compile(
    _ELEMENT.format("nc", r"non[ -]?commercial|academic(?! free)|research[ -](?:only|use|purposes?|licen[cs]e)"),
    re.IGNORECASE,
)
_NO_DERIVATIVES = re.compile(_ELEMENT.format("nd", r"no[ -]?deriv"), re.IGNORECASE)
_SHARE_ALIKE = re.compile(_ELEMENT.format("sa", r"share[ -]?alike"), re.IGNORECASE)
_FREE = re.compile(
    r"\bcc0\b|public[ -]?domain|no known copyright|united states government work|\bapache(?: licen[cs]e)?[ -]?2|\bmit\b"
    r"|\bbsd\b|\b[al]?gpl\b|\bmpl\b|\bisc\b|\bcdla-permissive|\bodc-by|\bpddl\b|\bunlicense\b",
    re.IGNORECASE,
)


def licence_of_text(text: str) -> Licence:
    """Read a licence as rows, annotation files and model cards state it; what cannot be read is unknown."""
    text = text.strip() or UNKNOWN
    if (known := _NAMED.get(text.lower())) is not None:
        return known
    read = text.replace("_", "-")
    commercial = False if _NON_COMMERCIAL.search(read) else None
    altered = not _NO_DERIVATIVES.search(read)
    if _CREATIVE.search(read):
        share = "; pass it on under the same licence" if _SHARE_ALIKE.search(read) else ""
        conditions = _ATTRIBUTION + share if altered else "altered images must not be passed on"
        return Licence(name=text, commercial=commercial is None, derivatives=altered, conditions=conditions)
    if commercial is None and _FREE.search(read):
        return Licence(name=text, commercial=True)
    return Licence(name=text, commercial=commercial, derivatives=altered)


def is_noncommercial(text: str) -> bool | None:
    """Whether a stated licence forbids commercial use; None where that cannot be told."""
    commercial = licence_of_text(text).commercial
    return None if commercial is None else not commercial


def licence_of_model(location: str) -> Licence:
    """Licence of a model by folder, file, hub id or the name at a server.

    A folder's own model card decides (``license_name``, ``license``), then the name; else the licence is unknown.
    """
    return _licence_of_model(str(location))


@cache
def _licence_of_model(location: str) -> Licence:
    if stated := _stated(location):
        return licence_of_text(stated)
    name = model_name(location).lower()
    return next((licence for pattern, licence in _MODELS if re.search(pattern, name)), Licence(name=UNKNOWN))


def _stated(location: str) -> str:
    """What the model card in a folder says; "" without one."""
    if not location:
        return ""
    roots = (Path(location).expanduser(), *([root / location] if (root := checkout()) else []))
    card = next((root / "README.md" for root in roots if (root / "README.md").is_file()), None)
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2) if card else []
    if len(parts) < 3 or parts[0].strip():
        return ""
    try:
        facts = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return ""
    if not isinstance(facts, dict):
        return ""
    return str(facts.get("license_name") or facts.get("license") or "")


def with_model(pair: Pair, role: str, location: str) -> Pair:
    """The pair with the licence of a model that took part, ``licences["<role>: <model>"]``."""
    return pair.model_copy(update={"licences": pair.licences | model_entry(role, location)})


def model_entry(role: str, location: str) -> dict[str, str]:
    """``{"<role>: <model>": licence}`` for ``Pair.licences``."""
    return {f"{role}: {model_name(location)}": licence_of_model(location).name}


def models_of_scene(scene: Scene) -> dict[str, str]:
    """The same for every model that perceived a scene: its agents' and its detectors', as far as their names tell."""
    agents = (asked.partition(" ")[2] for asked in scene.agents.values())
    detectors = (part.partition(":")[2] for part in scene.grounding.split("+"))
    named = [("perception", name) for name in agents] + [("grounding", name) for name in detectors]
    return {key: value for role, name in named if name for key, value in model_entry(role, name).items()}


class LicenceCounts(Record):
    """Rows by licence: of their source images, and of the models that took part, by ``<role>: <model>``."""

    rows: int
    images: dict[str, int]
    models: dict[str, dict[str, int]]  # model -> licence -> rows

    def restricted(self) -> dict[str, int]:
        """ "<licence> (<whose>)" -> rows that must not be used commercially, or not be passed on altered."""
        return self._rows(lambda licence: licence.restricted)

    def untold(self) -> dict[str, int]:
        """The same for licences that leave open whether commercial use is allowed."""
        return self._rows(lambda licence: licence.commercial is None and not licence.restricted)

    def _rows(self, wanted: Callable[[Licence], bool]) -> dict[str, int]:
        tables = {"images": self.images, **self.models}
        return {
            f"{name} ({whose})": rows
            for whose, table in tables.items()
            for name, rows in table.items()
            if wanted(licence_of_text(name))
        }


class Stated(Record):
    """What any row says of its licences; other fields are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    licence: str = UNKNOWN
    licences: dict[str, str] = {}


def count_licences(rows: Iterable[Stated]) -> LicenceCounts:
    """Add up what rows state."""
    images: Counter[str] = Counter()
    models: dict[str, Counter[str]] = {}
    for row in rows:
        images[row.licence] += 1
        for model, licence in row.licences.items():
            models.setdefault(model, Counter())[licence] += 1
    sorted_models = {model: dict(sorted(models[model].items())) for model in sorted(models)}
    return LicenceCounts(rows=images.total(), images=dict(sorted(images.items())), models=sorted_models)


def summary_of(curated: DatasetRef | Path) -> LicenceCounts:
    """Licences of a data set of scenes or pairs, read as a stream without its images."""
    return count_licences(row.record for row in read_rows(curated, Stated, images=()))
