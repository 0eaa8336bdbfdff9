"""Running models from a manifest, on real engines."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bed.components import Engine, Registry, outcome
from tests.conftest import StandIns
from tests.engine.trial import CHECKOUT, METRIC, ODD_ARGUMENTS, Trial, wait_for
from tests.engine.trial import trial as make_trial

GONE = "sha256:" + "0" * 64
CSV = "model,performance,metric\nsmall,1.5,tokens\nlarge,2.5,tokens\n"


@pytest.fixture
def trial(
    engine: Engine, base_image: str, registry: Registry, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    return make_trial(engine, base_image, registry, tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture
def recorded(trial: Trial, stand_ins: StandIns) -> StandIns:
    """The engine's own program, with its calls noted."""
    program = shutil.which(trial.engine.name, path=os.environ["PATH"].partition(os.pathsep)[2])
    stand_ins.add(trial.engine.name, f'exec {program} "$@"')
    return stand_ins


def pulls(recorded: StandIns) -> list[str]:
    return [line.split()[-1] for line in recorded.calls() if shlex.split(line)[1] == "pull"]


def pushed(trial: Trial, registry: Registry, repo: str) -> dict[str, str]:
    """Push an image of the model that nobody else has; gives a manifest's entries for it."""
    name = f"{registry.address}/{repo}-{trial.engine.name}"
    base = trial.built["built_images"]["ci-any_ubuntu_cpu"]["image_id"]
    file = trial.folder / "Dockerfile"
    trial.engine("tag", base, f"{repo}-base")  # BuildKit builds on names only
    file.write_text(f"FROM {repo}-base\nLABEL only={trial.folder}\n")
    trial.engine("build", "--tag", name, "--file", str(file), str(trial.folder))
    trial.engine("push", name)
    trial.engine("rmi", name)
    trial.engine("pull", name)  # podman knows the digest that it pulled, not the one that it pushed
    (digest,) = json.loads(trial.engine("image", "inspect", "--format={{json .RepoDigests}}", name).stdout)
    return {
        "docker_image": f"{repo}-{trial.engine.name}",
        "registry_image": name,
        "registry_digest": digest.partition("@")[2],
    }


# --- what a run leaves ---


def test_a_run_leaves_a_row_a_result_a_summary_and_a_log(trial: Trial) -> None:
    done = trial.run("echo hello; sleep 0.2; echo performance: 12.5 tokens_per_second")
    assert done.code == 0, done.stderr
    image = trial.built["built_images"]["ci-any_ubuntu_cpu"]
    row = done.row
    assert (row["model"], row["status"], row["reason"], row["exit_code"]) == ("any", "SUCCESS", "", "0")
    assert (row["performance"], row["metric"]) == ("12.5", "tokens_per_second")
    assert (row["docker_image"], row["image_digest"]) == (image["registry_image"], image["registry_digest"])
    assert row["engine"].startswith(trial.engine.name)
    assert 0.15 < float(row["test_duration"]) <= float(row["run_duration"]) < 20
    (result,) = done.results
    assert (result["status"], result["exit_code"]) == ("SUCCESS", 0)
    assert result["metrics"] == [
        {"performance": "12.5", "metric": "tokens_per_second", "model": "", "extra": {}, "aggregation": ""}
    ]
    assert done.folder / result["log_file"] == next(done.workspace.glob("*.log"))
    assert done.workspace == done.folder / "runs" / row["run_id"] / "any"
    assert done.log == b"hello\nperformance: 12.5 tokens_per_second\n"
    assert not trial.containers()
    assert "12.5  tokens_per_second" in done.stdout


def test_the_run_summary_has_the_fields_of_the_document(trial: Trial) -> None:
    done = trial.run(METRIC, "--summary-output", "sum.json", "--output", "table.csv")
    summary = json.loads((done.folder / "sum.json").read_text())
    (one,) = summary["successful_runs"]
    assert one["model_name"] == "any"
    assert isinstance(one["execution_time"], float) and one["execution_time"] > 0
    assert {"gpu_used": "", "peak_gpu_memory": "", "exit_code": 0, "output_file": "table.csv"}.items() <= one.items()
    assert summary["failed_runs"] == []
    assert summary["total_execution_time"] >= one["execution_time"]
    assert summary["gpu_node"] == os.uname().nodename
    assert (done.folder / "table.csv").read_text().count("\n") == 2


