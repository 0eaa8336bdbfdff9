#!/bin/bash
set -e
[[ $SGLANG_USE_AITER == 1 ]]
python3 -m sglang.launch_server "$@" --port 30000 &
server=$!
python3 -m sglang.bench_serving --backend sglang --num-prompts 64 | tee serving.log
kill "$server"
throughput=$(sed -n 's/^Output token throughput (tok\/s): *//p' serving.log)
echo "performance: $throughput tokens/s"
