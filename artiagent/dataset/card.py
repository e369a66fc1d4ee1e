"""The card of a curated set: ``README.md`` with front matter as the Hugging Face hub reads it.

A pure function of the set, of the files beside it and of what its reference says of its origin: no date, no machine, so
that the same set has the same card. It lies beside the shards and is no part of the set's digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from artiagent.curation.funnel import AUDIT, FUNNEL
from artiagent.dataset.facts import SetFacts, describe
from artiagent.licences import licence_of_text
from artiagent.records import DatasetRef
from artiagent.store import write_atomic
from artiagent.vlm.calls import CALLS, account, read_calls

CARD = "README.md"
HUB_LICENCES = ("apache-2.0", "cc-by-2.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "mit")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
FEATURES = [  # of our own shards; the hub's library decodes the images
    {"name": "key", "dtype": "string"}, {"name": "record", "dtype": "string"},
    {"name": "clean", "dtype": "image"}, {"name": "artifact", "dtype": "image"},
]  # fmt: skip


def write_card(curated: DatasetRef, out: Path, *, acknowledged: bool = False, facts: SetFacts | None = None) -> Path:
    """Write ``README.md`` into the folder `out`. Returns its path.

    Args:
        curated: complete curated set; its summary's ``lineage.*`` say which run made it, where that is known.
        out: folder, made when missing; usually the set's own.
        acknowledged: restricted material was acknowledged.
        facts: of the set, where they are known already.
    """
    text = curated_card(curated, acknowledged=acknowledged, facts=facts)
    write_atomic(out / CARD, text.encode())
    return out / CARD


def curated_card(curated: DatasetRef, *, acknowledged: bool = False, facts: SetFacts | None = None) -> str:
    """The card of a set in our own shards."""
    data = data_files({"train": f"{curated.kind}-*.parquet"}) | {"dataset_info": {"features": FEATURES}}
    return card_text(facts or describe(curated), data, acknowledged=acknowledged)


def card_text(facts: SetFacts, data: Mapping[str, Any], *, acknowledged: bool = False, body: str = "curated") -> str:
    """The whole card.

    Args:
        facts: of the set.
        data: front matter about the files beside the card: ``configs``, ``dataset_info``; {} where none can be loaded.
        acknowledged: restricted material was acknowledged.
        body: which form the data have, for the section on loading: curated, datasets, coco, sharegpt.
    """
    front = yaml.safe_dump(front_matter(facts) | data, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{front}---\n\n{_body(facts, acknowledged, body)}"


def front_matter(facts: SetFacts) -> dict[str, Any]:
    """License, size and tags in the hub's vocabulary; several licences, or unknown ones, are "other"."""
    licences = sorted(facts.licences.images)
    known = licences[0].lower() if len(licences) == 1 and licences[0].lower() in HUB_LICENCES else ""
    known = "" if facts.licences.restricted() else known
    named = {"license": known} if known else {"license": "other", "license_name": "see-the-table-of-licences"}
    return named | {
        "pretty_name": f"ArtiAgent pairs {facts.ref.digest[:12]}",
        "task_categories": ["image-text-to-text", "object-detection"],
        "language": ["en"],
        "size_categories": [next((name for limit, name in _SIZES if facts.ref.rows < limit), "n>1M")],
        "tags": ["artifact-detection", "synthetic", "generated-images", "paired-images"],
    }


def _body(facts: SetFacts, acknowledged: bool, body: str) -> str:
    folder, licences, lineage = Path(facts.ref.uri), facts.licences, facts.lineage
    audit, funnel = (_read(folder / name) for name in (AUDIT, FUNNEL))
    of_models = ((model, name, n) for model, table in licences.models.items() for name, n in table.items())
    weights = {weight.replace(":", " ", 1) for weight in lineage.get("weights", "").split()}
    return _environment().get_template("card.md.j2").render(
        facts=facts, digest=facts.ref.digest, rows=facts.ref.rows, body=body, acknowledged=acknowledged,
        tools=[(name, part, row) for part in facts.funnel for name, row in facts.funnel[part]["tools"].items()],
        images=[(name, n, licence_of_text(name)) for name, n in licences.images.items()],
        models=[(model, name, n, licence_of_text(name)) for model, name, n in of_models],
        restricted=licences.restricted(), untold=licences.untold(),
        lineage={key: value for key, value in lineage.items() if key != "weights"},
        weights=sorted(weights | facts.models.keys()), audit=audit,
        used={key: funnel[key] for key in ("metric", "judge", "writer") if key in funnel},
        calls=account(read_calls(folder / CALLS)),
    )  # fmt: skip


def _environment() -> Environment:
    loader = PackageLoader("artiagent.dataset", "templates")
    made = Environment(  # noqa: S701  (Markdown)
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    words = {True: "yes", False: "**no**", None: "not stated"}
    made.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    made.filters["use"] = lambda x: words[x.commercial] + ("" if x.derivatives else "; **no altered copies**")
    return made


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def data_files(splits: Mapping[str, str]) -> dict[str, Any]:
    """Front matter that tells `datasets.load_dataset` which files beside the card are which split."""
    files = [{"split": split, "path": pattern} for split, pattern in splits.items()]
    return {"configs": [{"config_name": "default", "data_files": files}]}
