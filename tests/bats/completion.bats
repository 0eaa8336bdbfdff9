#!/usr/bin/env bats
bats_require_minimum_version 1.5.0

# what fish offers for a command line, in the folder of the starter package
offered() {
  fish --no-config -c "$(fish_setup); complete --do-complete '$1'" | cut -f1
}

fish_setup() {
  # shellcheck disable=SC2016 # fish's own variables
  printf 'function madengine; %s/bin/madengine $argv; end; set -x PATH %s $PATH; source %s' \
    "$checkout" "$BATS_FILE_TMPDIR" "$BATS_FILE_TMPDIR/completion.fish"
}

setup_file() {
  checkout=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
  "$checkout/bin/madengine" completion fish >"$BATS_FILE_TMPDIR/completion.fish"
  ln -s "$checkout/bin/madengine" "$BATS_FILE_TMPDIR/madengine"
}

setup() {
  checkout=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
  cd "$checkout/templates/package" || return
}

@test "fish completes commands, options, choices, models and tags, and files" {
  [ "$(offered 'madengine bui')" = build ]
  [ "$(offered 'madengine generate k')" = k8s ]
  [ "$(offered 'madengine run --gpu-m')" = --gpu-mode ]
  [ "$(offered 'madengine build --engine po')" = podman ]
  [ "$(offered 'madengine run --tags dum')" = dummy ]
  [ "$(offered 'madengine run --manifest-file model')" = models.json ]
  [ -z "$(offered 'madengine run --batch-m')" ]
}