def test_a_failed_model_is_under_failed_runs_and_the_exit_code_is_3(trial: Trial) -> None:
    done = trial.run("echo the last line; exit 3")
    assert done.code == 3
    assert done.summary["successful_runs"] == []
    (one,) = done.summary["failed_runs"]
    assert (one["model_name"], one["exit_code"], one["reason"]) == ("any", 3, "exit code 3")
    assert "the last line" in done.stderr
    assert str(next(done.directory.glob("*/*.log")).relative_to(done.folder)) in done.stderr


def test_the_manifest_is_not_rewritten_and_its_unknown_keys_do_no_harm(trial: Trial) -> None:
    path = trial.manifest(card={"x-site": {"rack": 4}}, image={"x-built-on": "b1"}, x_pipeline=[1, 2])
    before = path.read_bytes()
    path.chmod(0o444)
    done = trial.run_manifest(path, "--additional-context", json.dumps({"model_args": shlex.quote(METRIC)}))
    assert done.code == 0, done.stderr
    assert path.read_bytes() == before
    assert done.results[0]["model"]["x-site"] == {"rack": 4}


def test_the_workspace_keeps_what_the_script_left_and_the_model_directory_only_when_asked(trial: Trial) -> None:
    script = f"echo report > ../report.txt; echo weights > weights.bin; {METRIC}"
    done = trial.run(script)
    assert (done.workspace / "report.txt").read_text() == "report\n"
    assert not (done.workspace / "run_directory").exists()
    shutil.rmtree(done.folder / "runs")
    done = trial.run(script, "--keep-model-dir", card={"url": None})
    assert (done.workspace / "run_directory/weights.bin").read_text() == "weights\n"


def test_a_model_directory_of_a_failed_run_is_kept_for_a_look(trial: Trial) -> None:
    done = trial.run("echo state > state.txt; exit 1")
    assert (done.workspace / "run_directory/state.txt").read_text() == "state\n"


def test_skip_model_run_starts_nothing(trial: Trial, recorded: StandIns) -> None:
    done = trial.run("touch ../ran", "--skip-model-run")
    assert done.code == 0
    assert (done.row["status"], done.row["reason"]) == ("SKIPPED", "--skip-model-run")
    assert not [line for line in recorded.calls() if shlex.split(line)[1] == "run"]


def test_live_output_shows_the_log_and_the_file_has_it_too(trial: Trial) -> None:
    done = trial.run(f"echo on stdout; echo on stderr >&2; {METRIC}", "--live-output")
    assert "on stdout\non stderr\nperformance: 1" in done.stderr
    assert done.log == b"on stdout\non stderr\nperformance: 1 tokens_per_second\n"
    assert "on stdout" not in done.stdout


def test_without_live_output_the_terminal_has_no_log(trial: Trial) -> None:
    assert "on stdout" not in trial.run(f"echo on stdout; {METRIC}").stderr


# --- which image runs ---


def test_an_image_that_is_here_with_its_digest_is_not_pulled_again(trial: Trial, recorded: StandIns) -> None:
    image = trial.built["built_images"]["ci-any_ubuntu_cpu"]
    trial.run(METRIC)
    before = len(pulls(recorded))
    done = trial.run(METRIC)
    assert done.code == 0
    assert len(pulls(recorded)) == before
    (last,) = [line for line in recorded.calls() if shlex.split(line)[1] == "run"][1:]
    assert f"{image['registry_image']}@{image['registry_digest']}" in shlex.split(last)


def test_an_image_that_is_not_here_is_pulled_by_its_digest(
    trial: Trial, registry: Registry, recorded: StandIns
) -> None:
    image = pushed(trial, registry, "removed")
    trial.engine("rmi", image["registry_image"])
    done = trial.run(METRIC, image=image)
    assert (done.code, done.row["image_digest"]) == (0, image["registry_digest"])
    assert pulls(recorded)[-1] == f"{image['registry_image']}@{image['registry_digest']}"


def test_another_image_under_the_same_name_is_not_what_runs(trial: Trial, registry: Registry) -> None:
    image = pushed(trial, registry, "moved")
    other = trial.built["built_images"]["ci-odd_ubuntu_cpu"]["image_id"]
    for name in (image["registry_image"], image["docker_image"]):
        trial.engine("tag", other, name)
    trial.engine("push", image["registry_image"])
    done = trial.run("echo performance: 7 right_image", image=image)
    assert (done.row["metric"], done.row["image_digest"]) == ("right_image", image["registry_digest"])


