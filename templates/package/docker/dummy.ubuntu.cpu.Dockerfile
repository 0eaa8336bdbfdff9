# CONTEXT {'gpu_vendor': 'NONE', 'guest_os': 'UBUNTU'}
# For machines without a GPU.
ARG BASE_DOCKER=ubuntu:22.04
FROM $BASE_DOCKER
