set minimum-version := "1.55.0"
set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments
set no-exit-message
set quiet

# every recipe takes KEY=VALUE words and hands them on as --KEY=VALUE; a bare word is handed on as a flag
option := '(?s)[a-z][a-z-]*(=.+)?'

[default]
[private]
help:
    just --list --unsorted

# build the images of the tagged models, push them: just build tags=dummy registry=host:5000
[arg('options', pattern=option)]
[group('madengine')]
build *options:
    bin/madengine build "${@/#/--}"

# push what a manifest says is built and not pushed yet: just push manifest-file=build_manifest.json
[arg('options', pattern=option)]
[group('madengine')]
push *options:
    bin/madengine push "${@/#/--}"

# run the models of a manifest here, or on other hosts: just run manifest-file=build_manifest.json, just run host=a,b
[arg('options', pattern=option)]
[group('madengine')]
run *options:
    bin/madengine run "${@/#/--}"

# run a manifest and an older one in turn, and say what got worse: just ab old.json new.json repeat=10 host=a
[arg('options', pattern=option)]
[group('madengine')]
ab old new *options:
    old=$1; new=$2; shift 2; bin/madengine run --against="$old" --manifest-file="$new" "${@/#/--}"

# copy madengine.pyz and the manifest to hosts: just ship host=a,b
[arg('options', pattern=option)]
[group('madengine')]
ship *options:
    bin/madengine ship "${@/#/--}"

# collect what runs left on hosts: just fetch host=a,b
[arg('options', pattern=option)]
[group('madengine')]
fetch *options:
    bin/madengine fetch "${@/#/--}"

# merge result folders into one table: just collect results/
[group('madengine')]
collect +folders:
    bin/madengine collect "$@"

# say what got better or worse between two sets of results: just compare base.csv new.csv
[group('madengine')]
compare +words:
    bin/madengine compare "$@"

# write results as a page for a browser, or for other systems: just report perf.csv
[group('madengine')]
report +words:
    bin/madengine report "$@"

# show results over time and where they changed: just history perf.csv
[group('madengine')]
history +words:
    bin/madengine history "$@"

# find the version that made a model worse: just bisect --tags bert --good v1.4 --bad main
[group('madengine')]
bisect +words:
    bin/madengine bisect "$@"

# build, push, ship and run on hosts: just deploy tags=dummy registry=localhost:5000 host=a,b
[arg('options', pattern=option)]
[group('madengine')]
deploy *options:
    bin/madengine deploy "${@/#/--}"

# build, push and run in one go: just full tags=dummy registry=host:5000
[arg('options', pattern=option)]
[group('madengine')]
full *options:
    bin/madengine full "${@/#/--}"

# list the models that tags select: just discover tags=dummy
[arg('options', pattern=option)]
[group('madengine')]
discover *options:
    bin/madengine discover "${@/#/--}"

# check what this machine, or other hosts, are fit for: just doctor registry=host:5000 host=a,b
[arg('options', pattern=option)]
[group('madengine')]
doctor *options:
    bin/madengine doctor "${@/#/--}"

# say what runs on this machine or on hosts now: just status host=a,b
[arg('options', pattern=option)]
[group('madengine')]
status *options:
    bin/madengine status "${@/#/--}"

# show the log of a model, or follow it: just logs bert -f
[group('madengine')]
logs +words:
    bin/madengine logs "$@"

# remove what madengine has left: just cleanup dry-run
[arg('options', pattern=option)]
[group('madengine')]
cleanup *options:
    bin/madengine cleanup "${@/#/--}"

# write what other tools need to run the models: just export-config output=execution_config.json
[arg('options', pattern=option)]
[group('madengine')]
export-config *options:
    bin/madengine export-config "${@/#/--}"

# write the files that another tool runs a manifest from: just generate ansible manifest-file=build_manifest.json
[arg('options', pattern=option)]
[arg('tool', pattern='ansible|k8s|slurm')]
[group('madengine')]
generate tool *options:
    tool=$1; shift; bin/madengine generate "$tool" "${@/#/--}"

# write the Ansible playbook and run it: just ansible inventory=gpu_inventory limit=gpu-node-01
[arg('options', pattern=option)]
[group('madengine')]
ansible *options:
    bin/madengine deploy --target=ansible --manifest-file=build_manifest.json "${@/#/--}"

# build and push the image of Kubernetes' sidecar: just runner-image registry=reg.example.com:5000
[arg('options', pattern=option)]
[group('madengine')]
runner-image *options:
    bin/madengine runner-image "${@/#/--}"

# build, push, run on Kubernetes, collect: just k8s tags=dummy registry=reg.example.com:5000 namespace=benchmarks
[arg('options', pattern=option)]
[group('madengine')]
k8s *options:
    bin/madengine deploy --target=kubernetes "${@/#/--}"

# build, push, run under Slurm, collect: just slurm tags=dummy registry=reg.example.com:5000 partition=gpu gpus-per-node=8
[arg('options', pattern=option)]
[group('madengine')]
slurm *options:
    bin/madengine deploy --target=slurm "${@/#/--}"

# build and run the bundled dummy model, on a machine with nothing installed
[group('project')]
demo:
    bin/demo

# the whole test set, or some of its stages: just test unit engine
[arg('stages', pattern='static|unit|k8s|engine|servers|fleet|ansible|faults|bats|bare|browser|databases|fuzz|torch')]
[group('project')]
test *stages:
    bin/test "$@"

# faults at random moments, and what must hold after them: just faults rounds=200 seed=7
[arg('options', pattern='(rounds|seed)=[0-9]+')]
[group('project')]
faults *options:
    env "${@/#/faults_}" bin/test faults

# the fuzzers of what comes from outside: just fuzz cases=100000 seed=7
[arg('options', pattern='(cases|seed)=[0-9]+')]
[group('project')]
fuzz *options:
    env "${@/#/fuzz_}" bin/test fuzz

# the checks that run no test: style, types, imports, shell, YAML
[group('project')]
check:
    bin/test static

# times against the bare programs, as ratios: just bench, or some of them: just bench help build
[arg('names', pattern='help|build|build-many|run|gigabyte|discovery|append|upload|rack|nodes|slurm|against')]
[group('project')]
bench *names:
    bin/bench "$@"

# write the options of docs/reference.md again from their declarations
[group('project')]
docs:
    bin/docs

# write madengine.pyz, which runs on any node with python3
[arg('options', pattern=option)]
[group('project')]
bundle *options:
    bin/bundle "${@/#/--}"
