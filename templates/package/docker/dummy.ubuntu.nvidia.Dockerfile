# CONTEXT {'gpu_vendor': 'NVIDIA', 'guest_os': 'UBUNTU'}
# For NVIDIA GPUs: start from an image with CUDA, for example nvcr.io/nvidia/pytorch, and add what the model needs.
ARG BASE_DOCKER=ubuntu:22.04
FROM $BASE_DOCKER
