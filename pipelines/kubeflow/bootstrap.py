"""First lines of every task: get the code by its digest, unpack it, become the stage. The image has none of our code.

python -c "<this file>" DIGEST ARGUMENTS-OF-STEPS.ENTRY ...
"""

import hashlib
import io
import os
import sys
import tarfile
import tempfile

import fsspec

digest, *arguments = sys.argv[1:]
if not os.environ.get("ARTIAGENT_STORE"):
    sys.exit("artiagent: ARTIAGENT_STORE is not set; set it and export the pipeline again")
place = f"{os.environ['ARTIAGENT_STORE'].rstrip('/')}/code/{digest}.tar.gz"
try:
    with fsspec.open(place, "rb") as file:
        data = file.read()
except Exception as error:
    sys.exit(f"artiagent: {place}: {type(error).__name__}: {error}; see the store's credentials, or export again")
if hashlib.sha256(data).hexdigest() != digest:
    sys.exit(f"artiagent: {place}: does not have the sha256 of its name; export the pipeline again")
# The same place in every task: references to inputs below the checkout name it.
root = os.environ.get("ARTIAGENT_CODE") or tempfile.mkdtemp(prefix="artiagent-code-")
with tarfile.open(fileobj=io.BytesIO(data)) as archive:
    archive.extractall(root, filter="data")
os.environ["PYTHONPATH"] = root
os.chdir(os.environ.get("ARTIAGENT_WORKDIR") or ".")
os.execv(sys.executable, [sys.executable, "-P", "-m", "pipelines.entry", *arguments])
