# shellcheck shell=bash
# On a node that shares nothing: becomes the courier of a task's newest attempt. $1 is the task's folder, $2 is `over`
# where its job has ended, and nothing has to be waited for.
until
  folder=
  for attempt in "$1" "$1"-attempt-*; do
    # Others may make files there too.
    if [ -e "$attempt/python" ] && [ -O "$attempt" ] && [ ! -L "$attempt" ]; then
      folder=$attempt
    fi
  done
  [ -n "$folder" ] || [ -n "$2" ]
do
  sleep 0.2
done
if [ -n "$folder" ]; then
  # shellcheck disable=SC1091 # what modules have set
  . "$folder/environment"
  code='import sys; sys.path.insert(0, sys.argv[1]); from madengine.deploy.slurm.courier import main
sys.exit(main(sys.argv[2:]))'
  exec "$(cat "$folder/python")" -I -c "$code" "$folder/madengine.pyz" serve "$folder" ${2:+"$2"}
fi
# It ended before it had a python.
if [ -O "$1" ] && [ ! -L "$1" ]; then
  { tail -n 1 "$1/log" | grep . || echo "$1: incomplete: is its disk full?"; } >&2
  rm -rf "$1"
else
  echo "$1: no such folder: can this node's users write there?" >&2
fi
exit 4