def test_the_registry_option_overrides_the_manifests(trial: Trial, registry: Registry, recorded: StandIns) -> None:
    image = trial.built["built_images"]["ci-any_ubuntu_cpu"]
    elsewhere = "registry.invalid:5000"
    there = {"registry_image": image["registry_image"].replace(registry.address, elsewhere)}
    done = trial.run(METRIC, "--registry", registry.address, image=there, registry=elsewhere)
    assert done.code == 0, done.stderr
    assert done.row["docker_image"] == image["registry_image"]
    assert elsewhere not in "".join(recorded.calls())


def test_an_image_that_was_never_pushed_runs_where_it_was_built(trial: Trial) -> None:
    image = {"registry_image": None, "registry_digest": None, "docker_image": "no-such-name"}
    done = trial.run(METRIC, image=image)
    assert done.code == 0, done.stderr
    assert done.row["image_digest"] == trial.built["built_images"]["ci-any_ubuntu_cpu"]["image_id"]


def test_an_image_that_was_never_pushed_and_is_not_here_is_a_failure(trial: Trial) -> None:
    image = {"registry_image": None, "registry_digest": None, "image_id": GONE}
    done = trial.run(METRIC, image=image)
    assert done.code == 3
    assert done.reason.startswith("ci-any_ubuntu_cpu (sha256:000000000000) is not on this machine and was never pushed")


def test_an_image_that_the_registry_does_not_have_is_a_failure_at_once(trial: Trial, recorded: StandIns) -> None:
    done = trial.run(METRIC, image={"registry_digest": GONE})
    assert done.code == 3
    assert done.reason.startswith(f"pull {trial.built['registry']}/ci-any_ubuntu_cpu@{GONE}: ")
    assert "unknown" in done.reason
    assert len(pulls(recorded)) == 1


@pytest.mark.parametrize("engine", ["docker"], indirect=True)  # podman tries again by itself, and takes its time
def test_a_registry_that_is_down_is_tried_again_and_then_a_failure(trial: Trial, recorded: StandIns) -> None:
    done = trial.run(METRIC, image={"registry_image": "127.0.0.1:9/any", "registry_digest": GONE})
    assert done.code == 3
    assert "refused" in done.reason
    assert len(pulls(recorded)) == 4


# --- what arrives in the container ---


@pytest.mark.parametrize("source", ["card", "context"])
def test_arguments_arrive_exactly_and_nothing_is_run_on_this_machine(trial: Trial, source: str) -> None:
    words = ODD_ARGUMENTS if source == "card" else tuple(reversed(ODD_ARGUMENTS))
    context = {} if source == "card" else {"model_args": shlex.join(words)}
    done = trial.run_manifest(trial.manifest("odd"), "--additional-context", json.dumps(context))
    assert done.code == 0, done.stderr
    assert (done.workspace / "words").read_bytes().decode().split("\0")[:-1] == list(words)
    assert done.row["args"] == shlex.join(words)
    assert not list(trial.folder.rglob("canary*"))


def test_an_empty_model_args_takes_the_cards_arguments_away(trial: Trial) -> None:
    done = trial.run_manifest(trial.manifest("odd"), "--additional-context", "{'model_args': ''}")
    assert (done.code, (done.workspace / "words").read_bytes(), done.row["args"]) == (0, b"", "")


def test_an_open_quote_in_the_arguments_is_a_failure_that_shows_them(trial: Trial) -> None:
    done = trial.run_manifest(trial.manifest("odd"), "--additional-context", json.dumps({"model_args": "--x 'a"}))
    assert done.code == 3
    assert done.reason.startswith("args of 'odd': no closing quotation: \"--x 'a\"")


def test_environment_variables_arrive_exactly(trial: Trial) -> None:
    values = {f"ODD_{index}": value for index, value in enumerate((*ODD_ARGUMENTS, "a=b=c", "--privileged"))}
    done = trial.run(f"env -0 > ../environment; {METRIC}", context={"docker_env_vars": values})
    assert done.code == 0, done.stderr
    seen = dict(entry.split("=", 1) for entry in (done.workspace / "environment").read_text().split("\0") if entry)
    assert {name: value for name, value in seen.items() if name.startswith("ODD_")} == values
    assert not list(trial.folder.rglob("canary*"))


