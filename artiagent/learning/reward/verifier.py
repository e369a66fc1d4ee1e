"""A trained reward folder as a judge of images: one number per image, and where in it the reward is lost.

Knows the folder's files and how members make an ensemble. Does not know pairs or training.

    config.json            what it was made from and how it sees; sha256 of the other files
    tower/                 the vision tower, where the members share it (frozen)
    member-K/head.safetensors, member-K/tower/ where each has its own
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from artiagent.devices import torch_device
from artiagent.learning.reward.heads import Head, JointHead, extract, grid_of, new_head, reward_of
from artiagent.learning.reward.pairs import square
from artiagent.learning.reward.towers import Tower, load_tower, save_tower
from artiagent.records import CheckpointRef
from artiagent.store import file_sha256

HEAD, CONFIG = "head.safetensors", "config.json"
BATCH = 64  # images that a tower sees at a time


class Member(NamedTuple):
    """One verifier: a head on a tower, which members of a frozen tower share."""

    tower: Tower
    head: Head | JointHead


class Verifier:
    """Scores images; the ensemble's reward is the mean of its members'. A `Judge` of ``mitigation.judges``.

    Args:
        members: one or more.
        pooling: what the heads see, see `heads.extract`.
        sha256: of the weights, and which members of them these are.
        device: name of the device.
    """

    name = "verifier"

    def __init__(self, members: Sequence[Member], pooling: str, sha256: str, device: str) -> None:
        self.device, self.pooling, self.sha256 = torch_device(device), pooling, sha256
        self.members = [Member(m.tower.to(self.device).eval(), m.head.to(self.device).eval()) for m in members]

    def __call__(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """uint8 [H, W, 3] each, of any size -> reward, float32 [n]; higher is better. Images are taken in batches."""
        return self.each(images).mean(0)

    def each(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Rewards of every member, float32 [members, n]."""
        scored = [torch.stack([reward_of(voices) for voices in found]) for found in self._heard(images)]
        return torch.cat(scored, dim=1).numpy() if scored else np.zeros((len(self.members), 0), np.float32)

    def badness(self, images: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Where the reward is lost: float32 [rows, cols] for each image, cell by cell; higher is worse.

        By the voice that knows places. The cells cover the picture evenly; a head that sees it whole has a single one.
        """
        grid = grid_of(self.members[0].tower, self.pooling)
        found = [torch.stack([voices[0] for voices in batch]).mean(0) for batch in self._heard(images)]
        return [cells.view(grid).numpy() for batch in found for cells in batch]

    @torch.inference_mode()
    def _heard(self, images: Iterable[np.ndarray]) -> Iterator[list[list[Tensor]]]:
        """Badness [b, T] by every voice of every member, batch by batch, on the CPU."""
        for batch in _batched(images):
            seen: dict[int, Tensor] = {}
            found = []
            for tower, head in self.members:
                if id(tower) not in seen:
                    seen[id(tower)] = extract(tower, to_pixels(batch, tower.side).to(self.device), self.pooling)
                found.append([badness.float().cpu() for badness in head.voices(seen[id(tower)])])
            yield found


def open_reward(reward: CheckpointRef, member: int | None = None, device: str = "auto") -> Verifier:
    """The verifier in a trained folder.

    Args:
        reward: folder of `training.train_reward`; it holds the vision tower, too.
        member: None for the mean of all members. One steers a search, another, trained on other sources, judges it.
        device: name of the device.

    Raises ValueError naming the folder when a file is missing or not the one that was written, or for a member that it
    does not have.
    """
    folder = Path(reward.uri)
    config = _checked(folder)
    count = config["members"]
    if member is not None and not 0 <= member < count:
        raise ValueError(f"{folder}: has {count} verifiers, 0 to {count - 1}; member {member} was asked for")
    shared = load_tower(folder / "tower") if (folder / "tower").is_dir() else None
    wanted = range(count) if member is None else [member]
    members = [_member(folder / f"member-{k}", shared, config) for k in wanted]
    sha256 = reward.sha256 if member is None else f"{reward.sha256}/{member}"
    return Verifier(members, config["pooling"], sha256, device)


def save_members(members: Sequence[Member], folder: Path) -> dict[str, str]:
    """Write towers and heads; returns sha256 by file name relative to ``folder``."""
    shared = all(m.tower is members[0].tower for m in members)
    if shared:
        save_tower(members[0].tower, folder / "tower")
    for k, (tower, head) in enumerate(members):
        place = folder / f"member-{k}"
        place.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}, place / HEAD)
        if not shared:
            save_tower(tower, place / "tower")
    wanted = [
        p for place in ("tower", *(f"member-{k}" for k in range(len(members)))) for p in (folder / place).rglob("*")
    ]
    return {p.relative_to(folder).as_posix(): file_sha256(p) for p in sorted(wanted) if p.is_file()}


def to_pixels(images: Sequence[np.ndarray], side: int) -> Tensor:
    """uint8 [H, W, 3] each -> float [n, 3, side, side] in 0..1."""
    return torch.from_numpy(np.stack([square(image, side) for image in images])).permute(0, 3, 1, 2).float() / 255


def _member(place: Path, shared: Tower | None, config: dict) -> Member:
    tower = load_tower(place / "tower") if shared is None else shared
    head = new_head(tower, config["pooling"], config["hidden"])
    head.load_state_dict(load_file(place / HEAD))
    return Member(tower, head)


def _checked(folder: Path) -> dict:
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder}: no {CONFIG}; expected the folder of a trained reward model")
    config = json.loads((folder / CONFIG).read_text())
    if "files" not in config:
        raise ValueError(f"{folder}: a reward model of an older version, without its vision tower; train it again")
    for name, expected in config["files"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != expected:
            raise ValueError(f"{folder / name}: missing or changed (expected sha256 {expected[:12]}); train it again")
    return config


def _batched(images: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    rest = iter(images)
    while batch := list(islice(rest, BATCH)):
        yield batch
