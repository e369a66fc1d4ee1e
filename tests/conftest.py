"""Settings for the whole suite: no hub, no analytics, no clock in property tests (machines are shared)."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ZENML_ANALYTICS_OPT_IN", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from hypothesis import settings  # noqa: E402  (after the environment is set)

settings.register_profile("artiagent", deadline=None)
settings.load_profile("artiagent")
