"""Settings for the whole suite: no hub, no analytics, a home of its own, no clock in property tests."""

import atexit
import os
import shutil
import tempfile

HOME = tempfile.mkdtemp(prefix="artiagent-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ["ARTIAGENT_HOME"] = HOME
os.environ["ZENML_CONFIG_PATH"] = f"{HOME}/zenml"
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ZENML_ANALYTICS_OPT_IN", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from hypothesis import settings  # noqa: E402  (after the environment is set)

settings.register_profile("artiagent", deadline=None)
settings.load_profile("artiagent")
