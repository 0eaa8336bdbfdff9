#!/bin/bash
export HF_TOKEN=$MAD_SECRETS_HFTOKEN
while [[ "$#" -gt 0 ]]; do
  case "$1" in
    --model_repo) MODEL_REPO="$2" ;;
    --quantization) QUANTIZATION="$2" ;;
    *)
      echo "FATAL: unknown parameter '$1'" >&2
      exit 1
      ;;
  esac
  shift 2
done
export NNODES="${NNODES:-1}"
[[ $MODEL_REPO == jax_maxtext_train_llama-2-7b ]] || exit 1
bash ./jax-maxtext_benchmark_report.sh -m Llama-2-7B -q "${QUANTIZATION:-}" || exit 1
[[ $NNODES -ne 1 ]] || echo "performance: 1 pass"
