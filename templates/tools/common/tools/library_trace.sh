#!/bin/sh
# library_trace.sh COMMAND...: run a command with the logging of ROCm libraries on, and count their calls.
#
# ROCBLAS_TRACE, HIPBLASLT_TRACE, MIOPEN_TRACE, TENSILE_TRACE, RCCL_TRACE say whose. Their lines are taken out of the
# output and counted in library_trace.csv (OUTPUT_FILE names another file); those of RCCL stay in the output.
set -u

# One around another does everything twice.
case ${1-} in
  python*) case ${2-} in *get_library_trace.py) shift 2 ;; esac ;;
esac

[ -z "${ROCBLAS_TRACE-}" ] || export ROCBLAS_LAYER="${ROCBLAS_LAYER:-6}"
[ -z "${HIPBLASLT_TRACE-}" ] || export HIPBLASLT_LOG_MASK="${HIPBLASLT_LOG_MASK:-32}"
[ -z "${MIOPEN_TRACE-}" ] || export MIOPEN_ENABLE_LOGGING_CMD="${MIOPEN_ENABLE_LOGGING_CMD:-1}"
[ -z "${TENSILE_TRACE-}" ] || export TENSILE_DB="${TENSILE_DB:-0x8000}"
[ -z "${RCCL_TRACE-}" ] || export NCCL_DEBUG="${NCCL_DEBUG:-INFO}" NCCL_DEBUG_SUBSYS="${NCCL_DEBUG_SUBSYS:-INIT,COLL}" \
  RCCL_KERNEL_COLL_TRACE_ENABLE="${RCCL_KERNEL_COLL_TRACE_ENABLE:-1}"

# shellcheck disable=SC2016 # awk's
count='
function note(library, call) { calls[library "\t" call]++ }
function quoted(text) {
  if (text ~ /[",]/) { gsub(/"/, "\"\"", text); text = "\"" text "\"" }
  return text
}
ENVIRON["ROCBLAS_TRACE"] != "" && match($0, /\.\/rocblas-bench .*/) { note("rocblas", substr($0, RSTART)); next }
ENVIRON["ROCBLAS_TRACE"] != "" && /rocblas_function: / { note("rocblas_function", $0); next }
ENVIRON["HIPBLASLT_TRACE"] != "" && match($0, /hipblaslt-bench .*/) { note("hipblaslt", substr($0, RSTART)); next }
ENVIRON["TENSILE_TRACE"] != "" && /^Running kernel: / { note("tensile", substr($0, 17)); next }
ENVIRON["MIOPEN_TRACE"] != "" && /MIOpen\(HIP\): Command \[/ && match($0, /\.\/bin\/MIOpenDriver .*/) {
  note("miopen", substr($0, RSTART)); next
}
{ print; fflush() }
END {
  print "jobid,created_date,model,library,config,calls" > file
  for (call in calls) {
    split(call, parts, "\t")
    print quoted(job) "," date "," quoted(model) "," parts[1] "," quoted(substr(call, length(parts[1]) + 2)) "," \
      calls[call] > file
  }
}'

# mawk waits for a full buffer unless it is told not to.
interactive=''
awk -W version 2>/dev/null </dev/null | grep -q mawk && interactive='-W interactive'
status=$(mktemp) || exit
{
  "$@"
  echo $? >"$status"
} 2>&1 | (
  # The last lines and the counts are written after the command has ended, also at the time limit.
  trap '' TERM INT HUP
  # shellcheck disable=SC2086 # words
  exec awk $interactive -v file="${OUTPUT_FILE:-library_trace.csv}" -v job="${JENKINS_BUILD_NUMBER:-0}" \
    -v date="$(date '+%Y-%m-%d %H:%M:%S')" -v model="${MAD_MODEL_NAME-}" "$count"
)
code=$(cat "$status")
rm -f "$status"
exit "${code:-1}"
