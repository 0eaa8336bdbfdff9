# CONTEXT {'gpu_vendor': 'AMD', 'guest_os': 'UBUNTU'}
# For AMD GPUs: start from an image with ROCm, for example rocm/pytorch, and add what the model needs.
ARG BASE_DOCKER=ubuntu:22.04
FROM $BASE_DOCKER
