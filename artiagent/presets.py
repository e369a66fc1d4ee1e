"""Named settings of planning and synthesis: one word switches between the paper's way and ours.

A preset fills in keys that the configuration leaves out; a key given in the file or by ``--set`` wins. ``fast`` is what
the defaults of ``artiagent/config/`` are tuned to. ``paper`` is arXiv 2602.20951 to the letter but for the background
guarantee, without which nothing passes the change audit.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "fast": {},
    "paper": {
        "planning": {
            "placement": "centroid_ring",  # Algorithm 1
            "add_temperature": 0.0,  # argmax
            "add_min_visible": 0.5,
            "add_coverage": 0.0,  # every patch of the part is copied
            "add_contact": 0.0,
            "jitter_sigma": 1.0,
            "strips": 6,
            "fuse_spread": 0,
            "fuse_one_sided": 0.0,
        },
        "synthesis": {
            "solver": "fireflow",
            "steps": 25,
            "pe_fraction": {"add": 0.8, "remove": 0.96, "distort": 0.8, "fuse": 0.8, "benign": 0.8},  # 20, 24 of 25
            "value_fraction": 0.6,  # 15 of 25
            "pe_blocks": "before_values",
            "value_blocks": 0.5,  # the printed 20-38 of 38
            "value_after": "keep",
            "shared_inversion": False,  # one inversion for every artifact image
            "variant_tokens": "all",
        },
    },
}


def owned() -> set[tuple[str, str]]:
    """(section, key) of everything that some preset sets."""
    return {(section, key) for preset in PRESETS.values() for section, keys in preset.items() for key in keys}


def fill_in(tree: dict[str, Any]) -> dict[str, Any]:
    """The configuration tree with the keys of its preset where it has none of its own; unknown presets are left to
    the validation."""
    preset = PRESETS.get(tree.get("preset", "fast"), {}) if isinstance(tree.get("preset", "fast"), str) else {}
    filled = dict(tree)
    for section, keys in preset.items():
        given = filled.get(section, {})
        filled[section] = {**keys, **given} if isinstance(given, dict) else given
    return filled
