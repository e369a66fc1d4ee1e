# Pods without a GPU: starter, orchestrator, planning, publishing, scoring, reports.
#   docker build --file infra/images/cpu.Dockerfile --tag REGISTRY/artiagent/cpu:REVISION .
# Dependencies only; code comes when a pod starts, weights and data when a step asks for them. The same lock as
# everywhere and so the same CUDA build of PyTorch: its CPU build is in another index, whose hashes the lock does not
# have, and would give other last digits than the lock was tested with. Only triton (1 GB) is left out.

# Debian 12, as the lock was tested. Give the digest of your mirror: --build-arg BASE=...@sha256:...
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /build
COPY pyproject.toml requirements.lock ./
# What pyproject.toml asks for less its dev extra, in the versions and with the hashes of the lock; others are refused.
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv /opt/venv \
    && uv pip install --python /opt/venv/bin/python --link-mode copy --compile-bytecode --require-hashes \
       --requirement pyproject.toml --extra cluster --extra grounding --extra lpips --constraint requirements.lock \
    && uv pip uninstall --python /opt/venv/bin/python triton

FROM ${BASE}
LABEL org.opencontainers.image.title="artiagent-cpu" \
      org.opencontainers.image.description="Dependencies of ArtiAgent pods without a GPU, no code" \
      org.opencontainers.image.licenses="Apache-2.0"
# opencv wants libGL and glib. Debian drops old versions from its mirrors, so the base image's date pins them.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 artiagent \
    && useradd --uid 1000 --gid 1000 --home-dir /scratch --no-create-home --shell /usr/sbin/nologin artiagent \
    && install --directory --owner 1000 --group 1000 /app /scratch
COPY --from=build /opt/venv /opt/venv
COPY infra/images/with_code.py /opt/artiagent/with_code.py
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/scratch \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GIT_PYTHON_REFRESH=quiet \
    DO_NOT_TRACK=1 \
    ZENML_ANALYTICS_OPT_IN=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    HF_HUB_DISABLE_TELEMETRY=1
USER 1000:1000
WORKDIR /app
CMD ["python", "/opt/artiagent/with_code.py", "--help"]
