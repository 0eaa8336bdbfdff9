# shellcheck shell=bash disable=SC2034,SC2154 # job.sh follows, and the lines before these set the variables
# Before job.sh where nodes share nothing: this script brings madengine and the manifests, which are at its end, to a
# folder of the task on each of its nodes. A step that the submitting madengine attaches to the job brings what is
# private, and fetches the results (attach.sh).
set -eu -o pipefail
unset SLURM_EXPORT_ENV
folder=$node_folder/madengine-$run_id-${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
((${SLURM_RESTART_COUNT:-0} == 0)) || folder=$folder-attempt-$((SLURM_RESTART_COUNT + 1))
starter=(-I -c 'import sys; sys.path.insert(0, sys.argv[1]); from madengine.deploy.slurm.courier import main
sys.exit(main(sys.argv[2:]))' "$folder/madengine.pyz")
run_folder=$folder submit_folder=$folder script=job.sh
note_python() { # for the step
  if command -v "$python" >"$folder/python.part"; then
    export -p >"$folder/environment.part"
    mv "$folder/environment.part" "$folder/environment"
    mv "$folder/python.part" "$folder/python"
  fi
}
ready() { # once modules are loaded; waits for what is private where madengine is about to run
  note_python
  if [ "${1-}" = check ] || { ((nodes > 1)) && [ -z "${MADENGINE_NODES-}" ]; }; then
    return
  fi
  ((nodes == 1)) || echo "$SLURM_STEP_ID" >"$folder/step"
  for ((tenths = 0; tenths < 3000; tenths++)); do
    [ -n "$private" ] && [ ! -e "$folder/arrived" ] || break
    sleep 0.1
  done
  [ -z "$private" ] || [ -e "$folder/arrived" ] ||
    fail "its context or credentials did not come within 300 s; \`madengine fetch\` follows a run, and brings them"
  [ ! -e "$folder/context.json" ] || words+=("--additional-context-file=$folder/context.json")
  starter+=(work "$folder")
}
unpack() { # of a script
  sed '1,/^# payload$/d' "$1" | base64 -d | tar -xz --no-same-owner -C "$folder"
  note_python
}
end() { # before madengine has run: the reason is in the log, which comes back too
  code=$?
  if [ -d "$folder" ] && command -v "$python" >/dev/null; then
    "$python" "${starter[@]:0:4}" end "$folder" "$code" || true
  fi
  exit "$code"
}
if [ "${1-}" = check ] || [ -n "${MADENGINE_NODES-}" ]; then
  [ "${1-}" = check ] || trap end EXIT
  [ -e "$folder/madengine.pyz" ] || unpack "$folder/job.sh"
else
  mkdir -m 700 "$folder"
  exec >"$folder/log" 2>&1
  trap end EXIT
  unpack "$0"
  if ((nodes > 1)); then
    srun --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --relative=1 --chdir=/ mkdir -m 700 "$folder"
    sbcast "$0" "$folder/job.sh"
  fi
fi
