#!/bin/sh
# What happens inside a model's container, on an engine, in a pod and by hand:
#
#   docker run --rm IMAGE                                          the card's arguments
#   docker run --rm IMAGE /opt/madengine/entry.sh -- --batch 8     other arguments
#
# MADENGINE_LOG      file that gets the model's output; unset: stdout
# MADENGINE_TIMEOUT  seconds that the script may take, 0 is no limit; unset: the card's
# MADENGINE_KEEP     set: the container stays after the script, for somebody to look around
# MADENGINE_HOOKS    folder with what runs before and after the script (hooks.sh, and the files it needs for that in
#                    workspace/); unset: .hooks in the workspace, if it is there
# MADENGINE_ENVIRONMENT  file in the workspace that gets a description of what the script finds here; unset: none
# MADENGINE_REPORT   a pod's termination message: the output goes to stdout and to MADENGINE_LOG, and how it ended goes
#                    there, to the end of stdout (lines that begin with :::MADENGINE), and, for a sidecar, to .report
#
# Leaves entry.json in the workspace, gives everything there to the workspace's owner, and ends with the script's exit
# code, 124 at the time limit.
set -u

payload=${0%/*}
workspace=/myworkspace
grace=10             # seconds between TERM and KILL at the limit, and for the log's last lines
environment_limit=15 # seconds for the description of the environment

fail() {
  printf 'entry.sh: %s\n' "$1" >&2
  if [ -n "${MADENGINE_REPORT-}" ]; then
    printf 'entry.sh: %s\n' "$1" >"$workspace/.failed" 2>/dev/null
    printf 'entry.sh: %s\n' "$1" >"$MADENGINE_REPORT" 2>/dev/null
  fi
  exit 125
}

# Seconds since the machine started, from the kernel: no image lacks it, and no clock change moves it.
uptime_seconds() {
  read -r up rest </proc/uptime
  printf '%s' "$up"
}

# How many processes of this container the kernel has killed for want of memory, in cgroup v2 or v1.
oom_kills() {
  kills=0
  for events in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [ -r "$events" ] && while read -r name count; do
      [ "$name" != oom_kill ] || kills=$count
    done <"$events"
  done
  printf '%s' "$kills"
}

# Everything that the script prints goes through a pipe: writing to a file itself, a script's own
# `> /dev/stderr` would cut the log off.
open_log() {
  writer=
  if [ -z "${MADENGINE_LOG-}" ]; then
    exec 3>&1
  elif command -v mkfifo >/dev/null && command -v cat >/dev/null; then
    mkfifo "$pipe" || fail "$pipe: no pipe for the log"
    (
      trap '' TERM INT HUP
      [ -z "${MADENGINE_REPORT-}" ] || ! command -v tee >/dev/null || exec tee -a "$MADENGINE_LOG" <"$pipe"
      exec cat <"$pipe" >>"$MADENGINE_LOG"
    ) &
    writer=$!
    exec 3>"$pipe"
    rm -f "$pipe"
  else
    exec 3>>"$MADENGINE_LOG"
  fi
}

# The last lines are in the pipe when the script ends; something that it left running may hold the pipe open.
close_log() {
  exec 3>&-
  log_complete=true
  [ -n "$writer" ] || return 0
  kill_after "$grace" "$writer" KILL
  wait_for "$writer"
  end_timer
  [ "$status" -eq 0 ] || [ -f "$expired" ] || log_complete=false
}

# kill_after SECONDS PID SIGNAL...: the signals, a grace apart, unless end_timer comes first.
kill_after() {
  (
    pause=$1 target=$2
    shift 2
    for signal; do
      sleep "$pause" || exit
      : >"$expired"
      signal_group "$signal" "$target"
      pause=$grace
    done
  ) 3>&- &
  timer=$!
}

# To all that the process has started, where it leads a group.
signal_group() {
  kill "-$1" "-$2" 2>/dev/null || kill "-$1" "$2" 2>/dev/null
}

# shellcheck disable=SC2317,SC2329 # called by the trap
# Whoever stops a container gives it some seconds only, and files have to change hands in them.
stop_script() {
  grace=1
  stopped=true
  [ -z "${MADENGINE_REPORT-}" ] || : >"$workspace/.stopped"
  [ -n "$script" ] || return 0
  signal_group TERM "$script"
  (
    sleep 4 || exit
    signal_group KILL "$script"
  ) 3>&- &
}

# By KILL, for a trap that comes just before `wait` is seen too late by some shells. What sleeps in the
# timer ends with the container.
end_timer() {
  kill -s KILL "$timer" 2>/dev/null
  wait "$timer" 2>/dev/null
}

# A trap interrupts `wait`, so it is asked until the process has really gone, and once more: the shell
# may have collected it while the trap ran. 127 is then a process that it has told of before.
wait_for() {
  wait "$1"
  status=$?
  while kill -0 "$1" 2>/dev/null; do
    wait "$1"
    status=$?
  done
  wait "$1" 2>/dev/null
  last=$?
  [ "$last" -eq 127 ] || status=$last
}

# run_limited SECONDS PROGRAM...: a program of the model's in a group of its own, so that a signal reaches what it has
# started; its output goes to the log. `status` is how it ended, 124 at the limit (0 is none), which `late` says too.
run_limited() {
  limit_now=$1 late=false
  shift
  setsid=setsid
  command -v setsid >/dev/null || setsid=
  $setsid "$@" >&3 2>&3 3>&- </dev/null &
  script=$!
  [ -z "$stopped" ] || signal_group TERM "$script"
  [ "$limit_now" -eq 0 ] || kill_after "$limit_now" "$script" TERM KILL
  wait_for "$script"
  script=
  [ "$limit_now" -eq 0 ] || end_timer
  [ -f "$expired" ] || return 0
  status=124 late=true
  rm -f "$expired"
}

# hook KIND NAME PATH WORD...: a script before (KIND pre-script) or after (post-script) the model's. None follows a
# pre-script that failed. `failed_hook` is the first that did, NAME in JSON, and `failed_status` how.
# shellcheck disable=SC2317,SC2329 # called by hooks.sh
hook() {
  kind=$1 hook_name=$2 path=$3
  shift 3
  [ -z "$stopped" ] || return 0
  [ "$kind" != pre-script ] || [ "$failed_hook" = null ] || return 0
  case $path in
    /*) ;;
    *) [ ! -f "$workspace/$path" ] || path=$workspace/$path ;;
  esac
  printf 'entry.sh: %s %s\n' "$kind" "$path" >&3
  status=127
  if [ -f "$path" ]; then
    run_limited "$hook_limit" "$shell" "$path" "$@"
  else
    printf 'entry.sh: %s: no such script, neither in the image nor in the package here\n' "$path" >&3
    hook_name="${hook_name%\"} (no such script)\""
  fi
  [ "$status" -ne 0 ] && [ "$failed_hook" = null ] || return 0
  failed_hook=$hook_name failed_status=$status
}

# Whatever comes of it: what the description lacks is no reason to lose a measurement.
describe_environment() {
  [ -n "${MADENGINE_ENVIRONMENT-}" ] && [ -f "$payload/environment.sh" ] && [ -z "$stopped" ] || return 0
  run_limited "$environment_limit" "$shell" "$payload/environment.sh" "$workspace/$MADENGINE_ENVIRONMENT"
}

# The devices that a pod was given, which its sidecar can't see: AMD's render nodes, NVIDIA's own account.
note_gpus() {
  for node in /dev/dri/renderD*; do
    [ ! -e "$node" ] || [ ! -e /dev/kfd ] || printf 'gpu: %s\n' "$node"
  done
  command -v nvidia-smi >/dev/null && command -v timeout >/dev/null || return 0
  timeout 30 nvidia-smi --query-gpu=index,uuid,pci.bus_id,driver_version,memory.total,name \
    --format=csv,noheader,nounits 2>/dev/null | sed 's/^/gpu: /'
}

# How a pod's run ended, for whoever can read no files of it. A kubelet keeps 4096 bytes; without the last line it is cut off.
report() {
  {
    cat .entry.json .gpus
    if [ -z "$results" ]; then
      # What a pre-script says is no metric: then the mark goes along, and only what comes after it.
      [ -z "$script_mark" ] || printf '%s\n' "$script_mark"
      LC_ALL=C sed -n ${script_mark:+-e "/^$script_mark\$/,\$!d"} -e '/performance:/p' -e '/train_samples_per_second/p' \
        "${MADENGINE_LOG-}" | cut -c 1-500 | head -n 4
    else
      cat "$results" 2>/dev/null || cat "$model_directory/$results"
    fi
    printf '\nend\n'
  } >.report 2>/dev/null
  head -c 4096 .report >"$MADENGINE_REPORT"
  sed 's/^/:::MADENGINE /' .report
  chmod -R a+rX "$workspace" 2>/dev/null
}

give_to_owner() {
  # shellcheck disable=SC2046,SC2012 # words: mode, links, user and group as numbers
  set -- $(ls -nd "$workspace")
  [ $# -lt 4 ] || chown -Rh "$3:$4" "$workspace"
}

# The card's values; model.sh sets them, and the arguments too where none were given.
model_name='' model_directory='' model_script='' model_interpreter='' model_timeout='' model_results=''
arguments=card
if [ "${1-}" = -- ]; then
  arguments=given
  shift
fi
export arguments
[ -r "$payload/model.sh" ] || fail "$payload/model.sh: not in this image"
# shellcheck source=/dev/null
. "$payload/model.sh"
unset arguments

limit=${MADENGINE_TIMEOUT:-$model_timeout}
case $limit in
  '' | *[!0-9]*) fail "MADENGINE_TIMEOUT is '$limit', not a number of seconds" ;;
esac
scratch=/tmp
[ -w "$scratch" ] || scratch=$workspace
pipe=$scratch/.madengine-log-$$
expired=$scratch/.madengine-expired-$$
timer='' script='' stopped=''
failed_hook=null failed_status=0
shell=bash
command -v bash >/dev/null || shell='sh'

mkdir -p "$workspace" "$scratch" 2>/dev/null
cd "$workspace" || fail "$workspace: not there; mount a folder on it"
mkdir -p "$model_directory" || fail "$workspace/$model_directory: can't be made"
[ ! -d "$payload/code" ] || cp -RP "$payload/code/." "$model_directory/" ||
  fail "$workspace/$model_directory: the model's code can't be copied there"
cp -RL "$payload/scripts/." "$model_directory/" || fail "$workspace/$model_directory: the scripts can't be copied there"
cd "$model_directory" || fail "$workspace/$model_directory: not a folder"
results=${MAD_OUTPUT_CSV:-$model_results}
[ -z "$results" ] || rm -f "./$results" # a former run's, packed with the scripts, is no result
[ -f "$model_script" ] || fail "$model_script: not in the payload"
hooks=${MADENGINE_HOOKS:-$workspace/.hooks}
pre_scripts() { :; }
post_scripts() { :; }
wrapper='' hook_limit=600 script_mark=''
if [ -f "$hooks/hooks.sh" ]; then
  # shellcheck source=/dev/null
  . "$hooks/hooks.sh"
fi
# Of a file that both have the image's counts: it is what the digest stands for.
for files in "$hooks/workspace" "$payload/workspace"; do
  [ ! -d "$files" ] || cp -RL "$files/." "$workspace/" || fail "$files: can't be copied to $workspace"
done
command -v "$model_interpreter" >/dev/null || {
  [ "$model_interpreter" = bash ] || fail "$model_interpreter: not in this image"
  model_interpreter='sh'
}
export MAD_MODEL_NAME="${MAD_MODEL_NAME:-$model_name}" JENKINS_BUILD_NUMBER="${JENKINS_BUILD_NUMBER:-0}"
[ -z "$results" ] || export MAD_OUTPUT_CSV="$results"

[ -z "${MADENGINE_REPORT-}" ] || note_gpus >"$workspace/.gpus"
open_log
oom_kills=$(oom_kills)
trap stop_script TERM INT HUP
pre_scripts
describe_environment
code=$failed_status timed_out=false pre_failed=true
started=$(uptime_seconds)
if [ "$failed_hook" = null ]; then
  [ -z "$script_mark" ] || printf '%s\n' "$script_mark" >&3
  set -- "$model_interpreter" "$model_script" "$@"
  [ -z "$wrapper" ] || set -- "$shell" -c "$wrapper \"\$@\"" "$shell" "$@"
  run_limited "$limit" "$@"
  code=$status timed_out=$late pre_failed=false
fi
ended=$(uptime_seconds)
post_scripts
trap : TERM INT HUP

out_of_memory=false
[ "$(oom_kills)" = "$oom_kills" ] || out_of_memory=true
[ "$timed_out" = false ] || grace=1
if [ "$code" -eq 0 ]; then
  code=$failed_status
elif [ "$pre_failed" = false ]; then
  failed_hook=null # the script's own failure is the reason
fi
close_log
rm -f "$expired"

cd "$workspace" || exit "$code"
printf '{"exit_code": %d, "timed_out": %s, "out_of_memory": %s, "started": %s, "ended": %s, "log_complete": %s, ' \
  "$code" "$timed_out" "$out_of_memory" "$started" "$ended" "$log_complete" >.entry.json
printf '"failed_hook": %s}\n' "$failed_hook" >>.entry.json
[ -z "${MADENGINE_REPORT-}" ] || report
give_to_owner
mv .entry.json entry.json # the sign that all is done
if [ -n "${MADENGINE_KEEP-}" ]; then
  trap 'exit "$code"' TERM INT HUP
  while :; do
    sleep 3600 &
    wait $!
  done
fi
exit "$code"
