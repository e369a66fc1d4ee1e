"""Reward-guided generation: searches among a generator's pictures that a verifier steers and others judge."""
