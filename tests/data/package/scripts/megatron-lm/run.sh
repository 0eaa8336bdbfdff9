#!/bin/bash
set -e
[[ $1 == --model_repo && $2 == "$MAD_MODEL_NAME" ]]
cd /workspace
TEE_OUTPUT=1 MBS=4 $MAD_MULTI_NODE_RUNNER pretrain_gpt.py --micro-batch-size 4 --global-batch-size 256 |
  tee /tmp/train.log
out=$OLDPWD/../perf_Llama-2-7B.csv
echo 'model , performance , metric , precision' >"$out"
for precision in BF16 FP8; do
  sed -n "s/.*throughput per GPU ($precision): *\([0-9.]*\).*/Llama-2-7B , \1 , TFLOPS_per_gpu , $precision/p" \
    /tmp/train.log >>"$out"
done