def test_the_manifests_context_counts_and_the_command_lines_wins(trial: Trial) -> None:
    in_manifest = {"docker_env_vars": {"A": "manifest", "B": "manifest"}, "docker_mounts": {}, "docker_build_arg": {}}
    in_options = {"docker_env_vars": {"B": "options"}}
    path = trial.manifest()
    path.write_text(json.dumps({**json.loads(path.read_text()), "context": in_manifest}))
    context = {"model_args": shlex.quote(f"echo $A $B > ../seen; {METRIC}"), **in_options}
    done = trial.run_manifest(path, "--additional-context", json.dumps(context))
    assert (done.workspace / "seen").read_text() == "manifest options\n"


def test_a_model_is_told_its_name_and_the_node(trial: Trial) -> None:
    script = f"echo $MAD_MODEL_NAME $JENKINS_BUILD_NUMBER $MAD_GPU_VENDOR $MAD_SYSTEM_NGPUS > ../seen; {METRIC}"
    done = trial.run(script, env={"BUILD_NUMBER": "42"})
    assert (done.workspace / "seen").read_text() == "any 42 NONE 0\n"
    assert done.row["build_number"] == "42"


@pytest.mark.parametrize("name", ["with space", "with,comma", "with:colon", 'with"quote', "naïve $HOME"])
def test_a_mount_has_the_very_path(trial: Trial, tmp_path: Path, name: str) -> None:
    host = tmp_path / name
    host.mkdir()
    (host / "in").write_text("from the host\n")
    inside = "/data/" + name.replace(":", "_").replace(",", "_").replace('"', "_")
    done = trial.run(f"cat {shlex.quote(inside)}/in; {METRIC}", context={"docker_mounts": {inside: str(host)}})
    assert done.code == 0, done.stderr
    assert done.log.startswith(b"from the host\n")


def test_a_mount_whose_path_is_missing_is_a_failure_and_the_path_is_not_made(trial: Trial, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    done = trial.run(METRIC, context={"docker_mounts": {"/data": str(missing)}})
    assert done.code == 3
    assert done.reason == f"docker_mounts /data: {missing}: no such file or directory on this machine"
    assert not missing.exists()


def test_the_cpus_of_the_context_are_the_containers(trial: Trial) -> None:
    script = f"grep Cpus_allowed_list /proc/self/status | cut -f 2 > ../cpus; {METRIC}"
    done = trial.run(script, context={"docker_cpus": "0, 1"})
    assert done.code == 0, done.stderr
    assert (done.workspace / "cpus").read_text() == "0-1\n"


def test_the_cards_docker_options_come_after_ours(trial: Trial) -> None:
    options = "--hostname 'the-node' --env SEEN='a b'"
    done = trial.run(f"echo $(hostname) $SEEN > ../seen; {METRIC}", card={"additional_docker_run_options": options})
    assert (done.workspace / "seen").read_text() == "the-node a b\n"
    assert done.row["additional_docker_run_options"] == options


def test_an_option_that_the_engine_does_not_know_is_a_failure_with_its_words(trial: Trial) -> None:
    done = trial.run(METRIC, card={"additional_docker_run_options": "--no-such-option"})
    assert done.code == 3
    assert "unknown flag: --no-such-option" in done.reason


def test_a_container_that_removes_itself_still_gives_its_result(trial: Trial) -> None:
    done = trial.run(METRIC, card={"additional_docker_run_options": "--rm"})
    assert (done.code, done.row["status"]) == (0, "SUCCESS"), done.stderr


def test_a_container_gets_what_a_training_job_needs_and_no_privileges(trial: Trial) -> None:
    started = trial.start("echo started; sleep 60")
    (details,) = json.loads(trial.engine("container", "inspect", started.container).stdout)
    started.process.terminate()
    started.end()
    host, config = details["HostConfig"], details["Config"]
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    assert host["ShmSize"] == half
    assert host["Privileged"] is False
    assert not {"SYS_ADMIN", "CAP_SYS_ADMIN"} & set(host["CapAdd"] or [])
    assert not host.get("SecurityOpt")
    assert host["NetworkMode"] != "host"
    assert host["IpcMode"] not in ("host",)
    assert host["PidMode"] != "host"
    assert not host["Devices"]
    assert host.get("Init") is True or details["Path"] == "/dev/init"  # docker says it so, podman so
    labels = config["Labels"]
    run_id = next((trial.folder / "runs").iterdir()).name
    assert (labels["madengine.run"], labels["madengine.model"]) == (run_id, "any")
    assert f":{started.process.pid}:" in labels["madengine.owner"]
    assert details["Name"].lstrip("/") == f"madengine-{run_id}-any"
    (mount,) = [mount for mount in details["Mounts"] if mount["Destination"] == "/myworkspace"]
    assert mount["Source"] == str(next((trial.folder / "runs").iterdir()) / "any")


# --- results ---


@pytest.mark.parametrize("place", ["/myworkspace", "."])
def test_multiple_results_are_rows_of_their_own(trial: Trial, place: str) -> None:
    done = trial.run(f"printf {shlex.quote(CSV)} > {place}/out.csv", card={"multiple_results": "out.csv"})
    assert done.code == 0, done.stderr
    assert [(row["model"], row["performance"], row["status"]) for row in done.rows] == [
        ("any_small", "1.5", "SUCCESS"),
        ("any_large", "2.5", "SUCCESS"),
    ]
    assert (done.workspace / "out.csv").read_text() == CSV


def test_the_script_is_told_the_name_of_its_results(trial: Trial) -> None:
    done = trial.run(f"printf {shlex.quote(CSV)} > $MAD_OUTPUT_CSV", card={"multiple_results": "out.csv"})
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("true", "out.csv: the script left no such file"),
        ("printf 'a,b\\n1,2\\n' > out.csv", "out.csv: no column 'model'"),
        ("printf 'model,performance,metric\\n' > out.csv", "out.csv: no row"),
        (": > out.csv", "out.csv: empty"),
        ("mkdir out.csv", "out.csv: can't be read: not a regular file"),
        ("ln -s /etc/passwd out.csv", "out.csv: leads out of its folder"),
    ],
)
def test_results_that_are_none_are_a_failure(trial: Trial, script: str, message: str) -> None:
    done = trial.run(f"{script}; {METRIC}", card={"multiple_results": "out.csv"})
    assert done.code == 3
    assert message in done.reason
    assert done.row["performance"] == ""


