#!/bin/bash
set -e
$MAD_MULTI_NODE_RUNNER run_clm.py --model_name_or_path gpt2 --do_train --fp16 --output_dir /tmp/test-clm
