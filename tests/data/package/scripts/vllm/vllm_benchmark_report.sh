#!/bin/bash
while getopts m:c: opt; do
  case $opt in
    m) model=$OPTARG ;;
    c) config=$OPTARG ;;
    *) exit 2 ;;
  esac
done
name=${model##*/}
out="../perf_$name.csv"
echo "model, performance, metric, benchmark, in, out" >"$out"
weights=$HF_HUB_CACHE/models--${model//\//--}/blobs
if [[ -f $weights/1 ]]; then
  echo "weights: cached"
else
  mkdir -p "$weights" && echo weights >"$weights/1"
fi
while IFS=, read -r card benchmark tp inputs outputs prompts concurrency datatype; do
  [[ $card == "$model" ]] || continue
  for input in $inputs; do
    for output in $outputs; do
      for users in ${concurrency:-0}; do
        words=(--model "$model" --tensor-parallel-size "$tp" --dtype "$datatype" --input-len "$input" --output-len "$output")
        if [[ $benchmark == throughput ]]; then
          words+=(--num-prompts "$prompts")
        else
          words+=(--max-concurrency "$users")
        fi
        figure=$(vllm bench "$benchmark" "${words[@]}") || exit 1
        echo "$name, $figure, tokens_per_second, $benchmark, $input, $output" >>"$out"
      done
    done
  done
done < <(tail -n +2 "$config")