def test_results_of_a_former_run_in_the_payload_are_not_taken_for_this_runs(trial: Trial) -> None:
    done = trial.run("true", card={"multiple_results": "stale.csv"})
    assert "stale.csv: the script left no such file" in done.reason


def test_one_bad_row_of_many_is_a_failure_of_its_own(trial: Trial) -> None:
    bad = CSV.replace("1.5", "nan")
    done = trial.run(f"printf {shlex.quote(bad)} > out.csv", card={"multiple_results": "out.csv"})
    assert [(row["status"], row["performance"]) for row in done.rows] == [("FAILURE", ""), ("SUCCESS", "2.5")]
    assert done.code == 3


# --- older manifests ---


@pytest.fixture
def legacy(trial: Trial, tmp_path: Path, base_image: str) -> Iterator[dict[str, Any]]:
    """A package here, and an image of its model that has none of the payload, as older versions built it."""
    for name, text in {
        "models.json": json.dumps(
            [{"name": "old", "dockerfile": "docker/old", "scripts": "scripts/old/run.sh", "n_gpus": "-1", "args": "x"}]
        ),
        "scripts/old/run.sh": "cat beside.txt; echo arguments: $@; echo performance: 5 tokens\n",
        "scripts/old/beside.txt": "beside\n",
    }.items():
        path = trial.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    name = f"ci-old_ubuntu_{os.urandom(4).hex()}"  # the test's own: another worker may be in the same one's end
    trial.engine("tag", base_image, name)
    yield {"docker_image": name, "dockerfile": "./docker/old.ubuntu.amd.Dockerfile", "base_docker": base_image}
    trial.engine("rmi", name)


