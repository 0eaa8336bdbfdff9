#!/usr/bin/env bats
# The lines to paste of docs/ci.md, section "In CI", taken out of it and run.
bats_require_minimum_version 1.5.0

setup_file() {
  export checkout
  checkout=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
  set -a
  # shellcheck source=/dev/null
  . "$MADENGINE_TEST_BED/environment"
  set +a
  export REGISTRY MADENGINE_ENGINE=docker
  docker tag "$BASE_IMAGE" ubuntu:22.04
  "$checkout/bin/bundle" "$BATS_FILE_TMPDIR/madengine.pyz"
}

setup() {
  cp -r "$checkout/templates/package" "$BATS_TEST_TMPDIR/models"
  cd "$BATS_TEST_TMPDIR/models" || return
  cp "$BATS_FILE_TMPDIR/madengine.pyz" .
}

# lines LANGUAGE NUMBER: what the NUMBERth code block of that language in the section runs, a line each
lines() {
  "$checkout/.venv/bin/python" - "$checkout/docs/ci.md" "$1" "$2" <<'END'
import re
import sys

import yaml

text, language, number = open(sys.argv[1]).read(), sys.argv[2], int(sys.argv[3])
section = re.search(r"^## In CI$(.*?)^## ", text, re.S | re.M)[1]
block = re.findall(rf"```{language}\n(.*?)```", section, re.S)[number]
if language == "groovy":
    runs = re.findall(r"\bsh '([^']*)'", block)
else:
    jobs = yaml.safe_load(block)
    jobs = jobs.get("jobs", jobs)
    runs = [step["run"] for job in jobs.values() for step in job.get("steps", []) if "run" in step]
    runs += [line for job in jobs.values() for line in job.get("script", [])]
print("\n".join(runs))
END
}

runs_to_a_row() {
  local script
  script=$(lines "$1" "$2")
  [ "$(wc -l <<<"$script")" -eq 2 ]
  PATH=/usr/bin:/bin:$PATH sh -ec "$script"
  grep -q '^dummy,.*,SUCCESS,' perf.csv
  [ -e build_summary.json ] && [ -e run_summary.json ]
}

@test "GitHub Actions: the lines build, run and leave a row" {
  runs_to_a_row yaml 0
}

@test "GitLab CI: the lines build, run and leave a row and reports" {
  runs_to_a_row yaml 1
  grep -q '<testcase classname="dummy"' junit.xml
  grep -q '^madengine_run_success{model="dummy",.* 1.0$' metrics.txt
}

@test "Jenkins: the lines build, run and leave a row" {
  runs_to_a_row groovy 0
}

@test "a model that fails ends the run job with exit code 3, and its row is kept" {
  printf 'echo broken\nexit 1\n' >scripts/dummy/run.sh
  run -3 sh -ec "$(lines yaml 0)"
  grep -q '^dummy,.*,FAILURE,' perf.csv
}

@test "an image that can't be built ends the build job with exit code 2" {
  echo 'RUN false' >>docker/dummy.ubuntu.cpu.Dockerfile
  run -2 sh -ec "$(lines yaml 1)"
  [ ! -e perf.csv ]
  grep -q dummy.ubuntu.cpu build_summary.json
}
