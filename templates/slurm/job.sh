# shellcheck shell=bash disable=SC2154 # the lines before these set the variables
# A task of the array: the models of one folder of the run, on the nodes that Slurm has chosen.
set -eu
# `--export=NONE` is for this script; what it starts on nodes has its environment.
unset SLURM_EXPORT_ENV
cd "$run_folder" || {
  echo "$run_folder: not on this node; name a folder that all nodes share with --output-dir" >&2
  exit 1
}

if ((nodes > 1)) && [ -z "${MADENGINE_NODES-}" ]; then
  # On the first node: this script again, on every node, where it knows the first one's address.
  code='from madengine.programs.preflight import free_port; print(free_port())'
  MADENGINE_PORT=$(PYTHONPATH=$run_folder/madengine.pyz "$python" -c "$code")
  MADENGINE_RENDEZVOUS_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  export MADENGINE_NODES=$nodes MADENGINE_PORT MADENGINE_RENDEZVOUS_KEY
  srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=0 \
    bash -l "$run_folder/$script" &
  step=$!
  trap 'scancel --quiet --signal=TERM "$SLURM_JOB_ID.0" || true' TERM
  # A signal ends a `wait`, and not what it waits for.
  while
    code=0
    wait "$step" || code=$?
    kill -0 "$step" 2>/dev/null
  do :; done
  exit "$code"
fi

for task in "$run_folder/$SLURM_ARRAY_TASK_ID"-*; do break; done
# A job that Slurm has queued again is another attempt, on any node.
export MADENGINE_ATTEMPT=$((${SLURM_RESTART_COUNT:-0} + 1))
results=$task/$(uname -n)
((MADENGINE_ATTEMPT == 1)) || results=$results-attempt-$MADENGINE_ATTEMPT
mkdir -p "$results"
cd "$results"
if ((nodes > 1)); then
  export MADENGINE_NODE_RANK=$SLURM_PROCID MADENGINE_RENDEZVOUS=$SLURM_LAUNCH_NODE_IPADDR:$MADENGINE_PORT
  echo "$SLURM_PROCID" >rank
fi
for name in credential.json data.json; do
  [ ! -e "$submit_folder/$name" ] || ln -sf "$submit_folder/$name" "$name"
done
for module in ${modules[@]+"${modules[@]}"}; do
  module load "$module"
done
if [ -n "$check" ] && ! "$python" "$run_folder/madengine.pyz" doctor ${engine[@]+"${engine[@]}"}; then
  echo "$(uname -n) is not fit for runs, says \`madengine doctor\` above; exclude it, or repair it" >&2
  exit 1
fi
# In place of this shell, so that it is Python which Slurm tells to end, and which then stops the container.
exec "$python" "$run_folder/madengine.pyz" "${words[@]}" "--manifest-file=$task/manifest.json"
