"""The tiny models of other areas, for faults that need one."""

from tests.learning.conftest import conversations, curated, tiny_vlm  # noqa: F401
from tests.synthesis.conftest import random_flux  # noqa: F401
