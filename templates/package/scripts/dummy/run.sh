#!/bin/sh
# Counts in the shell for a while and reports how fast that went: run.sh [--seconds N]
set -eu

seconds=1
while [ $# -gt 0 ]; do
  case $1 in
    --seconds)
      seconds=${2:-}
      case $seconds in
        '' | 0* | *[!0-9]* | ???????*)
          echo "run.sh: --seconds '$seconds': give a whole number from 1 to 999999" >&2
          exit 2
          ;;
      esac
      shift 2
      ;;
    *)
      echo "run.sh: unknown argument '$1'; it takes --seconds N" >&2
      exit 2
      ;;
  esac
done

# Sets $now to the hundredths of a second since boot. The 1 in front of the two decimals keeps 08 from being octal.
clock() {
  read -r uptime _ </proc/uptime
  now=$((${uptime%.*} * 100 + 1${uptime#*.} - 100))
}

echo "dummy: counting for $seconds s with shell arithmetic"
iterations=0
clock
start=$now
end=$((start + seconds * 100))
while [ "$now" -lt "$end" ]; do
  batch=0
  while [ "$batch" -lt 1000 ]; do
    batch=$((batch + 1))
  done
  iterations=$((iterations + batch))
  clock
done
elapsed=$((now - start))

echo "dummy: $iterations iterations in ${elapsed}0 ms"
echo "performance: $((iterations * 100 / elapsed)) iterations_per_second"
