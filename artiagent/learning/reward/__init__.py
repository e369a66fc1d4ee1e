"""Verifiers: Bradley-Terry reward models of images (spec: training, "Reward model").

`training` makes them from curated pairs, `verifier` opens them as judges, `scores` says how good they are.
"""

from artiagent.learning.reward.training import train_reward
from artiagent.learning.reward.verifier import Verifier, open_reward

__all__ = ["Verifier", "open_reward", "train_reward"]
