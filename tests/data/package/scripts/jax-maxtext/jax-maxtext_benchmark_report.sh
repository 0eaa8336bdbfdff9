#!/bin/bash
while getopts "m:q:" opt; do
  case $opt in
    m) model=$OPTARG ;;
    q) quantization=$OPTARG ;;
    *) exit 2 ;;
  esac
done
step=$(python3 -m MaxText.train env_scripts/llama2_7b.yml "quantization=$quantization") || exit 1
printf 'model,performance,metric,quantization\n%s,%s,tokens_per_second_per_gpu,%s\n' "$model" "$step" "$quantization" \
  >"../perf_${model}_$quantization.csv"
