#!/usr/bin/env bats
bats_require_minimum_version 1.5.0

setup_file() {
  "$BATS_TEST_DIRNAME/../../bin/bundle" "$BATS_FILE_TMPDIR/madengine.pyz"
}

setup() {
  checkout=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
  cd "$checkout" || return
}

# a checkout whose bin/NAME only prints the words that it gets, one in brackets each
echoing_checkout() {
  mkdir -p "$BATS_TEST_TMPDIR/checkout/bin"
  cd "$BATS_TEST_TMPDIR/checkout" || return
  cp "$checkout/justfile" .
  local name
  for name in madengine demo test bench bundle docs; do
    printf '#!/bin/sh\nprintf "%s"\n[ $# -eq 0 ] || printf " [%%s]" "$@"\n' "$name" >"bin/$name"
    chmod +x "bin/$name"
  done
}

# the programs of a bare machine and nothing else: no engine, no apt-get, no sudo
bare_path() {
  local name folder=$BATS_TEST_TMPDIR/bare
  mkdir -p "$folder"
  for name in bash cat cut dirname env id mkdir mktemp rm sed sha256sum tail timeout; do
    ln -sf "$(type -P "$name")" "$folder/$name"
  done
  printf '%s' "$folder"
}

@test "just alone lists the recipes in groups, each with what it does" {
  run -0 just
  [[ $output == *"[madengine]"*"build *options"*"# build the images"*"[project]"*"bundle *options"* ]]
  run ! grep -E '^    [a-z-]+( \*[a-z]+)?$' <<<"$output"
}

@test "key=value words become options and bare words flags, for every verb" {
  echoing_checkout
  local verb
  for verb in build push run full discover doctor export-config; do
    run -0 just "$verb" tags=dummy registry=host:5000 live-output
    [ "$output" = "madengine [$verb] [--tags=dummy] [--registry=host:5000] [--live-output]" ]
  done
}

@test "a verb without words is called without options" {
  echoing_checkout
  run -0 just build
  [ "$output" = "madengine [build]" ]
}

@test "spaces, quotes, dollars, backticks and newlines arrive as they are" {
  echoing_checkout
  local value=$'{"a": "it\'s $HOME `id` {{x}}, \\n"}\nsecond line'
  run -0 just run "additional-context=$value"
  [ "$output" = "madengine [run] [--additional-context=$value]" ]
}

@test "a word that is no option never reaches madengine" {
  echoing_checkout
  local word
  for word in tags= --tags=x Tags=x =x; do
    run -1 just build "$word"
    [[ $output == *"argument \`$word\` passed to recipe \`build\`"*"does not match pattern"* ]]
  done
}

@test "a mistyped recipe is named, with the one that was meant" {
  run -1 just buidl
  [[ $output == *"buidl"*"Did you mean \`build\`"* ]]
}

@test "the recipes of the project call the program of their name" {
  echoing_checkout
  run -0 just test unit engine
  [ "$output" = "test [unit] [engine]" ]
  run -0 just check
  [ "$output" = "test [static]" ]
  run -0 just demo
  [ "$output" = "demo" ]
  run -0 just bundle output=/tmp/x.pyz
  [ "$output" = "bundle [--output=/tmp/x.pyz]" ]
  run -1 just test everything
}

@test "the exit code of the program is the exit code of just" {
  echoing_checkout
  printf '#!/bin/sh\nexit 3\n' >bin/madengine
  run -3 just run
  [ "$output" = "" ]
}

@test "bin/madengine answers from any folder" {
  cd "$BATS_TEST_TMPDIR"
  run -0 "$checkout/bin/madengine" --version
  [[ $output == *[0-9].[0-9]* ]]
}

@test "bin/madengine without its packages says what makes them" {
  mkdir -p "$BATS_TEST_TMPDIR/checkout/bin"
  cp bin/madengine "$BATS_TEST_TMPDIR/checkout/bin/"
  ln -s "$(type -P readlink)" "$(type -P dirname)" "$(type -P bash)" "$BATS_TEST_TMPDIR/"
  printf '#!/bin/sh\nexit 1\n' >"$BATS_TEST_TMPDIR/python3"
  chmod +x "$BATS_TEST_TMPDIR/python3"
  run -1 env PATH="$BATS_TEST_TMPDIR" "$BATS_TEST_TMPDIR/bash" "$BATS_TEST_TMPDIR/checkout/bin/madengine" build
  [ "$output" = "madengine: the packages it needs are not installed: bin/demo makes .venv with them" ]
}

@test "bin/demo takes no arguments" {
  run -1 bin/demo --fast
  [ "$output" = "demo: --fast: bin/demo takes no arguments" ]
}

@test "the programs in bin explain themselves, and do nothing else" {
  local name
  for name in demo test bench bundle docs; do
    run -0 env PATH="$(bare_path)" "bin/$name" --help
    [ "${#lines[0]}" -gt 40 ]
    [[ $output != *'# '* && $output != *'set -e'* ]]
  done
}

@test "bin/demo without an engine and without apt-get says exactly what to install" {
  run -1 env PATH="$(bare_path)" bin/demo
  [ "${lines[0]}" = "demo: no container engine here runs a container; podman is next, it needs no daemon" ]
  [ "${lines[1]}" = "demo: without root, sudo or apt-get: install podman, then call bin/demo again" ]
}

@test "bin/test names the stages where one is mistyped" {
  run -1 bin/test units
  [ "$output" = "test: units: no such stage; the stages are static unit k8s engine servers fleet ansible faults bats bare browser databases fuzz torch" ]
}

@test "where packages can't be fetched, the cause is named and not the packages that are unknown without it" {
  # shellcheck source=bin/environment
  source bin/environment
  log=$BATS_TEST_TMPDIR/log
  printf '%s\n' "W: Failed to fetch http://deb.example/InRelease  Temporary failure resolving 'deb.example'" \
    "E: Package 'podman' has no installation candidate" >"$log"
  [[ $(apt_error "$log") == "W: Failed to fetch http://deb.example/InRelease  Temporary failure resolving 'deb.example'" ]]
  printf '%s\n' 'Reading package lists...' 'E: Unable to locate package nothing' 'bye' >"$log"
  [ "$(apt_error "$log")" = 'E: Unable to locate package nothing' ]
}

@test "the bundle answers under a bare python3, from an empty folder" {
  cp "$BATS_FILE_TMPDIR/madengine.pyz" "$BATS_TEST_TMPDIR"
  cd "$BATS_TEST_TMPDIR"
  run -0 python3 -I madengine.pyz --version
  [[ $output == *[0-9].[0-9]* ]]
  run -0 ./madengine.pyz --help
  [[ $output == *export-config* ]]
}

@test "the bundle carries the templates and nothing made for one machine" {
  run -0 python3 -m zipfile --list "$BATS_FILE_TMPDIR/madengine.pyz"
  [[ $output == *madengine/templates/package/models.json* ]]
  [[ $output != *.so* ]]
}

@test "the same sources make the same bundle" {
  bin/bundle "$BATS_TEST_TMPDIR/again.pyz"
  cmp "$BATS_FILE_TMPDIR/madengine.pyz" "$BATS_TEST_TMPDIR/again.pyz"
}
