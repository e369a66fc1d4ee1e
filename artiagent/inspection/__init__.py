"""A promoted model at work on a person's own images."""
