"""ArtiAgent: clean images in, artifact pairs, detectors and reward models out (arXiv 2602.20951).

The library holds the science and knows nothing of orchestration: it imports neither zenml nor mlflow.
"""

import os

# Waiting OpenMP threads that spin take the core from the thread they wait for: on two busy cores a small model's
# forward pass with two threads took 25 times as long (measured). Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
