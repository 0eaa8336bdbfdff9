#!/bin/sh
# Print which ROCm this image has: TheRock's, with its root and its version, or packages below /opt/rocm.
for root in "${ROCM_PATH-}" "${ROCM_HOME-}" /opt/rocm /opt/rocm-* /usr/local/rocm \
  /opt/venv/lib/python*/site-packages/_rocm_sdk_devel; do
  [ -n "$root" ] || continue
  for marker in share/therock/therock_manifest.json share/therock/dist_info.json; do
    if [ -f "$root/$marker" ]; then
      echo "TheRock: yes, $root ($marker)"
      cat "$root/.info/version" 2>/dev/null
      exit 0
    fi
  done
done
if command -v rocm-sdk >/dev/null; then
  echo "TheRock: yes, $(rocm-sdk path --root 2>/dev/null)"
  exit 0
fi
echo "TheRock: no; ROCm $(cat /opt/rocm/.info/version 2>/dev/null || echo 'not found')"
