#!/bin/sh
# trace.sh TOOL: put what a tool has left into TOOL_output, where it is brought home from.
set -u
output=${1:?trace.sh: no tool}_output
mkdir -p "$output" || exit

# take FILE...: move those that exist.
take() {
  for file; do
    [ ! -e "$file" ] || mv -f "$file" "$output/"
  done
}

case $1 in
  rpd)
    converter=rocmProfileData/tools/rpd2tracing.py
    [ ! -s trace.rpd ] || [ ! -f "$converter" ] || python3 "$converter" trace.rpd trace.json ||
      echo 'trace.sh: trace.rpd could not be converted to JSON' >&2
    take trace.rpd trace.json
    rm -rf rocmProfileData
    ;;
  rocprof)
    take results* rocprofv3-*
    for file in */*_results.db */*_trace.csv; do
      folder=${file%/*}
      [ ! -f "$file" ] || [ "$folder" = "$output" ] || take "$folder"
    done
    # The same names, whatever the prefix or the folder of a process.
    for table in agent_info domain_stats kernel_stats kernel_trace hip_api_trace counter_collection; do
      [ ! -f "$output/rocprofv3_output_$table.csv" ] || continue
      for file in "$output"/*"$table".csv "$output"/*/*"$table".csv; do
        [ ! -f "$file" ] || { cp "$file" "$output/rocprofv3_output_$table.csv" && break; }
      done
    done
    ;;
  rocm_trace_lite) take trace.db trace.json trace.json.gz ;;
esac
exit 0
