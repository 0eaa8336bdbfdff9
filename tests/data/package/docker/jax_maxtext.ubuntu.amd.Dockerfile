# CONTEXT {'gpu_vendor': 'AMD', 'guest_os': 'UBUNTU'}
ARG BASE_DOCKER=rocm/pytorch:latest
FROM $BASE_DOCKER
ENV WORKSPACE_DIR=/workspace
WORKDIR $WORKSPACE_DIR
COPY stand-ins/ /bin/
