"""ArtiAgent: clean images in, artifact pairs, detectors and reward models out (arXiv 2602.20951).

The library holds the science and knows nothing of orchestration: it imports neither zenml nor mlflow.
"""

__version__ = "0.1.0"