def test_a_manifest_without_built_models_runs_with_the_scripts_of_the_package_here(
    trial: Trial, legacy: dict[str, Any]
) -> None:
    july = {
        **legacy,
        "dockerfile": "./docker/old.ubuntu.Dockerfile",
        "docker_sha": "no such manifest: x",
        "build_duration": 4.2,
        "build_command": "docker build --build-arg TOKEN=hush .",
        "log_file": "old_old.ubuntu.build.live.log",
    }
    path = trial.folder / "build_manifest.json"
    path.write_text(json.dumps({"built_images": {"ci-old_ubuntu_amd": july}, "context": {}}))
    before = path.read_bytes()
    done = trial.run_manifest(path)
    assert done.code == 0, done.stderr
    assert done.log == b"beside\narguments: x\nperformance: 5 tokens\n"
    assert path.read_bytes() == before
    assert "hush" not in json.dumps(done.results)


def test_the_documents_own_manifest_runs(trial: Trial, legacy: dict[str, Any], registry: Registry) -> None:
    name = f"{registry.address}/document-{trial.engine.name}/ci-dummy_ubuntu_amd"
    trial.engine("tag", legacy["base_docker"], name)
    trial.engine("push", name)
    scripts = trial.folder / "scripts/dummy"
    scripts.mkdir()
    (scripts / "run.sh").write_text("echo performance: 9 documented\n")
    path = trial.folder / "build_manifest.json"
    text = DOCUMENT.replace("localhost:5000", f"{registry.address}/document-{trial.engine.name}")
    path.write_text(text)
    done = trial.run_manifest(path, "--additional-context", "{'gpu_vendor': 'AMD'}")
    assert done.code == 0, done.stderr
    assert (done.row["model"], done.row["performance"]) == ("dummy", "9")
    assert path.read_text() == text


DOCUMENT = """{
  "built_images": {
    "ci-dummy_ubuntu_amd": {
      "docker_image": "ci-dummy_ubuntu_amd",
      "dockerfile": "/path/to/dummy.ubuntu.amd.Dockerfile",
      "base_docker": "ubuntu:22.04",
      "build_duration": 45.2,
      "registry_image": "localhost:5000/ci-dummy_ubuntu_amd"
    }
  },
  "built_models": {
    "ci-dummy_ubuntu_amd": {
      "name": "dummy",
      "path": "/scripts/dummy",
      "tags": ["dummy", "test"],
      "dockerfile": "/path/to/dummy.ubuntu.amd.Dockerfile"
    }
  },
  "registry": "localhost:5000",
  "context": {
    "docker_env_vars": {},
    "docker_mounts": {},
    "docker_build_arg": {}
  }
}
"""


def test_a_manifest_without_payload_says_what_to_do_where_there_is_no_package(
    trial: Trial, legacy: dict[str, Any]
) -> None:
    (trial.folder / "models.json").unlink()
    done = trial.run(METRIC, image={"self_contained": None})
    assert done.code == 3
    assert "doesn't carry its scripts and there is no model package here" in done.reason


# --- for a look around ---


def test_keep_alive_says_how_to_enter_and_remove_the_container_and_both_work(trial: Trial) -> None:
    done = trial.run(f"echo mine > ../mine; {METRIC}", "--keep-alive")
    assert done.code == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("the container stays: ")]
    enter, remove = line.split("`")[1::2]
    inside = shlex.split(enter.replace(" -it ", " "))
    seen = outcome([*inside, "-c", "cat /myworkspace/mine"], trial.engine.environment)
    assert seen.stdout == "mine\n"
    assert len(trial.containers()) == 1
    outcome(shlex.split(remove), trial.engine.environment)
    assert not trial.containers()


def test_keep_alive_keeps_the_container_of_a_failed_script_too(trial: Trial) -> None:
    done = trial.run("exit 7", "--keep-alive")
    assert (done.code, done.reason) == (3, "exit code 7")
    (name,) = trial.containers()
    assert trial.engine("exec", name, "echo", "in").stdout == "in\n"
    trial.engine("rm", "--force", name)


def test_a_kept_container_is_no_leftover_for_the_next_run(trial: Trial) -> None:
    first = trial.run(METRIC, "--keep-alive")
    run_id, log = first.row["run_id"], next(first.workspace.glob("*.log"))
    (name,) = trial.containers(run_id)
    trial.run(METRIC)
    assert trial.containers(run_id) == [name]
    (model,) = [one for one in json.loads(_looked(trial, "status", "--json"))["models"] if one["run_id"] == run_id]
    assert (model["model"], model["state"], model["container"]) == ("any", "kept alive", name)
    assert Path(model["log"]) == log.resolve()
    assert _looked(trial, "logs", "any", f"--run-id={run_id}") == "performance: 1 tokens_per_second\n"
    assert name not in _looked(trial, "cleanup", "--dry-run")
    listed = _looked(trial, "cleanup", "--all", "--dry-run")
    assert re.search(rf"would remove container {name}: [\d.]+k?B, model any, kept alive\n", listed)
    trial.engine("rm", "--force", name)


