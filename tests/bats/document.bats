#!/usr/bin/env bats
# The commands of the user's document on distributed execution, word for word but for hosts and paths.
bats_require_minimum_version 1.5.0

setup_file() {
  export checkout
  checkout=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
  set -a
  # shellcheck source=/dev/null
  . "$MADENGINE_TEST_BED/environment"
  set +a
  # The document says localhost:5000; this registry listens on a port that was free.
  export REGISTRY MADENGINE_ENGINE=docker PATH=$checkout/.venv/bin:$PATH
  docker tag "$BASE_IMAGE" custom:latest
  docker tag "$BASE_IMAGE" ubuntu:22.04
}

# a model package with the tags that the document names; its base image is at hand
setup() {
  cd "$BATS_TEST_TMPDIR" || return
  cp -r "$checkout/templates/package" models
  cd models || return
  printf 'echo "performance: 42.5 samples_per_second"\n' >scripts/dummy/run.sh
  python - <<'END'
import json

[dummy] = json.load(open("models.json"))
names = ("dummy", "llama", "bert", "resnet")
json.dump([{**dummy, "name": name, "tags": [name, "test"]} for name in names], open("models.json", "w"))
END
}

# field FILE EXPRESSION: a value of a JSON file, by a Python expression over `it`
field() {
  python -c 'import json, sys; it = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"
}

built() {
  python -m madengine.distributed_cli build --tags dummy --registry "$REGISTRY"
}

@test "basic split workflow: build everything and push, then run the manifest" {
  python -m madengine.distributed_cli build \
    --registry "$REGISTRY" \
    --clean-docker-cache \
    --manifest-output build_manifest.json
  [ "$(field build_manifest.json 'len(it["built_images"])')" = 12 ]
  python -m madengine.distributed_cli run \
    --manifest-file build_manifest.json \
    --timeout 3600
  [ "$(wc -l <perf.csv)" -eq 5 ]
  [ "$(grep -c ',SUCCESS,' perf.csv)" -eq 4 ]
}

@test "smart run: without a manifest it builds and runs" {
  run -0 --separate-stderr python -m madengine.distributed_cli run \
    --registry "$REGISTRY" \
    --timeout 3600 \
    --clean-docker-cache
  # shellcheck disable=SC2154 # set by run
  [[ $stderr == *"no --manifest-file: building first; the manifest is written to build_manifest.json"* ]]
  [ -e build_manifest.json ]
  [ "$(grep -c ',SUCCESS,' perf.csv)" -eq 4 ]
}

@test "export-config writes the execution configuration, with and without tags" {
  python -m madengine.distributed_cli export-config \
    --output execution_config.json
  [ "$(field execution_config.json 'len(it["models"])')" = 4 ]
  python -m madengine.distributed_cli export-config \
    --tags llama bert \
    --output execution_config.json
  [ "$(field execution_config.json '[model["name"] for model in it["models"]]')" = "['bert', 'llama']" ]
  python -m madengine.distributed_cli export-config --tags dummy
  [ "$(field execution_config.json 'sorted(it)')" = "['context', 'credentials_required', 'models']" ]
}

