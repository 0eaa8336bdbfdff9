# shellcheck shell=bash disable=SC2154 # the lines before these set the variables
# A task of the array: the models of one folder of the run, on the node that Slurm has chosen.
set -eu
# `--export=NONE` is for this script; what it starts on nodes has its environment.
unset SLURM_EXPORT_ENV
cd "$run_folder" || {
  echo "$run_folder: not on this node; name a folder that all nodes share with --output-dir" >&2
  exit 1
}
for task in "$run_folder/$SLURM_ARRAY_TASK_ID"-*; do break; done
# A job that Slurm has queued again is another attempt, on any node.
export MADENGINE_ATTEMPT=$((${SLURM_RESTART_COUNT:-0} + 1))
results=$task/$(uname -n)
((MADENGINE_ATTEMPT == 1)) || results=$results-attempt-$MADENGINE_ATTEMPT
mkdir -p "$results"
cd "$results"
for name in credential.json data.json; do
  [ ! -e "$submit_folder/$name" ] || ln -sf "$submit_folder/$name" "$name"
done
for module in ${modules[@]+"${modules[@]}"}; do
  module load "$module"
done
# In place of this shell, so that it is Python which Slurm tells to end, and which then stops the container.
exec "$python" "$run_folder/madengine.pyz" "${words[@]}" "--manifest-file=$task/manifest.json"
