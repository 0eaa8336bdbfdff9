#!/bin/sh
# rocprof_wrapper.sh [OPTION of the profiler]... -- COMMAND...: profile a command with this image's profiler.
#
# rocprofv3 gets the options as they are; without a folder or a format among them it writes CSV to rocprof_output. rocprof,
# where an image has only that, gets the trace that comes next to them.
set -u

PATH=$PATH:${ROCM_PATH:-/opt/rocm}/bin:/opt/rocm/bin
output=rocprof_output

options=0 folder='' format='' trace=--hip-trace counters=''
for word; do
  [ "$word" != -- ] || break
  options=$((options + 1))
  case $word in
    -d | --output-directory | --output-directory=*) folder=given ;;
    --output-format | --output-format=* | -f) format=given ;;
    --sys-trace) trace=--sys-trace ;;
    *.txt) counters=$word ;;
  esac
done
[ "$options" -lt $# ] || {
  echo 'rocprof_wrapper.sh: no -- before the command' >&2
  exit 2
}

if command -v rocprofv3 >/dev/null; then
  [ -n "$format" ] || set -- --output-format csv "$@"
  [ -n "$folder" ] || set -- --output-directory "$output" "$@"
  mkdir -p "$output" || exit
  exec rocprofv3 "$@"
elif command -v rocprof >/dev/null; then
  mkdir -p "$output" || exit
  shift $((options + 1))
  [ -z "$counters" ] || set -- -i "$counters" "$@"
  exec rocprof "$trace" -d "$output" -o "$output/results.csv" "$@"
fi
echo 'rocprof_wrapper.sh: neither rocprofv3 nor rocprof in this image, nor below /opt/rocm/bin' >&2
exit 127
