#!/bin/sh
# What runs inside a model's container, on an engine, in a pod and by hand:
#
#   docker run --rm IMAGE                                          the model entry's arguments
#   docker run --rm IMAGE /opt/madengine/entry.sh -- --batch 8     other arguments
#
# MADENGINE_LOG      file for the model's output; unset: stdout
# MADENGINE_TIMEOUT  seconds that the script may take, 0 is no limit; unset: the model entry's
# MADENGINE_KEEP     set: the container keeps running after the script, for debugging
# MADENGINE_WORKSPACE  the run's own folder, where /myworkspace is one of many runs; unset: /myworkspace
# MADENGINE_HOOKS    folder with what runs before and after the script (hooks.sh, and the files that it needs in
#                    workspace/); unset: .hooks in the workspace, if it exists
# MADENGINE_ENVIRONMENT       file in the workspace for a description of what the script finds here; unset: none
# MADENGINE_ENVIRONMENT_MODE  lite, or full with every package; unset: lite
# MADENGINE_REPORT   a pod's termination message: the output goes to stdout and to MADENGINE_LOG, and the outcome goes
#                    there, to the end of stdout (lines that begin with :::MADENGINE), and, for a sidecar, to .report
#
# The script is told to stop when nothing holds the pipe .owner-<boot id> in the workspace open any more, as madengine does
# while it lives; without such a pipe, or with that of another kernel, it runs on.
#
# Leaves entry.json in the workspace, gives everything there to the workspace's owner, and ends with the script's exit
# code, 124 at the time limit, 143 if it was told to stop and ended with 0.
#
# The script and the hooks get the environment, signals, umask, limits and open files of `docker run IMAGE`: the
# variables above are removed, MAD_MODEL_NAME, MAD_OUTPUT_CSV and JENKINS_BUILD_NUMBER are added, and for AMD GPUs
# ROCM_PATH where the image has none.
set -u

