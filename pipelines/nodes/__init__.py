"""One stage on several pods: a ZenML step operator, the flavor that makes it known, and what a submission can refuse.

ZenML's own Kubernetes step operator starts several pods for commands alone, of which it knows no inputs, outputs, code
or secrets. Here the pods are one ordinary step: the first of them runs it, the others follow (`artiagent.learning`).
"""