@test "execution-only mode: the registry comes from the manifest, or is overridden" {
  built
  python -m madengine.distributed_cli run \
    --manifest-file build_manifest.json \
    --timeout 3600
  # The same registry under its other name stands for the document's custom-registry.com.
  python -m madengine.distributed_cli run \
    --manifest-file build_manifest.json \
    --registry "localhost:${REGISTRY##*:}" \
    --timeout 3600
  [ "$(grep -c ',SUCCESS,' perf.csv)" -eq 2 ]
  [ "$(grep -c ",localhost:${REGISTRY##*:}/ci-dummy_ubuntu_cpu," perf.csv)" -eq 1 ]
}

@test "complete workflow with tags, also with live output" {
  run -0 --separate-stderr python -m madengine.distributed_cli run \
    --tags resnet --registry "$REGISTRY" --timeout 3600 --live-output
  [[ $stderr == *"resnet: SUCCESS"* ]]
  python -m madengine.distributed_cli run \
    --tags resnet \
    --registry "$REGISTRY" \
    --clean-docker-cache \
    --timeout 3600
  [ "$(grep -c '^resnet,' perf.csv)" -eq 2 ]
}

@test "build by tags, with a base image from the context, and with a context file" {
  python -m madengine.distributed_cli build \
    --tags llama bert resnet \
    --registry "$REGISTRY" --clean-docker-cache
  [ "$(field build_manifest.json 'sorted({model["name"] for model in it["built_models"].values()})')" = "['bert', 'llama', 'resnet']" ]
  python -m madengine.distributed_cli build \
    --additional-context "{'docker_build_arg':{'BASE_DOCKER':'custom:latest'}}" \
    --registry "$REGISTRY"
  [ "$(field build_manifest.json '{image["base_docker"] for image in it["built_images"].values()}')" = "{'custom:latest'}" ]
  echo '{"gpu_vendor": "NONE", "docker_build_arg": {"BASE_DOCKER": "custom:latest"}}' >context.json
  python -m madengine.distributed_cli build \
    --additional-context-file context.json \
    --registry "$REGISTRY"
  [ "$(field build_manifest.json 'len(it["built_images"])')" = 4 ]
}

@test "execution control: a container kept alive can be entered and removed as it says" {
  built
  run -0 --separate-stderr python -m madengine.distributed_cli run \
    --manifest-file build_manifest.json \
    --timeout 7200 \
    --keep-alive \
    --live-output
  local name=${stderr##*docker rm --force }
  name=${name%%\`*}
  docker exec "$name" sh -c 'ls /myworkspace/entry.json'
  docker rm --force "$name"
  [ "$(grep -c ',SUCCESS,' perf.csv)" -eq 1 ]
}

@test "override registry, tags and timeout at once" {
  python -m madengine.distributed_cli build --tags llama dummy --registry "$REGISTRY"
  python -m madengine.distributed_cli run \
    --manifest-file build_manifest.json \
    --registry "$REGISTRY" \
    --tags llama \
    --timeout 3600
  [ "$(tail -n +2 perf.csv | cut -d , -f 1)" = llama ]
}

@test "full takes a data configuration and writes its summary" {
  mkdir -p data shared && echo '{"set": {"local": {"path": "data"}}}' >custom_data.json
  python -m madengine.distributed_cli full \
    --data-config-file-name custom_data.json \
    --force-mirror-local "$PWD/shared" \
    --registry "$REGISTRY"
  python -m madengine.distributed_cli full \
    --registry "$REGISTRY" \
    --summary-output full_workflow_summary.json
  [ "$(field full_workflow_summary.json 'list(it)')" = "['build_phase', 'run_phase', 'overall_success']" ]
  [ "$(field full_workflow_summary.json 'it["overall_success"]')" = True ]
}

@test "the walkthrough of a single model, steps 2 to 7" {
  python -m madengine.distributed_cli build \
    --tags dummy \
    --registry "$REGISTRY" \
    --manifest-output dummy_build_manifest.json \
    --summary-output dummy_build_summary.json
  [ "$(field dummy_build_summary.json 'list(it)')" = "['successful_builds', 'failed_builds', 'total_build_time', 'registry_url']" ]
  [ "$(field dummy_build_summary.json 'list(it["successful_builds"][0])[:4]')" = "['model_name', 'image_tag', 'build_time', 'image_size']" ]
  python -m madengine.distributed_cli export-config \
    --tags dummy \
    --output dummy_execution_config.json
  mkdir -p "$BATS_TEST_TMPDIR/node"
  cp dummy_build_manifest.json "$BATS_TEST_TMPDIR/node/" # scp, in the document
  cd "$BATS_TEST_TMPDIR/node"
  python -m madengine.distributed_cli run \
    --manifest-file dummy_build_manifest.json \
    --timeout 1800 \
    --live-output \
    --summary-output dummy_execution_summary.json
  [ "$(field dummy_execution_summary.json 'list(it)[:4]')" = "['successful_runs', 'failed_runs', 'skipped_runs', 'total_execution_time']" ]
  [ "$(field dummy_execution_summary.json 'list(it["successful_runs"][0])[:6]')" = \
    "['model_name', 'execution_time', 'gpu_used', 'peak_gpu_memory', 'exit_code', 'output_file']" ]
  [ "$(head perf.csv | wc -l)" -eq 2 ]
}

@test "troubleshooting: the tools of the document find what build left" {
  python -m madengine.tools.discover_models --tags dummy
  echo '{"gpu_vendor": "NONE"}' >context.json
  python -m madengine.distributed_cli build --tags dummy --registry "$REGISTRY" --additional-context-file context.json
  docker images | grep dummy
  docker pull "$REGISTRY/madengine/dummy:latest"
  python -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read())' "http://$REGISTRY/v2/_catalog" | grep dummy
}

@test "quick reference: the minimal manual deployment" {
  python -m madengine.distributed_cli build --tags dummy --registry "$REGISTRY"
  python -m madengine.distributed_cli run --manifest-file build_manifest.json
  [ "$(grep -c ',SUCCESS,' perf.csv)" -eq 1 ]
}

@test "a legacy manifest without models falls back to names, with tags" {
  built
  python - <<'END'
import json

it = json.load(open("build_manifest.json"))
images = {key: {"docker_image": image["docker_image"], "dockerfile": image["dockerfile"]} for key, image in it["built_images"].items()}
json.dump({"built_images": images, "context": it["context"]}, open("legacy_manifest.json", "w"))
END
  cp legacy_manifest.json before.json
  python -m madengine.distributed_cli run \
    --manifest-file legacy_manifest.json \
    --tags dummy # May need tags for discovery
  grep -q '^dummy,.*,SUCCESS,' perf.csv
  cmp legacy_manifest.json before.json
}

# cluster: a stand-in API server until the test ends, and the kubectl that talks to it
cluster() {
  PYTHONPATH=$checkout python -m tests.k8s.serve "$BATS_TEST_TMPDIR/cluster" 3>&- >"$BATS_TEST_TMPDIR/server.log" 2>&1 &
  server=$!
  local tries
  for ((tries = 0; tries < 100; tries++)); do
    [[ ! -e $BATS_TEST_TMPDIR/cluster/kubeconfig ]] || break
    sleep 0.2
  done
  export KUBECONFIG=$BATS_TEST_TMPDIR/cluster/kubeconfig
}

teardown() {
  [[ -z ${server:-} ]] || kill "$server"
}

@test "the walkthrough of a single model, steps 11 to 13, up to scheduling" {
  python -m madengine.distributed_cli build \
    --tags dummy \
    --registry "$REGISTRY" \
    --manifest-output dummy_build_manifest.json
  python -m madengine.distributed_cli export-config \
    --tags dummy \
    --output dummy_execution_config.json
  python -m madengine.distributed_cli generate k8s \
    --manifest-file dummy_build_manifest.json \
    --execution-config dummy_execution_config.json \
    --namespace madengine-dummy
  cluster
  kubectl create namespace madengine-dummy

  kubectl apply -f k8s-madengine-configmap.yaml
  kubectl apply -f k8s-madengine-job.yaml

  run -0 kubectl get jobs -n madengine-dummy
  [[ $output == *madengine-dummy-job* ]]
  kubectl get pods -n madengine-dummy
  run -1 kubectl get configmap madengine-results -n madengine-dummy -o yaml
  [[ $output == *NotFound* ]] # the first pod that has ended makes it
}

@test "quick reference: the minimal Kubernetes deployment" {
  python -m madengine.distributed_cli build --tags dummy --registry "$REGISTRY"
  python -m madengine.distributed_cli export-config --tags dummy
  python -m madengine.distributed_cli generate k8s --namespace madengine-prod
  cluster
  kubectl create namespace madengine-prod # a production namespace is there already
  kubectl apply -f k8s-madengine-configmap.yaml
  kubectl apply -f k8s-madengine-job.yaml
}

@test "generate k8s takes tags" {
  python -m madengine.distributed_cli build --tags llama bert --registry "$REGISTRY"
  python -m madengine.distributed_cli generate k8s \
    --namespace madengine-prod --tags llama
  grep -q 'name: madengine-llama-job' k8s-madengine-job.yaml
  run ! grep -q bert k8s-madengine-job.yaml
}
