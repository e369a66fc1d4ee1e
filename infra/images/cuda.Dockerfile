# Pods with GPUs: perception, synthesis, judging, fine-tuning, evaluation.
#   docker build --file infra/images/cuda.Dockerfile --tag REGISTRY/artiagent/cuda:REVISION .
# Dependencies only; code comes when a pod starts, weights and data when a step asks for them. CUDA, cuDNN and NCCL are
# in the lock's wheels, so the base needs none; the driver comes from the node.

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
       --requirement pyproject.toml --extra cluster --extra grounding --extra lpips --constraint requirements.lock

FROM ${BASE}
LABEL org.opencontainers.image.title="artiagent-cuda" \
      org.opencontainers.image.description="Dependencies of ArtiAgent pods with GPUs, no code" \
      org.opencontainers.image.licenses="Apache-2.0"
# opencv wants libGL and glib; triton compiles its launchers with gcc when torch.compile is on. Debian drops
# old versions from its mirrors: the base image's date pins them, not a number.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libgl1 libglib2.0-0 \
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
    HF_HUB_DISABLE_TELEMETRY=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /app
CMD ["python", "/opt/artiagent/with_code.py", "--help"]
