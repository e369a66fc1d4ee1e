"""The tiny FLUX folder of the synthesis tests, for faults that need a model."""

from tests.synthesis.conftest import random_flux  # noqa: F401
