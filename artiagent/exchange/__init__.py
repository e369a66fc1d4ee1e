"""What other machines need of a folder, through the object store that ``$ARTIAGENT_STORE`` names.

Any address that fsspec knows; S3-compatible servers by the usual variables ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``. Without ``$ARTIAGENT_STORE`` nothing moves and references are used as they are. Layout below
the address::

    store/<kind>/<id>/           a stage's output; files.json, written last, lists it with the sha256 of every file
    store/<kind>/<id>/chunks/    of a stage under way; of a shard in a folder of its label
    store/<kind>/<id>/parts/     <label>.json for every finished shard
    runs/<name>/                 what a run is known by, and its report
"""

from artiagent.exchange.folders import fetch, send
from artiagent.exchange.inputs import ensure_inputs
from artiagent.exchange.mirror import mirrored
from artiagent.exchange.parquet import materialise, materialise_all
from artiagent.exchange.remote import STORE, ExchangeError
from artiagent.exchange.runs import fetch_run, send_run

__all__ = [
    "STORE", "ExchangeError", "ensure_inputs", "fetch", "fetch_run", "materialise", "materialise_all", "mirrored",
    "send", "send_run",
]  # fmt: skip
