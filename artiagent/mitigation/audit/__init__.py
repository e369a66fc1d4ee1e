"""How often does a generator draw artifacts, and which? The paper's prevalence study, for any generator or its images.

``sources`` draws or reads images, ``stage`` asks the fine-tuned VLM about them, ``naming`` reads type, entity and part
out of its explanations, ``rates`` counts with intervals, ``tables`` and ``artiagent.report.audit`` show it.
"""
