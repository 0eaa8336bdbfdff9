#!/bin/bash
set -ex

if [[ "$MAD_SYSTEM_GPU_ARCHITECTURE" != *"gfx94"* ]]; then
  echo "unsupported GPU architecture"
  exit 1
fi
export HF_TOKEN=$MAD_SECRETS_HFTOKEN
while [[ "$#" -gt 0 ]]; do
  case $1 in
    --model_repo) MODEL_NAME=$2 ;;
    --config) CONFIG=$2 ;;
    *) exit 2 ;;
  esac
  shift 2
done
export HF_HUB_CACHE="/myworkspace"
[[ -n "$HF_TOKEN" ]]
./vllm_benchmark_report.sh -m "$MODEL_NAME" -c "$CONFIG"
