"""Common part names and their layer, for annotated categories that do not say it themselves.

Peripheral: distal, separable parts of a small bounded number. Intermediate: structural parts in between. Both: limbs
that are distal for one neighbour and structural for the other. A Python module rather than a data file, so that cache
keys see an edit. Names are singular; a name that is not listed is an entity.
"""

from __future__ import annotations

from artiagent.records import Layer

_PERIPHERAL = (
    "antenna", "antler", "beak", "claw", "ear", "fin", "finger", "flipper", "foot", "hand", "handle", "handlebar",
    "hoof", "horn", "knob", "mirror", "paw", "pedal", "propeller", "spout", "tail", "thumb", "toe", "tusk",
    "wheel", "wing",
)  # fmt: skip
_INTERMEDIATE = (
    "arm", "armrest", "back", "backrest", "door", "eye", "face", "forearm", "head", "hood", "lid", "mouth", "muzzle",
    "neck", "nose", "seat", "shin", "shoulder", "snout", "thigh", "windshield",
)  # fmt: skip

PART_LAYERS: dict[str, Layer] = {
    **{name: "peripheral" for name in _PERIPHERAL},
    **{name: "intermediate" for name in _INTERMEDIATE},
    "leg": "both",
}
NEVER_PARTS = frozenset({"abdomen", "belly", "body", "chest", "torso"})  # nothing is separable from a torso
VARIABLE_COUNT = frozenset({"branch", "crowd", "feather", "fur", "hair", "leaf", "petal", "scale", "spot", "stripe"})
