# shellcheck shell=bash disable=SC2154 # the lines before these set the variables
# A task of the array: the models of one folder of the run, on the nodes that Slurm has chosen.
set -eu
# `--export=NONE` is for this script; what it starts on nodes has its environment.
unset SLURM_EXPORT_ENV
fail() { # its last line is the reason of the rows
  echo "madengine: error: $(uname -n): $*" >&2
  exit 1
}
cd "$run_folder" 2>/dev/null || fail "$run_folder is not there; name a folder that all nodes share with --output-dir"
set +u # the function `module` of some sites uses variables that are not set
for module in ${modules[@]+"${modules[@]}"}; do
  module load "$module" || fail "module load $module failed"
done
set -u
command -v "$python" >/dev/null || fail "$python is not there; install Python 3.10 or newer, or name it with --remote-python"
[ -z "${folder-}" ] || ready "$@" # unshared.sh
if [ -n "$check" ] && { ((nodes == 1)) || [ "${1-}" = check ]; }; then
  "$python" "$run_folder/madengine.pyz" doctor ${engine[@]+"${engine[@]}"} ||
    fail "not fit for runs, as \`madengine doctor\` says above; exclude the node, or repair it"
fi
if [ "${1-}" = check ]; then
  "$python" "$run_folder/madengine.pyz" --version >/dev/null # where Python is too old, this says so
  exit
fi

if ((nodes > 1)) && [ -z "${MADENGINE_NODES-}" ]; then
  # On the first node: this script again, on every node, where it knows the first one's address. At first for what keeps
  # a node from starting, about which the others would hear nothing.
  each=(--nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=0)
  srun "${each[@]}" bash -l -s check < <(sed '/^# payload$/q' "$0")
  code='from madengine.programs.preflight import free_port; print(free_port())'
  MADENGINE_PORT=$(PYTHONPATH=$run_folder/madengine.pyz "$python" -c "$code")
  MADENGINE_RENDEZVOUS_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  export MADENGINE_NODES=$nodes MADENGINE_PORT MADENGINE_RENDEZVOUS_KEY
  srun "${each[@]}" bash -l "$run_folder/$script" &
  step=$!
  trap 'scancel --quiet --signal=TERM "$SLURM_JOB_ID.$(cat "$run_folder/step" 2>/dev/null || echo 1)" || true' TERM
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
# In place of this shell, so that it is Python which Slurm tells to end, and which then stops the container.
exec "$python" "${starter[@]}" "${words[@]}" "--manifest-file=$task/manifest.json"