def _looked(trial: Trial, *words: str) -> str:
    """What a command that only looks at the machine prints."""
    command = [*trial.program, *words]
    return outcome(command, {**trial.environment(), "XDG_CACHE_HOME": str(trial.folder)}, cwd=trial.folder).stdout


def test_the_printed_lines_of_a_dry_run_run_the_model(trial: Trial) -> None:
    shown = trial.run(f"echo 'from $a line'; {METRIC}", "--dry-run")
    assert shown.code == 0
    assert not (trial.folder / "runs").exists()
    ran = outcome(["sh", "-e"], trial.environment(), cwd=trial.folder, input=shown.stdout)
    assert ran.stdout.endswith("from $a line\nperformance: 1 tokens_per_second\n")


# --- who may see what ---


def test_a_secret_reaches_the_container_and_nothing_else(trial: Trial, recorded: StandIns) -> None:
    secret = "s3cr3t-Ωvalue with space"
    script = 'printf "%s" "$MAD_SECRETS_TOKEN" | wc -c; ' + METRIC
    done = trial.run(script, "--live-output", "--verbose", env={"MAD_SECRETS_TOKEN": secret})
    assert done.code == 0, done.stderr
    assert done.log.startswith(f"{len(secret.encode())}\n".encode())
    assert "MAD_SECRETS_TOKEN" in "".join(recorded.calls())
    assert secret not in "".join(recorded.calls()) + done.stdout + done.stderr
    for path in trial.folder.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    trial.run("exit 1", "--dry-run", env={"MAD_SECRETS_TOKEN": secret})
    assert secret not in trial.run("exit 1", "--dry-run", env={"MAD_SECRETS_TOKEN": secret}).stdout


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.skipif(not all(folder.stat().st_mode & 1 for folder in CHECKOUT.parents), reason="nobody else may enter")
@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_what_a_run_leaves_belongs_to_the_user_who_called(
    trial: Trial, bed: dict[str, str], users_folder: Path
) -> None:
    user, group = 12345, 23456
    socket = Path(bed["DOCKER_HOST"].removeprefix("unix://"))
    socket.parent.chmod(0o711)  # the bed's folder, which was made for one user
    own = replace(trial, folder=users_folder / "work")
    own.folder.mkdir()
    words = own.words(f"touch ../left; umask 077; mkdir -p a/b; touch a/b/c; {METRIC}", "--keep-model-dir")
    os.chown(own.folder, user, group)
    as_user = ["setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={socket.stat().st_gid}", *words]
    environment = own.environment({"HOME": str(own.folder), "DOCKER_CONFIG": str(own.folder)})
    done = own.done(*outcome(as_user, environment, cwd=own.folder, check=False))
    assert done.code == 0, done.stderr
    left = list((own.folder / "runs").rglob("*"))
    assert {"left", "a", "b", "c", "entry.json"} <= {path.name for path in left}
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in left} == {(user, group)}


@pytest.fixture
def users_folder() -> Iterator[Path]:
    """A folder outside pytest's own ones, which nobody else may enter."""
    with tempfile.TemporaryDirectory(prefix="madengine-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


# --- side by side ---


def test_two_runs_at_once_share_a_perf_csv(trial: Trial) -> None:
    def command(number: int) -> list[str]:
        folder = trial.folder / str(number)
        folder.mkdir()
        return trial.words(f"sleep 0.3; echo performance: {number} tokens", "--output", "../perf.csv")

    running = [
        subprocess.Popen(command(number), env=trial.whole(), cwd=trial.folder / str(number), stderr=subprocess.PIPE)
        for number in range(1, 4)
    ]
    assert [process.communicate()[1] and process.returncode for process in running] == [0, 0, 0]
    rows = trial.done(0, "", "").rows
    assert sorted(row["performance"] for row in rows) == ["1", "2", "3"]
    assert len({row["run_id"] for row in rows}) == 3
    wait_for(lambda: all(not trial.containers(row["run_id"]) for row in rows))
