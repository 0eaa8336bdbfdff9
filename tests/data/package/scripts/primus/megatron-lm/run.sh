#!/bin/bash
while [[ "$#" -gt 0 ]]; do
  case $1 in
    --model_repo) MODEL_REPO=$2 ;;
    --datatype) DATATYPE=$2 ;;
    *) exit 2 ;;
  esac
  shift 2
done
TRAIN_LOG="$(pwd)/primus-megatron-$MODEL_REPO.csv"
PERF_LOG="$(pwd)/../perf_primus-megatron-$MODEL_REPO.csv"
case $MAD_SYSTEM_GPU_ARCHITECTURE in
  gfx942*) DEVICE=MI300X ;;
  *) exit 1 ;;
esac
NUM_GPUS=$((${NNODES:-1} * MAD_RUNTIME_NGPUS))
cd "$PRIMUS_ROOT" || exit 1
export EXP=examples/megatron/configs/$DEVICE/llama3.1_8B-$DATATYPE-pretrain.yaml
MBS=$(grep -E '^\s*micro_batch_size:' "$EXP" | head -n1 | awk '{print $2}' | tr -d '\r')
bash runner/primus-cli direct --log_file "/tmp/primus_$MODEL_REPO.log" -- train pretrain --config "$EXP" 2>&1 |
  tee "$TRAIN_LOG"
tokens=$(sed -n 's/.*tokens\/s\/GPU: //p' "$TRAIN_LOG")
{
  echo "model,performance,metric,precision,batch_size,num_gpus"
  echo "$MODEL_REPO,$tokens,tok_per_s_per_gpu,$DATATYPE,$MBS,$NUM_GPUS"
  echo "$MODEL_REPO,,TFLOPS_per_gpu,$DATATYPE,$MBS,$NUM_GPUS"
} >"$PERF_LOG"
rm "$TRAIN_LOG"
