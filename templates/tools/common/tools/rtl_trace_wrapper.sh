#!/bin/sh
# rtl_trace_wrapper.sh COMMAND...: trace a command with rocm-trace-lite; RTL_MODE is lite or default.
set -u
output=rocm_trace_lite_output
mkdir -p "$output" || exit
if command -v rtl >/dev/null; then
  exec rtl trace --mode "${RTL_MODE:-lite}" -o "$output/trace.db" "$@"
fi
exec python3 -m rocm_trace_lite.cli trace --mode "${RTL_MODE:-lite}" -o "$output/trace.db" "$@"
