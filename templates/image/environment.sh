#!/bin/sh
# environment.sh FILE MODE: write what a model finds in its container as CSV, a line of a program's output a row.
#
# MODE is lite, or full with every package.
#
# No environment variables: some hold secrets. A missing program has no lines.
set -u

file=$1
mode=$2
seconds=5 # for one program; a driver may hang

describe() { # describe WHAT PROGRAM...: the lines of a program's output
  what=$1
  shift
  command -v "$1" >/dev/null || return 0
  limit=
  ! command -v timeout >/dev/null || limit="timeout $seconds"
  # shellcheck disable=SC2086 # words
  $limit "$@" 2>&1 </dev/null | as_csv "$what"
}

describe_file() { # describe_file WHAT FILE: the lines of a file
  [ ! -r "$2" ] || as_csv "$1" <"$2"
}

as_csv() { # as_csv WHAT: the lines of stdin
  sed -e 's/"/""/g' -e "s|.*|$1,\"&\"|" >>"$file"
}

command -v sed >/dev/null || exit 0
PATH=$PATH:${ROCM_PATH:-/opt/rocm}/bin:/opt/rocm/bin:/usr/local/cuda/bin
echo 'what,line' >"$file" || exit
describe kernel uname -a
describe_file os /etc/os-release
describe cpu lscpu
command -v lscpu >/dev/null || describe cpu sed -n '1,/^$/p' /proc/cpuinfo
describe_file memory /proc/meminfo
describe disk df -h /
# shellcheck disable=SC3045 # beyond POSIX, but in every shell of an image
ulimit -a 2>&1 | as_csv limits
describe python python3 --version
describe gcc gcc --version
[ -z "${ROCM_PATH-}" ] || printf '%s\n' "$ROCM_PATH" | as_csv rocm_path
describe_file rocm "${ROCM_PATH:-/opt/rocm}/.info/version"
describe_file therock "${ROCM_PATH:-/opt/rocm}/share/therock/dist_info.json"
describe hip hipconfig --version
describe cuda nvcc --version
describe nvidia-smi nvidia-smi
describe rocminfo rocminfo
describe rocm-smi rocm-smi
describe mpi mpirun --version
[ "$mode" = full ] || exit 0
describe pip python3 -m pip list --format=freeze
describe dpkg dpkg-query -W
describe rpm rpm -qa
describe pci lspci
describe numa numactl --hardware
describe nvidia-smi-q nvidia-smi -q
describe rocm-smi-a rocm-smi -a