_madengine_payload=${0%/*}
_madengine_workspace=${MADENGINE_WORKSPACE:-/myworkspace}
_madengine_grace=10             # seconds between TERM and KILL at the limit, and for the log's last lines
_madengine_owner_wait=60        # seconds until a madengine that doesn't open its pipe counts as killed
_madengine_environment_limit=15 # seconds for the description of the environment
_madengine_newline='
'

_madengine_fail() {
  printf 'entry.sh: %s\n' "$1" >&2
  if [ -n "$_madengine_report" ]; then
    printf 'entry.sh: %s\n' "$1" >"$_madengine_workspace/.failed" 2>/dev/null
    printf 'entry.sh: %s\n' "$1" >"$_madengine_report" 2>/dev/null
  fi
  exit 125
}

# --- what the kernel says; by cat, for `read` never works again in busybox 1.38 once a signal was trapped ---

# Seconds since the machine started: no clock change moves them.
_madengine_uptime() {
  _madengine_seconds=$(cat /proc/uptime)
  printf '%s' "${_madengine_seconds%% *}"
}

# How many processes of this container the kernel has killed for lack of memory, in cgroup v2 or v1.
_madengine_oom_kills() {
  _madengine_kills=0
  for _madengine_file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [ -r "$_madengine_file" ] || continue
    # shellcheck disable=SC2046 # words: names and numbers in turn
    set -- $(cat "$_madengine_file")
    while [ $# -gt 1 ]; do
      [ "$1" != oom_kill ] || _madengine_kills=$2
      shift 2
    done
  done
  printf '%s' "$_madengine_kills"
}

# Where something is mounted in here, each path between two //, which no path holds.
_madengine_list_mounts() {
  sed -e 's|^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .*|//\1//|' -e 's|\\040| |g' -e 's|\\011|	|g' -e 's|\\012|\
|g' -e 's|\\134|\\|g' /proc/self/mountinfo
}

# --- the log ---

# Not every image has mkfifo, and not every file system has pipes.
_madengine_make_pipe() {
  command -v mkfifo >/dev/null && mkfifo "$1" 2>/dev/null
}

# All output goes through a pipe: if the script wrote to the file itself, its own `> /dev/stderr` would truncate it.
_madengine_open_log() {
  _madengine_writer=
  if [ -z "$_madengine_log" ]; then
    exec 3>&1
  elif command -v cat >/dev/null && _madengine_make_pipe "$_madengine_pipe"; then
    (
      trap '' TERM INT HUP
      [ -z "$_madengine_report" ] || ! command -v tee >/dev/null || exec tee -a "$_madengine_log" <"$_madengine_pipe"
      exec cat <"$_madengine_pipe" >>"$_madengine_log"
    ) &
    _madengine_writer=$!
    exec 3>"$_madengine_pipe"
    rm -f "$_madengine_pipe"
  else
    exec 3>>"$_madengine_log"
  fi
}

# The last lines are in the pipe when the script ends; a process that it left running may hold the pipe open.
_madengine_close_log() {
  exec 3>&-
  _madengine_log_complete=true
  [ -n "$_madengine_writer" ] || return 0
  _madengine_kill_after "$_madengine_grace" "$_madengine_writer" KILL
  _madengine_wait_for "$_madengine_writer"
  _madengine_end_timer
  [ "$_madengine_status" -eq 0 ] || [ -f "$_madengine_expired" ] || _madengine_log_complete=false
}

# --- signals ---

# _madengine_kill_after SECONDS PID SIGNAL...: send the signals, a grace apart, unless _madengine_end_timer comes first.
_madengine_kill_after() {
  (
    _madengine_pause=$1 _madengine_target=$2
    shift 2
    for _madengine_signal; do
      sleep "$_madengine_pause" || exit
      : >"$_madengine_expired"
      _madengine_signal_group "$_madengine_signal" "$_madengine_target"
      _madengine_pause=$_madengine_grace
    done
  ) 3>&- &
  _madengine_timer=$!
}

# To all that the process has started, if it leads a group.
_madengine_signal_group() {
  kill "-$1" "-$2" 2>/dev/null || kill "-$1" "$2" 2>/dev/null
}

# shellcheck disable=SC2317,SC2329 # called by the trap
# An engine that stops a container gives it only some seconds, and files have to change hands in them.
_madengine_stop_script() {
  _madengine_grace=1
  _madengine_stopped=true
  [ -z "$_madengine_report" ] || : >"$_madengine_workspace/.stopped"
  [ -n "$_madengine_script" ] || return 0
  _madengine_signal_group TERM "$_madengine_script"
  (
    sleep 4 || exit
    _madengine_signal_group KILL "$_madengine_script"
  ) 3>&- &
}

# A madengine that is killed stops nothing itself, and a GPU would be held until the limit. Nobody opens the pipe's other
# end if it was killed before. The pipe is removed once it is open, for scripts that read all files here.
_madengine_watch_owner() {
  _madengine_watcher=
  _madengine_owner=$_madengine_workspace/.owner-$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
  [ -p "$_madengine_owner" ] && [ -r "$_madengine_owner" ] || return 0
  (
    trap '' TERM INT HUP
    (sleep "$_madengine_owner_wait" && kill -s TERM $$) &
    _madengine_waiting=$!
    # shellcheck disable=SC2094 # only its name goes
    {
      kill -s KILL "$_madengine_waiting"
      rm -f "$_madengine_owner"
      cat
    } <"$_madengine_owner" && kill -s TERM $$
  ) >/dev/null 2>&1 3>&- &
  _madengine_watcher=$!
}

# By KILL: some shells see a trap that comes just before `wait` too late. The timer's sleep ends with the container.
_madengine_end_timer() {
  kill -s KILL "$_madengine_timer" 2>/dev/null
  wait "$_madengine_timer" 2>/dev/null
}

# A trap interrupts `wait`, so this waits until the process is really gone, and once more: the shell may have collected
# it while the trap ran. 127 is then a process that it has reported before.
_madengine_wait_for() {
  wait "$1"
  _madengine_status=$?
  while kill -0 "$1" 2>/dev/null; do
    wait "$1"
    _madengine_status=$?
  done
  wait "$1" 2>/dev/null
  _madengine_last=$?
  [ "$_madengine_last" -eq 127 ] || _madengine_status=$_madengine_last
}

# --- the model's programs ---

# The environment that this container was started with, and the one that this shell passes on, a line a variable (\1 is
# a newline in it): shells drop some names and set others.
_madengine_note_environment() {
  command -v env >/dev/null && command -v tr >/dev/null || return 0
  _madengine_first=$(tr '\000\n' '\n\001' <"/proc/$$/environ")
  _madengine_passed=$(sh -c 'cat /proc/self/environ' | tr '\000\n' '\n\001')
}

# _madengine_start PROGRAM...: start a program, with what differs from the first environment put right.
_madengine_start() {
  [ -n "$_madengine_first" ] || {
    _madengine_start_group "$@"
    return
  }
  set -f
  _madengine_ifs=$IFS IFS=$_madengine_newline
  for _madengine_line in $_madengine_first; do
    case $_madengine_newline$_madengine_passed$_madengine_newline in
      *"$_madengine_newline$_madengine_line$_madengine_newline"*) continue ;;
    esac
    case ${_madengine_line%%=*} in
      '' | MADENGINE_LOG | MADENGINE_TIMEOUT | MADENGINE_KEEP | MADENGINE_HOOKS | MADENGINE_REPORT) continue ;;
      MADENGINE_ENVIRONMENT | MADENGINE_ENVIRONMENT_MODE | MADENGINE_WORKSPACE) continue ;;
    esac
    _madengine_line=$(printf '%s.' "$_madengine_line" | tr '\001' '\n')
    set -- "${_madengine_line%.}" "$@"
  done
  set -- -- "$@"
  for _madengine_line in $_madengine_passed; do
    case $_madengine_newline$_madengine_first in
      *"$_madengine_newline${_madengine_line%%=*}="*) ;;
      *) set -- -u "${_madengine_line%%=*}" "$@" ;;
    esac
  done
  IFS=$_madengine_ifs
  set +f
  _madengine_start_group env "$@"
}

# _madengine_start_group PROGRAM...: start a program in a group of its own, so that a signal reaches what it has started;
# `_madengine_script` is the group, `_madengine_job` ends with the program. Not as `PROGRAM &`: a shell without job
# control has it ignore INT and QUIT, for good. The second setsid, whose process leads a group, goes into the background
# by itself.
_madengine_start_group() {
  if ! command -v setsid >/dev/null || ! _madengine_make_pipe "$_madengine_ending"; then
    "$@" >&3 2>&3 3>&- </dev/null &
    _madengine_script=$! _madengine_job=$!
    return
  fi
  (
    trap '' TERM INT HUP
    exec cat "$_madengine_ending" >"$_madengine_code"
  ) 3>&- &
  _madengine_job=$!
  # shellcheck disable=SC2016 # for the inner shell
  _madengine_script=$(
    exec setsid setsid sh -c '
      trap : TERM INT HUP QUIT
      exec 4>"$1" 3>&2 2>/dev/null
      echo $$
      exec >/dev/null
      shift
      (exec "$@" >&3 2>&3 3>&- 4>&- </dev/null)
      echo $? >&4' sh "$_madengine_ending" "$@" 2>&3 3>&-
  )
  rm -f "$_madengine_ending"
  [ -z "$_madengine_script" ] || return 0
  kill -s KILL "$_madengine_job"
  _madengine_wait_for "$_madengine_job"
  printf 126 >"$_madengine_code" # what could not be started has said why in the log
}

# _madengine_run_limited SECONDS PROGRAM...: run a program, its output goes to the log. `_madengine_status` is its exit
# code, 124 at the limit (0 is none), and then `_madengine_late` is true.
_madengine_run_limited() {
  _madengine_limit_now=$1 _madengine_late=false
  shift
  _madengine_start "$@"
  [ -z "$_madengine_stopped" ] || _madengine_signal_group TERM "$_madengine_script"
  [ "$_madengine_limit_now" -eq 0 ] || _madengine_kill_after "$_madengine_limit_now" "$_madengine_script" TERM KILL
  _madengine_wait_for "$_madengine_job"
  if [ "$_madengine_job" != "$_madengine_script" ]; then
    _madengine_status=$(cat "$_madengine_code")
    _madengine_status=${_madengine_status:-137} # killed with its group before it could write its exit code
    rm -f "$_madengine_code"
  fi
  _madengine_script=
  [ "$_madengine_limit_now" -eq 0 ] || _madengine_end_timer
  [ -f "$_madengine_expired" ] || return 0
  _madengine_status=124 _madengine_late=true
  rm -f "$_madengine_expired"
}

# hook KIND NAME PATH WORD...: a script before (KIND pre-script) or after (post-script) the model's. None follows a
# pre-script that failed. `_madengine_failed_hook` is the first that did, NAME in JSON, and `_madengine_failed_status` its
# exit code. hooks.sh calls it by this name, also in images of other versions.
# shellcheck disable=SC2317,SC2329 # called by hooks.sh
hook() {
  _madengine_kind=$1 _madengine_hook_name=$2 _madengine_path=$3
  shift 3
  [ -z "$_madengine_stopped" ] || return 0
  [ "$_madengine_kind" != pre-script ] || [ "$_madengine_failed_hook" = null ] || return 0
  case $_madengine_path in
    /*) ;;
    *) [ ! -f "$_madengine_workspace/$_madengine_path" ] || _madengine_path=$_madengine_workspace/$_madengine_path ;;
  esac
  printf 'entry.sh: %s %s\n' "$_madengine_kind" "$_madengine_path" >&3
  _madengine_status=127
  if [ -f "$_madengine_path" ]; then
    _madengine_run_limited "$_madengine_hook_limit" "$_madengine_shell" "$_madengine_path" "$@"
  else
    printf 'entry.sh: %s: no such script, neither in the image nor in the package here\n' "$_madengine_path" >&3
    _madengine_hook_name="${_madengine_hook_name%\"} (no such script)\""
  fi
  [ "$_madengine_status" -ne 0 ] && [ "$_madengine_failed_hook" = null ] || return 0
  _madengine_failed_hook=$_madengine_hook_name _madengine_failed_status=$_madengine_status
}

# A description that fails is no reason to lose a measurement.
# A folder is ROCm's if it has one of its programs, or TheRock's mark.
_madengine_is_rocm() {
  case $1 in '' | / | /usr | /usr/local) return 1 ;; esac
  for _madengine_file in bin/rocminfo bin/amd-smi bin/rocm-smi bin/hipconfig share/therock/therock_manifest.json \
    share/therock/dist_info.json; do
    [ ! -f "$1/$_madengine_file" ] || return 0
  done
  return 1
}

# Where ROCm is in here: packages and TheRock put it into different places.
_madengine_find_rocm() {
  _madengine_rocm=${ROCM_HOME-}
  _madengine_is_rocm "$_madengine_rocm" && return
  for _madengine_rocm in /opt/rocm /opt/rocm-*; do
    _madengine_is_rocm "$_madengine_rocm" && return
  done
  _madengine_rocm=$(rocm-sdk path --root 2>/dev/null)
  _madengine_is_rocm "$_madengine_rocm" && return
  for _madengine_rocm in "${HIP_PATH-}" /usr/local/rocm "${HOME-}/rocm" "${HOME-}/therock"; do
    _madengine_is_rocm "$_madengine_rocm" && return
  done
  for _madengine_program in rocminfo amd-smi rocm-smi; do
    _madengine_rocm=$(command -v "$_madengine_program") || continue
    _madengine_rocm=${_madengine_rocm%/bin/*}
    _madengine_is_rocm "$_madengine_rocm" && return
  done
  _madengine_rocm=/opt/rocm
  return 1
}

# ROCM_PATH of a container for AMD GPUs: what MAD_ROCM_PATH or the image say, else where it is found.
_madengine_set_rocm_path() {
  [ -z "${MAD_ROCM_PATH-}" ] || export ROCM_PATH="$MAD_ROCM_PATH"
  [ "${MAD_GPU_VENDOR-}" = AMD ] && [ -z "${ROCM_PATH-}" ] || return 0
  _madengine_find_rocm || _madengine_warning='no ROCm in this image: ROCM_PATH is /opt/rocm'
  export ROCM_PATH="$_madengine_rocm"
}

_madengine_describe_environment() {
  [ -n "$_madengine_environment" ] && [ -f "$_madengine_payload/environment.sh" ] && [ -z "$_madengine_stopped" ] ||
    return 0
  _madengine_run_limited "$_madengine_environment_limit" "$_madengine_shell" "$_madengine_payload/environment.sh" \
    "$_madengine_workspace/$_madengine_environment" "$_madengine_environment_mode"
}

# --- what is left ---

# The devices that a pod was given, which its sidecar can't see: AMD's render nodes, NVIDIA's own list.
_madengine_note_gpus() {
  for _madengine_node in /dev/dri/renderD*; do
    [ ! -e "$_madengine_node" ] || [ ! -e /dev/kfd ] || printf 'gpu: %s\n' "$_madengine_node"
  done
  command -v nvidia-smi >/dev/null && command -v timeout >/dev/null || return 0
  timeout 30 nvidia-smi --query-gpu=index,uuid,pci.bus_id,driver_version,memory.total,name \
    --format=csv,noheader,nounits 2>/dev/null | sed 's/^/gpu: /'
}

# The outcome of a pod's run, for a reader without access to its files. A kubelet keeps 4096 bytes; without the last line
# it is truncated.
_madengine_write_report() {
  {
    cat .entry.json .gpus
    if [ -z "$_madengine_results" ]; then
      # A pre-script's output holds no metric: then the mark goes along, and only what comes after it.
      [ -z "$_madengine_script_mark" ] || printf '%s\n' "$_madengine_script_mark"
      LC_ALL=C sed -n ${_madengine_script_mark:+-e "/^$_madengine_script_mark\$/,\$!d"} -e '/performance:/p' \
        -e '/train_samples_per_second/p' "$_madengine_log" | cut -c 1-500 | head -n 4
    else
      cat "$_madengine_results" 2>/dev/null || cat "$_madengine_model_directory/$_madengine_results"
    fi
    printf '\nend\n'
  } >.report 2>/dev/null
  head -c 4096 .report >"$_madengine_report"
  sed 's/^/:::MADENGINE /' .report
  _madengine_change "$(pwd -P)" chmod a+rX 2>/dev/null
}

_madengine_give_to_owner() {
  # shellcheck disable=SC2046,SC2012 # words: mode, links, user and group as numbers
  set -- $(ls -nd .)
  [ $# -lt 4 ] || _madengine_change "$(pwd -P)" chown -h "$3:$4"
}

# _madengine_change FOLDER PROGRAM WORD...: run chown or chmod for a folder and all in it, but for what is mounted there:
# that is the host's.
# shellcheck disable=SC2086 # words
_madengine_change() (
  _madengine_folder=$1 _madengine_program=$2
  shift 2
  case $_madengine_mounts in
    *"//$_madengine_folder/"[!/]*) ;;
    *)
      "$_madengine_program" -R "$@" "$_madengine_folder"
      return
      ;;
  esac
  "$_madengine_program" "$@" "$_madengine_folder"
  _madengine_words=$*
  set --
  for _madengine_path in "$_madengine_folder"/* "$_madengine_folder"/.[!.]* "$_madengine_folder"/..?*; do
    [ -e "$_madengine_path" ] || [ -L "$_madengine_path" ] || continue
    case $_madengine_mounts in
      *"//$_madengine_path//"*) continue ;;
      *"//$_madengine_path/"*) _madengine_change "$_madengine_path" "$_madengine_program" $_madengine_words ;;
      *) set -- "$@" "$_madengine_path" ;;
    esac
    [ $# -lt 200 ] || {
      "$_madengine_program" -R $_madengine_words "$@"
      set --
    }
  done
  [ $# -eq 0 ] || "$_madengine_program" -R $_madengine_words "$@"
)

# --- the run ---

_madengine_log=${MADENGINE_LOG-} _madengine_report=${MADENGINE_REPORT-} _madengine_keep=${MADENGINE_KEEP-}
_madengine_environment=${MADENGINE_ENVIRONMENT-} _madengine_environment_mode=${MADENGINE_ENVIRONMENT_MODE:-lite}
# The model entry's values; model.sh sets them, and the arguments too unless some were given.
_madengine_model_name='' _madengine_model_directory='' _madengine_model_script='' _madengine_model_interpreter=''
_madengine_model_timeout='' _madengine_model_results=''
_madengine_arguments=entry
if [ "${1-}" = -- ]; then
  # shellcheck disable=SC2034 # read by model.sh
  _madengine_arguments=given
  shift
fi
[ -r "$_madengine_payload/model.sh" ] || _madengine_fail "$_madengine_payload/model.sh: not in this image"
# shellcheck source=/dev/null
. "$_madengine_payload/model.sh"

_madengine_limit=${MADENGINE_TIMEOUT:-$_madengine_model_timeout}
case $_madengine_limit in
  '' | *[!0-9]*) _madengine_fail "MADENGINE_TIMEOUT: expected a number of seconds, got '$_madengine_limit'" ;;
esac
_madengine_hooks=${MADENGINE_HOOKS:-$_madengine_workspace/.hooks}
unset MADENGINE_LOG MADENGINE_TIMEOUT MADENGINE_KEEP MADENGINE_HOOKS MADENGINE_REPORT
unset MADENGINE_ENVIRONMENT MADENGINE_ENVIRONMENT_MODE MADENGINE_WORKSPACE
_madengine_scratch=/tmp
[ -w "$_madengine_scratch" ] || _madengine_scratch=$_madengine_workspace
_madengine_pipe=$_madengine_scratch/.madengine-log-$$
_madengine_expired=$_madengine_scratch/.madengine-expired-$$
_madengine_ending=$_madengine_scratch/.madengine-ending-$$
_madengine_code=$_madengine_scratch/.madengine-code-$$
_madengine_timer='' _madengine_script='' _madengine_job='' _madengine_stopped=''
_madengine_first='' _madengine_passed=''
_madengine_failed_hook=null _madengine_failed_status=0
_madengine_shell=bash
command -v bash >/dev/null || _madengine_shell='sh'

mkdir -p "$_madengine_workspace" "$_madengine_scratch" 2>/dev/null
cd "$_madengine_workspace" || _madengine_fail "$_madengine_workspace: no such folder; mount one there"
mkdir -p "$_madengine_model_directory" ||
  _madengine_fail "$_madengine_workspace/$_madengine_model_directory: can't be made"
[ ! -d "$_madengine_payload/code" ] || cp -RP "$_madengine_payload/code/." "$_madengine_model_directory/" ||
  _madengine_fail "$_madengine_workspace/$_madengine_model_directory: the model's code can't be copied there"
cp -RL "$_madengine_payload/scripts/." "$_madengine_model_directory/" ||
  _madengine_fail "$_madengine_workspace/$_madengine_model_directory: the scripts can't be copied there"
cd "$_madengine_model_directory" || _madengine_fail "$_madengine_workspace/$_madengine_model_directory: not a folder"
_madengine_results=${MAD_OUTPUT_CSV:-$_madengine_model_results}
[ -z "$_madengine_results" ] || rm -f "./$_madengine_results" # an earlier run's, packed with the scripts, is no result
[ -f "$_madengine_model_script" ] || _madengine_fail "$_madengine_model_script: not in the payload"
pre_scripts() { :; }
post_scripts() { :; }
_madengine_wrapper='' _madengine_hook_limit=600 _madengine_script_mark=''
if [ -f "$_madengine_hooks/hooks.sh" ]; then
  # shellcheck source=/dev/null
  . "$_madengine_hooks/hooks.sh"
  # shellcheck disable=SC2154 # hooks.sh sets them
  _madengine_wrapper=$wrapper _madengine_hook_limit=$hook_limit _madengine_script_mark=$script_mark
fi
# A file that the image has too is the image's: that is what the digest stands for.
for _madengine_files in "$_madengine_hooks/workspace" "$_madengine_payload/workspace"; do
  [ ! -d "$_madengine_files" ] || cp -RL "$_madengine_files/." "$_madengine_workspace/" ||
    _madengine_fail "$_madengine_files: can't be copied to $_madengine_workspace"
done
command -v "$_madengine_model_interpreter" >/dev/null || {
  [ "$_madengine_model_interpreter" = bash ] || _madengine_fail "$_madengine_model_interpreter: not in this image"
  _madengine_model_interpreter='sh'
}
_madengine_note_environment
export MAD_MODEL_NAME="${MAD_MODEL_NAME:-$_madengine_model_name}" JENKINS_BUILD_NUMBER="${JENKINS_BUILD_NUMBER:-0}"
[ -z "$_madengine_results" ] || export MAD_OUTPUT_CSV="$_madengine_results"
_madengine_warning=''
_madengine_set_rocm_path

[ -z "$_madengine_report" ] || _madengine_note_gpus >"$_madengine_workspace/.gpus"
_madengine_open_log
[ -z "$_madengine_warning" ] || printf 'entry.sh: %s\n' "$_madengine_warning" >&3
_madengine_oom_kills=$(_madengine_oom_kills)
trap _madengine_stop_script TERM INT HUP
_madengine_watch_owner
pre_scripts
_madengine_describe_environment
_madengine_exit_code=$_madengine_failed_status _madengine_timed_out=false _madengine_pre_failed=true
_madengine_started=$(_madengine_uptime)
if [ "$_madengine_failed_hook" = null ]; then
  [ -z "$_madengine_script_mark" ] || printf '%s\n' "$_madengine_script_mark" >&3
  set -- "$_madengine_model_interpreter" "$_madengine_model_script" "$@"
  [ -z "$_madengine_wrapper" ] || set -- "$_madengine_shell" -c "$_madengine_wrapper \"\$@\"" "$_madengine_shell" "$@"
  _madengine_run_limited "$_madengine_limit" "$@"
  _madengine_exit_code=$_madengine_status _madengine_timed_out=$_madengine_late _madengine_pre_failed=false
fi
# A script that was told to stop has not done its work, whatever it made of that.
_madengine_was_stopped=${_madengine_stopped:-false}
[ "$_madengine_was_stopped" = false ] || [ "$_madengine_exit_code" -ne 0 ] || _madengine_exit_code=143
_madengine_ended=$(_madengine_uptime)
post_scripts
trap : TERM INT HUP
[ -z "$_madengine_watcher" ] || kill -s KILL "$_madengine_watcher" 2>/dev/null

_madengine_out_of_memory=false
[ "$(_madengine_oom_kills)" = "$_madengine_oom_kills" ] || _madengine_out_of_memory=true
[ "$_madengine_timed_out" = false ] || _madengine_grace=1
if [ "$_madengine_exit_code" -eq 0 ]; then
  _madengine_exit_code=$_madengine_failed_status
elif [ "$_madengine_pre_failed" = false ]; then
  _madengine_failed_hook=null # the script's own failure is the reason
fi
_madengine_close_log
_madengine_log_bytes=0
[ -z "$_madengine_log" ] || _madengine_log_bytes=$(wc -c <"$_madengine_log" 2>/dev/null) || _madengine_log_bytes=0
rm -f "$_madengine_expired"

cd "$_madengine_workspace" || exit "$_madengine_exit_code"
printf '{"exit_code": %d, "timed_out": %s, "out_of_memory": %s, "started": %s, "ended": %s, "log_complete": %s, ' \
  "$_madengine_exit_code" "$_madengine_timed_out" "$_madengine_out_of_memory" "$_madengine_started" \
  "$_madengine_ended" "$_madengine_log_complete" >.entry.json
printf '"failed_hook": %s, "stopped": %s, "log_bytes": %d}\n' "$_madengine_failed_hook" "$_madengine_was_stopped" \
  "$_madengine_log_bytes" >>.entry.json
_madengine_mounts=$(_madengine_list_mounts 2>/dev/null)
[ -z "$_madengine_report" ] || _madengine_write_report
_madengine_give_to_owner
mv .entry.json entry.json # the sign that all is done
if [ -n "$_madengine_keep" ]; then
  trap 'exit "$_madengine_exit_code"' TERM INT HUP
  while :; do
    sleep 3600 &
    wait $!
  done
fi
exit "$_madengine_exit_code"
