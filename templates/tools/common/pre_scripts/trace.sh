#!/bin/sh
# trace.sh TOOL: install what a tool needs and the image lacks: rpd or rocm_trace_lite; others need nothing.
set -eu

packages() {
  if command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq sqlite3 libsqlite3-dev libfmt-dev nlohmann-json3-dev \
      python3-pip git build-essential pkg-config
  elif command -v yum >/dev/null; then
    yum install -y gcc gcc-c++ make git libsqlite3x-devel fmt-devel python3-pip json-devel
  else
    echo 'trace.sh: rpd needs apt-get or yum in the image; use an image with rocmProfileData' >&2
    exit 1
  fi
}

case ${1-} in
  rpd)
    [ ! -x rocmProfileData/rpd_tracer/runTracer.sh ] || exit 0
    packages
    [ -d rocmProfileData ] || git clone --depth 1 https://github.com/ROCm/rocmProfileData.git rocmProfileData
    # An object's name in its Makefile is wrong at times.
    sed -i 's/UStringTable\.o/StringTable.o/g' rocmProfileData/rpd_tracer/Makefile
    make -C rocmProfileData rpd
    (cd rocmProfileData/rocpd_python && python3 setup.py install)
    ;;
  rocm_trace_lite)
    ! command -v rtl >/dev/null || exit 0
    wheel=${ROCM_TRACE_LITE_WHEEL_URL-}
    releases=https://github.com/sunway513/rocm-trace-lite/releases/download
    if [ -z "$wheel" ] && [ "${ROCM_TRACE_LITE_FOLLOW_LATEST-}" = 1 ]; then
      wheel=$(curl -fsSL https://api.github.com/repos/sunway513/rocm-trace-lite/releases/latest |
        sed -n 's/.*"browser_download_url": *"\([^"]*-py3-none-linux_x86_64\.whl\)".*/\1/p' | head -n 1)
    fi
    # Without the address, which may hold a password.
    python3 -m pip install --quiet "${wheel:-$releases/v0.3.3/rocm_trace_lite-0.3.3-py3-none-linux_x86_64.whl}" \
      >/dev/null 2>&1 || {
      echo 'trace.sh: pip could not install rocm-trace-lite; set ROCM_TRACE_LITE_WHEEL_URL, or use an image that has it' >&2
      exit 1
    }
    ;;
esac
