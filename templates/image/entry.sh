#!/bin/sh
# What happens inside a model's container, on an engine, in a pod and by hand:
#
#   docker run --rm IMAGE                                          the card's arguments
#   docker run --rm IMAGE /opt/madengine/entry.sh -- --batch 8     other arguments
#
# MADENGINE_LOG      file that gets the model's output; unset: stdout
# MADENGINE_TIMEOUT  seconds that the script may take, 0 is no limit; unset: the card's
# MADENGINE_OWNER    uid:gid that gets everything left in the workspace; unset: as it is
# MADENGINE_KEEP     set: the container stays after the script, for somebody to look around
#
# Leaves entry.json in the workspace and ends with the script's exit code, 124 at the time limit.
set -u

payload=${0%/*}
workspace=/myworkspace
grace=10 # seconds between TERM and KILL, and for the log's last lines

fail() {
  printf 'entry.sh: %s\n' "$1" >&2
  exit 125
}

# Seconds since the machine started, from the kernel: no image lacks it, and no clock change moves it.
uptime_seconds() {
  read -r up rest </proc/uptime
  printf '%s' "$up"
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
  wait "$writer" || log_complete=false
  end_timer
}

# kill_after SECONDS PID SIGNAL...: the signals, a grace apart, unless end_timer comes first.
kill_after() {
  (
    pause=$1 target=$2
    shift 2
    for signal; do
      sleep "$pause"
      : >"$expired"
      kill -s "$signal" "$target" 2>/dev/null
      pause=$grace
    done
  ) 3>&- &
  timer=$!
}

# By KILL, for a trap that comes just before `wait` is seen too late by some shells. What sleeps in the
# timer ends with the container.
end_timer() {
  kill -s KILL "$timer" 2>/dev/null
  wait "$timer" 2>/dev/null
}

# A trap interrupts `wait`, so it is asked until the script has really gone.
wait_for() {
  wait "$1"
  code=$?
  while kill -0 "$1" 2>/dev/null; do
    wait "$1"
    code=$?
  done
}

# The card's values; model.sh sets them, and the arguments too where none were given.
model_name='' model_directory='' model_script='' model_interpreter='' model_timeout='' model_results=''
arguments=card
if [ "${1-}" = -- ]; then
  arguments=given
  shift
fi
export arguments
# shellcheck source=/dev/null
. "$payload/model.sh" || fail "$payload/model.sh: not in this image"
unset arguments

limit=${MADENGINE_TIMEOUT:-$model_timeout}
case $limit in
  '' | *[!0-9]*) fail "MADENGINE_TIMEOUT is '$limit', not a number of seconds" ;;
esac
scratch=/tmp
[ -w "$scratch" ] || scratch=$workspace
pipe=$scratch/.madengine-log-$$
expired=$scratch/.madengine-expired-$$
timer=

mkdir -p "$workspace" "$scratch" 2>/dev/null
cd "$workspace" || fail "$workspace: not there; mount a folder on it"
mkdir -p "$model_directory" || fail "$workspace/$model_directory: can't be made"
cp -RL "$payload/scripts/." "$model_directory/" || fail "$workspace/$model_directory: the scripts can't be copied there"
cd "$model_directory" || fail "$workspace/$model_directory: not a folder"
[ -f "$model_script" ] || fail "$model_script: not in the payload"
command -v "$model_interpreter" >/dev/null || {
  [ "$model_interpreter" = bash ] || fail "$model_interpreter: not in this image"
  model_interpreter='sh'
}
export MAD_MODEL_NAME="${MAD_MODEL_NAME:-$model_name}" JENKINS_BUILD_NUMBER="${JENKINS_BUILD_NUMBER:-0}"
[ -z "$model_results" ] || export MAD_OUTPUT_CSV="${MAD_OUTPUT_CSV:-$model_results}"

open_log
started=$(uptime_seconds)
"$model_interpreter" "$model_script" "$@" >&3 2>&3 3>&- </dev/null &
script=$!
trap 'kill -s TERM "$script" 2>/dev/null' TERM INT HUP
[ "$limit" -eq 0 ] || kill_after "$limit" "$script" TERM KILL
wait_for "$script"
ended=$(uptime_seconds)
[ -z "$timer" ] || end_timer

timed_out=false
if [ -f "$expired" ]; then
  timed_out=true
  code=124
  rm -f "$expired"
fi
close_log
rm -f "$expired"

cd "$workspace" || exit "$code"
printf '{"exit_code": %d, "timed_out": %s, "started": %s, "ended": %s, "log_complete": %s}\n' \
  "$code" "$timed_out" "$started" "$ended" "$log_complete" >.entry.json
[ -z "${MADENGINE_OWNER-}" ] || chown -Rh "$MADENGINE_OWNER" "$workspace"
mv .entry.json entry.json # the sign that all is done
if [ -n "${MADENGINE_KEEP-}" ]; then
  trap 'exit "$code"' TERM INT HUP
  while :; do
    sleep 3600 &
    wait $!
  done
fi
exit "$code"
