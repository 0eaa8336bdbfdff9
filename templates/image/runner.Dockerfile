# The runner image: python3 and madengine.pyz, for the sidecar of a pod, or with an engine's client for `--mode runner`.
ARG BASE_IMAGE=python:3.13-slim
FROM $BASE_IMAGE
COPY madengine.pyz /opt/madengine/madengine.pyz
# `python3 -m madengine…` finds it; nothing is written into the image.
ENV PYTHONPATH=/opt/madengine/madengine.pyz PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT []
CMD ["python3", "-m", "madengine.distributed_cli", "--help"]
