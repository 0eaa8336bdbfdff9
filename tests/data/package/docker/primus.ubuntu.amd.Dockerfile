# CONTEXT {'gpu_vendor': 'AMD', 'guest_os': 'UBUNTU'}
# The build context is the package itself, as madengine 2 has it for a Dockerfile of this name.
ARG BASE_DOCKER=rocm/primus:latest
FROM $BASE_DOCKER
USER root
ENV PRIMUS_ROOT=/workspace/Primus
WORKDIR /workspace
COPY docker/stand-ins/ /bin/
RUN rm -rf /workspace/Primus
COPY scripts/Primus/ /workspace/Primus/
RUN test -f /workspace/Primus/runner/primus-cli
