#!/bin/sh
# rocprof.sh [OPTION of rocprofv3]... -- COMMAND...: profile a command with this image's profiler.
#
# Writes to rocprof_output in the current folder.
set -u

PATH=$PATH:${ROCM_PATH:-/opt/rocm}/bin:/opt/rocm/bin
output=rocprof_output

options=
while [ "${1-}" != -- ]; do
  [ $# -gt 0 ] || {
    echo 'rocprof.sh: no -- before the command' >&2
    exit 2
  }
  options="$options $1"
  shift
done
shift

mkdir -p "$output" || exit
if command -v rocprofv3 >/dev/null; then
  # shellcheck disable=SC2086 # options are words
  exec rocprofv3 $options --output-directory "$output" --output-format csv -- "$@"
elif command -v rocprof >/dev/null; then
  case $options in
    *sys*) options=--sys-trace ;;
    *) options=--hip-trace ;;
  esac
  exec rocprof "$options" -d "$output" -o "$output/results.csv" "$@"
fi
echo 'rocprof.sh: neither rocprofv3 nor rocprof in this image, nor below /opt/rocm/bin' >&2
exit 127
