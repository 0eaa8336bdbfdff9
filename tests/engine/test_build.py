"""`madengine build` on real engines: images, names, payload, manifest, logs, bad input, interruption."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote
from uuid import uuid4

import pytest

from madengine import __version__
from madengine.config.manifest import load_manifest
from tests.bed.components import Engine, Outcome, Registry, outcome
from tests.engine.packages import Meeting, Package, images, read_json, registry_digest, started

Madengine = Callable[..., Outcome]
KEYS = {f"ci-dummy_ubuntu_{vendor}" for vendor in ("amd", "cpu", "nvidia")}
PRINT_ARGUMENTS = "printf '<%s>\\n' \"$@\"\n"


class Built(NamedTuple):
    """A build of the starter package: where it ran, where it was pushed, and what it printed."""

    folder: Path
    registry: str
    outcome: Outcome


@pytest.fixture
def token() -> str:
    """A word that no other test's images have in their names."""
    return f"t{uuid4().hex[:10]}"


@pytest.fixture
def own(tmp_path: Path, base_image: str) -> Package:
    """A model package that the test fills."""
    return Package(tmp_path / "own", base_image)


@pytest.fixture(scope="module")
def starters() -> dict[str, Built]:
    """The builds of the starter package so far, by engine: they are shared."""
    return {}


@pytest.fixture
def starter(
    engine: Engine,
    madengine: Madengine,
    registry: Registry,
    base_image: str,
    starters: dict[str, Built],
    tmp_path_factory: pytest.TempPathFactory,
) -> Built:
    """The starter package, built and pushed as the document's example does it."""
    if engine.name not in starters:
        folder = tmp_path_factory.mktemp("starter")
        where = f"{registry.address}/{uuid4().hex[:10]}"
        context = json.dumps({"docker_build_arg": {"BASE_DOCKER": base_image}})
        words = ("--tags", "dummy", "--registry", where, "--additional-context", context)
        starters[engine.name] = Built(folder, where, madengine("build", *words, cwd=folder))
    return starters[engine.name]


def inspect(engine: Engine, image: str) -> dict[str, Any]:
    """The engine's record of an image."""
    found: dict[str, Any] = json.loads(engine("image", "inspect", image).stdout)[0]
    return found


def text_of(folder: Path) -> str:
    """Every file below a folder, as one text."""
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*")) if path.is_file())


# --- the starter package ---


def test_the_starter_package_becomes_one_image_for_each_of_its_dockerfiles(starter: Built, engine: Engine) -> None:
    found = images(starter.folder)
    assert set(found) == KEYS
    for key, image in found.items():
        vendor = {"cpu": "none"}.get(key.rpartition("_")[2], key.rpartition("_")[2]).upper()
        assert (image["docker_image"], image["gpu_vendor"], image["guest_os"]) == (key, vendor, "UBUNTU")
        assert image["dockerfile"] == f"docker/{key.removeprefix('ci-').replace('_', '.')}.Dockerfile"
        record = inspect(engine, image["image_id"])
        assert record["Id"].removeprefix("sha256:") == image["image_id"].removeprefix("sha256:")
        assert record["Size"] == image["size_bytes"] > 0
        assert record["Config"]["Labels"]["madengine.model"] == "dummy"


def test_the_manifest_has_every_key_of_the_document_and_ours(starter: Built, base_image: str) -> None:
    written = read_json(starter.folder / "build_manifest.json")
    assert list(written) == [
        *("built_images", "built_models", "context", "schema_version", "created", "madengine_version", "registry")
    ]
    for image in written["built_images"].values():
        assert {"docker_image", "dockerfile", "base_docker", "build_duration", "registry_image"} <= set(image)
        assert {"image_id", "registry_digest", "self_contained", "size_bytes", "docker_sha", "log_file"} <= set(image)
        assert (image["base_docker"], image["docker_sha"], image["self_contained"]) == (base_image, "", True)
        assert image["build_duration"] > 0
    for model in written["built_models"].values():
        assert (model["name"], model["tags"], model["dockerfile"]) == ("dummy", ["dummy"], "docker/dummy")
    assert written["registry"] == starter.registry
    assert written["context"] == {
        "docker_env_vars": {},
        "docker_mounts": {},
        "docker_build_arg": {"BASE_DOCKER": base_image},
    }
    assert (written["schema_version"], written["madengine_version"]) == (1, __version__)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", written["created"])


def test_the_manifest_is_read_back_as_it_was_written(starter: Built) -> None:
    kept = load_manifest(starter.folder / "build_manifest.json")
    assert {image.key for image in kept.images} == set(kept.models) == KEYS


def test_the_build_summary_is_the_documents_example_field_by_field(starter: Built) -> None:
    summary = read_json(starter.folder / "build_summary.json")
    assert {"successful_builds", "failed_builds", "total_build_time", "registry_url"} <= set(summary)
    assert (summary["failed_builds"], summary["registry_url"]) == ([], starter.registry)
    assert summary["total_build_time"] > 0
    assert len(summary["successful_builds"]) == 3
    for build in summary["successful_builds"]:
        assert build["model_name"] == "dummy"
        assert build["image_tag"] == f"{starter.registry}/{build['image']}"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", build["build_time"])
        assert re.fullmatch(r"[\d.]+[kMG]B", build["image_size"])


def test_the_image_of_a_single_variant_is_in_the_summary_as_the_document_names_it(
    madengine: Madengine, registry: Registry, own: Package, token: str
) -> None:
    own.add(f"Dummy-{token}")
    madengine("build", "--registry", registry.address, cwd=own.folder)
    (build,) = read_json(own.folder / "build_summary.json")["successful_builds"]
    assert build["image_tag"] == f"{registry.address}/madengine/dummy-{token}:latest"


def test_a_build_log_has_the_lines_that_older_tools_look_for(starter: Built, base_image: str) -> None:
    log = starter.folder / "build_logs/dummy_dummy.ubuntu.amd.build.live.log"
    lines = log.read_text().splitlines()
    assert [line for line in lines if re.fullmatch(r"Build Duration: \d+\.\d+ seconds", line)]
    assert "MAD_CONTAINER_IMAGE is ci-dummy_ubuntu_amd" in lines
    assert f"BASE DOCKER is {base_image}" in lines
    assert "BASE DOCKER SHA is " in lines
    assert images(starter.folder)["ci-dummy_ubuntu_amd"]["log_file"] == "build_logs/" + log.name


def test_stdout_has_one_line_for_each_image_with_its_digest(starter: Built) -> None:
    pinned = {
        f"{key}  {image['registry_image']}@{image['registry_digest']}" for key, image in images(starter.folder).items()
    }
    assert set(starter.outcome.stdout.splitlines()) == pinned


def test_an_image_runs_its_model_by_itself(starter: Built, engine: Engine) -> None:
    ran = engine("run", "--rm", images(starter.folder)["ci-dummy_ubuntu_cpu"]["image_id"])
    assert re.search(r"^performance: \d+ iterations_per_second$", ran.stdout, re.MULTILINE)


# --- what an image holds ---


def test_an_image_runs_with_the_cards_arguments_or_with_others(
    madengine: Madengine, engine: Engine, own: Package, token: str
) -> None:
    own.add(token, script=PRINT_ARGUMENTS, args="--of 'the card'")
    madengine("build", cwd=own.folder)
    (key,) = images(own.folder)
    entry = "/opt/madengine/entry.sh"
    assert engine("run", "--rm", key).stdout == "<--of>\n<the card>\n"
    assert engine("run", "--rm", key, entry).stdout == "<--of>\n<the card>\n"
    assert engine("run", "--rm", key, entry, "--", "a b", "$HOME").stdout == "<a b>\n<$HOME>\n"
    assert engine("run", "--rm", key, "cat", "/opt/madengine/model.json").stdout.count(f'"name": "{token}"') == 1


def test_arguments_arrive_as_they_were_written(madengine: Madengine, engine: Engine, own: Package, token: str) -> None:
    args = """--text 'it'"'"'s' "a  b" '$HOME' '`id`' "$(id)" '*' '' 'new
line' ünï 'back\\slash' 'END' '!' '#no comment' -- --last"""
    own.add(token, script=PRINT_ARGUMENTS, args=args)
    madengine("build", cwd=own.folder)
    (key,) = images(own.folder)
    assert engine("run", "--rm", key).stdout == "".join(f"<{word}>\n" for word in shlex.split(args))


def test_an_entrypoint_and_a_folder_of_the_models_own_dockerfile_do_not_get_in_the_way(
    madengine: Madengine, engine: Engine, own: Package, token: str
) -> None:
    own.add(token, steps='WORKDIR /elsewhere\nENTRYPOINT ["/bin/false"]\nCMD ["false"]', script="echo it ran\n")
    madengine("build", cwd=own.folder)
    assert engine("run", "--rm", *images(own.folder)).stdout == "it ran\n"


def test_all_files_beside_the_script_are_in_the_image(
    madengine: Madengine, engine: Engine, own: Package, token: str
) -> None:
    prefix = own.add(token, script="cat data/numbers.txt; ./tool; cat link\n")
    scripts = own.folder / "scripts" / prefix
    (scripts / "data").mkdir()
    (scripts / "data/numbers.txt").write_text("1 2 3\n")
    (scripts / "tool").write_text("#!/bin/sh\necho a tool\n")
    (scripts / "tool").chmod(0o755)
    (own.folder / "outside.txt").write_text("from outside the folder\n")
    (scripts / "link").symlink_to("../../outside.txt")
    madengine("build", cwd=own.folder)
    assert engine("run", "--rm", *images(own.folder)).stdout == "1 2 3\na tool\nfrom outside the folder\n"


# --- the same again ---


def test_a_second_build_gives_the_same_images_and_digests(
    madengine: Madengine, registry: Registry, package: Path, base_image: str, token: str
) -> None:
    (package / "scripts/dummy/mark").write_text(token)
    context = json.dumps({"docker_build_arg": {"BASE_DOCKER": base_image}})
    words = ("build", "--registry", f"{registry.address}/{token}", "-c", context)
    madengine(*words, cwd=package)
    first = {key: (image["image_id"], image["registry_digest"]) for key, image in images(package).items()}
    madengine(*words, cwd=package)
    second = {key: (image["image_id"], image["registry_digest"]) for key, image in images(package).items()}
    assert first == second
    assert len(first) == 3


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_a_second_build_with_buildkit_gives_the_same_images_and_digests(
    madengine: Madengine, registry: Registry, package: Path, base_image: str, token: str
) -> None:
    (package / "scripts/dummy/mark").write_text(token)
    context = json.dumps({"docker_build_arg": {"BASE_DOCKER": base_image}})
    words = ("build", "--jobs", "2", "--registry", f"{registry.address}/{token}", "-c", context)
    # The distribution's docker has BuildKit in it; another one that comes before it on PATH may lack its plugin.
    buildkit = {"DOCKER_BUILDKIT": "1", "PATH": f"/usr/bin:{os.environ['PATH']}"}
    madengine(*words, cwd=package, env=buildkit)
    first = {key: (image["image_id"], image["registry_digest"]) for key, image in images(package).items()}
    assert "exporting to image" in text_of(package / "build_logs")
    madengine(*words, cwd=package, env=buildkit)
    assert {key: (image["image_id"], image["registry_digest"]) for key, image in images(package).items()} == first


def test_a_changed_script_changes_the_image_and_nothing_else_does(
    madengine: Madengine, own: Package, token: str
) -> None:
    prefix = own.add(token)
    other = own.add(f"{token}-other")
    madengine("build", cwd=own.folder)
    first = {key: image["image_id"] for key, image in images(own.folder).items()}
    (own.folder / f"scripts/{prefix}/run.sh").write_text("echo 'performance: 2 runs'\n")
    (own.folder / f"scripts/{other}/run.sh").touch()
    madengine("build", cwd=own.folder)
    second = {key: image["image_id"] for key, image in images(own.folder).items()}
    assert first[f"ci-{token}_os"] != second[f"ci-{token}_os"]
    assert first[f"ci-{token}-other_os"] == second[f"ci-{token}-other_os"]


def test_clean_docker_cache_runs_every_step_again(madengine: Madengine, own: Package, token: str) -> None:
    own.add(token, steps=f"RUN : {token}; cat /proc/uptime >/built")
    ids = []
    for words in ((), (), ("--clean-docker-cache",)):
        madengine("build", *words, cwd=own.folder)
        ids += [image["image_id"] for image in images(own.folder).values()]
    assert ids[0] == ids[1] != ids[2]


def test_the_tag_of_a_local_base_image_is_enough(
    madengine: Madengine, engine: Engine, own: Package, base_image: str, token: str
) -> None:
    base = f"no-such-hub.invalid/{token}:1"
    engine("tag", base_image, base)
    own.base = base
    own.add(token)
    madengine("build", cwd=own.folder)
    assert images(own.folder)[f"ci-{token}_os"]["base_docker"] == base


def test_the_digest_of_a_base_image_that_has_one_is_in_the_manifest(
    madengine: Madengine, engine: Engine, tmp_path: Path, base_image: str, registry: Registry, token: str
) -> None:
    bases = Package(tmp_path / "bases", base_image)
    bases.add(f"{token}-base", steps=f"RUN : {token}")
    madengine("build", "--registry", f"{registry.address}/{token}", cwd=bases.folder)
    ((key, image),) = images(bases.folder).items()
    engine("rmi", "--force", image["image_id"], f"{key}:base")
    own = Package(tmp_path / "own", image["registry_image"])
    own.add(token)
    madengine("build", cwd=own.folder)
    assert images(own.folder)[f"ci-{token}_os"]["docker_sha"] == image["registry_digest"]
    assert f"BASE DOCKER SHA is {image['registry_digest']}" in text_of(own.folder / "build_logs")


def test_build_arguments_of_the_context_reach_the_build(madengine: Madengine, own: Package, token: str) -> None:
    own.add(token, steps=f'ARG NUMBER\nARG FLAG\nARG TEXT\nRUN : {token}; echo "got $NUMBER $FLAG $TEXT $HTTP_PROXY"')
    text = "a 'b' $HOME `id`"
    arguments = {"NUMBER": 8, "FLAG": True, "TEXT": text, "HTTP_PROXY": "http://proxy.invalid:3128"}
    madengine("build", "-c", json.dumps({"docker_build_arg": arguments}), cwd=own.folder)
    assert re.search(
        rf"^(#\d+ [\d.]+ )?got 8 true {re.escape(text)} http://proxy\.invalid:3128$",
        text_of(own.folder / "build_logs"),
        re.MULTILINE,
    )
    assert read_json(own.folder / "build_manifest.json")["context"]["docker_build_arg"]["NUMBER"] == 8


# --- names ---

NAMES = [
    "a/b",
    "a_b",
    "UPPER and space",
    "upper_and_space",
    "quotes ' and \"",
    "$HOME `id` $(id)\nnew line",
    "n" * 200,
    "n" * 199 + "m",
    "名前",
    "-dots..and__more.\\",
]


def test_names_of_every_kind_become_images_of_their_own(
    madengine: Madengine, engine: Engine, own: Package, registry: Registry, token: str
) -> None:
    for name in NAMES:
        own.add(name)
    madengine("build", "--registry", f"{registry.address}/{token}", cwd=own.folder)
    found = read_json(own.folder / "build_manifest.json")
    assert sorted(model["name"] for model in found["built_models"].values()) == sorted(NAMES)
    assert len({image["log_file"] for image in found["built_images"].values()}) == len(NAMES)
    assert len({image["registry_digest"] for image in found["built_images"].values()}) == len(NAMES)
    for key, model in found["built_models"].items():
        # its own id, not its name: other tests build models of these names too
        record = inspect(engine, found["built_images"][key]["image_id"])
        assert unquote(record["Config"]["Labels"]["madengine.model"]) == model["name"]


def test_the_same_model_with_other_arguments_is_an_image_of_its_own(
    madengine: Madengine, engine: Engine, own: Package, token: str
) -> None:
    own.add(token, script=PRINT_ARGUMENTS, args="--batch 1")
    madengine("build", "--tags", token, f"{token}:size=8", cwd=own.folder)
    found = read_json(own.folder / "build_manifest.json")
    assert len(found["built_images"]) == 2
    for key, model in found["built_models"].items():
        assert engine("run", "--rm", key).stdout.split() == [f"<{word}>" for word in model["args"].split()]
    assert {model["args"].strip() for model in found["built_models"].values()} == {"--batch 1", "--batch 1 --size 8"}


# --- what goes wrong ---


def test_a_failing_dockerfile_does_not_stop_the_others(madengine: Madengine, own: Package, token: str) -> None:
    own.add(f"{token}-a")
    own.add(f"{token}-bad", steps="RUN echo the reason; exit 3")
    own.add(f"{token}-z")
    ended = madengine("build", "--jobs", "2", cwd=own.folder, check=False)
    assert ended.code == 2
    assert set(images(own.folder)) == {f"ci-{token}-a_os", f"ci-{token}-z_os"}
    assert re.search(r"^  \| (#\d+ [\d.]+ )?the reason$", ended.stderr, re.MULTILINE)
    log = f"build_logs/{token}-bad_m1.os.build.live.log"
    assert f"  the whole log: {log}" in ended.stderr.splitlines()
    (failed,) = read_json(own.folder / "build_summary.json")["failed_builds"]
    assert (failed["model_name"], failed["dockerfile"], failed["log_file"]) == (
        f"{token}-bad",
        "docker/m1.os.Dockerfile",
        log,
    )
    assert "the build failed" in failed["error"]
    assert "Traceback" not in ended.stderr


def test_models_that_can_not_be_built_are_named_with_the_reason(madengine: Madengine, own: Package, token: str) -> None:
    own.add("good-" + token)
    own.add("other-vendor", header="# CONTEXT {'gpu_vendor': 'AMD'}")
    own.add("no-header", header="# a comment")
    own.add("no-literal", header="# CONTEXT {'gpu_vendor': vendor()}")
    own.add("no-dockerfile", dockerfile="docker/nothing")
    own.add("no-scripts", scripts="scripts/nothing")
    own.add("no-folder", dockercontext="nowhere")
    own.add("open-quote", args="--text 'open")
    ended = madengine("build", "-c", '{"gpu_vendor": "NVIDIA"}', cwd=own.folder, check=False)
    reasons = {
        "other-vendor": "docker/m1.os.Dockerfile: gpu_vendor is 'AMD', the context says 'NVIDIA'",
        "no-header": "docker/m2.os.Dockerfile: no `# CONTEXT {…}` in its first 5 lines",
        "no-literal": "docker/m3.os.Dockerfile:1: invalid CONTEXT header",
        "no-dockerfile": "no Dockerfile docker/nothing.*.Dockerfile for the model 'no-dockerfile'",
        "no-scripts": "scripts/nothing/run.sh: no such file",
        "no-folder": "nowhere: no such folder",
        "open-quote": "args of 'open-quote': no closing quotation",
    }
    assert ended.code == 2
    failed = {one["model_name"]: one["error"] for one in read_json(own.folder / "build_summary.json")["failed_builds"]}
    assert set(failed) == set(reasons)
    for name, reason in reasons.items():
        assert reason.lower() in failed[name].lower()
        assert "\n" not in failed[name]
        assert failed[name] in ended.stderr
    assert set(images(own.folder)) == {f"ci-good-{token}_os"}


def test_a_base_image_that_is_nowhere_is_named(madengine: Madengine, own: Package, token: str) -> None:
    own.base = f"127.0.0.1:1/{token}:none"
    own.add(token)
    ended = madengine("build", cwd=own.folder, check=False)
    assert ended.code == 2
    assert f"127.0.0.1:1/{token}" in read_json(own.folder / "build_summary.json")["failed_builds"][0]["error"]
    assert images(own.folder) == {}


def test_a_log_folder_that_can_not_be_written_is_one_line(madengine: Madengine, own: Package, token: str) -> None:
    own.add(token)
    (own.folder / "build_logs").write_text("a file")
    ended = madengine("build", cwd=own.folder, check=False)
    assert ended.code == 2
    assert f"build_logs/{token}_m0.os.build.live.log: can't be written" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_manifest_folder_that_can_not_be_written_is_one_line(madengine: Madengine, own: Package, token: str) -> None:
    own.add(token)
    (own.folder / "file").write_text("")
    ended = madengine("build", "--manifest-output", "file/manifest.json", cwd=own.folder, check=False)
    assert ended.code == 4
    assert ended.stderr.count("\n") == 1
    assert "file/manifest.json: can't be written" in ended.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_a_build_with_one_line_and_the_earlier_manifest(
    madengine: Madengine, base_image: str, small_disk: Path, token: str
) -> None:
    own = Package(small_disk / "own", base_image)
    own.add(token)
    madengine("build", cwd=own.folder)
    earlier = (own.folder / "build_manifest.json").read_bytes()
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space"):
        while True:
            ballast.write(bytes(4096))
    ended = madengine("build", cwd=own.folder, check=False)
    assert ended.code in (1, 2)
    assert "no space left on device" in ended.stderr.lower()
    assert "Traceback" not in ended.stderr
    assert (own.folder / "build_manifest.json").read_bytes() == earlier


def test_a_full_disk_for_temporary_files_is_one_line(
    madengine: Madengine, own: Package, small_disk: Path, token: str
) -> None:
    own.add(token)
    (small_disk / "ballast").write_bytes(bytes((1 << 20) - (64 << 10)))
    (own.folder / "scripts/m0/large").write_bytes(bytes(256 << 10))
    ended = madengine("build", cwd=own.folder, env={"TMPDIR": str(small_disk)}, check=False)
    assert ended.code == 2
    assert "no space left on device" in ended.stderr.lower()
    assert "Traceback" not in ended.stderr
    assert images(own.folder) == {}


# --- dry run ---


def test_the_lines_of_a_dry_run_build_and_push_the_same_images(
    madengine: Madengine, engine: Engine, registry: Registry, package: Path, base_image: str, token: str
) -> None:
    (package / "scripts/dummy/mark").write_text(token)
    context = json.dumps({"docker_build_arg": {"BASE_DOCKER": base_image, "TEXT": "a 'b' $c"}})
    words = ("build", "-c", context, "--registry")
    madengine(*words, f"{registry.address}/{token}/built", cwd=package)
    lines = madengine(*words, f"{registry.address}/{token}/shell", "--dry-run", cwd=package).stdout
    before = set(package.rglob("*"))
    outcome(["sh"], engine.environment, cwd=package, input=lines)
    for key, image in images(package).items():
        assert registry_digest(registry, f"{token}/shell/{key}") == image["registry_digest"]
    assert set(package.rglob("*")) == before


def test_the_lines_of_a_dry_run_work_from_a_folder_that_is_not_the_packages(
    madengine: Madengine, engine: Engine, tmp_path: Path, base_image: str, token: str
) -> None:
    own = Package(tmp_path / "model package's $folder", base_image)
    own.add(token, script=PRINT_ARGUMENTS, args="'a  b' \"it's\"")
    here = tmp_path / "working folder"
    here.mkdir()
    lines = madengine("build", "--dry-run", cwd=here, env={"MODEL_DIR": str(own.folder)}).stdout
    assert list(here.iterdir()) == []
    assert engine("image", "inspect", f"ci-{token}_os", check=False).code != 0
    outcome(["sh"], engine.environment, cwd=here, input=lines)
    assert engine("run", "--rm", f"ci-{token}_os").stdout == "<a  b>\n<it's>\n"
    madengine("build", cwd=here, env={"MODEL_DIR": str(own.folder)})
    record = inspect(engine, f"ci-{token}_os")
    assert record["Id"].removeprefix("sha256:") == images(here)[f"ci-{token}_os"]["image_id"].removeprefix("sha256:")


def test_the_lines_of_a_dry_run_build_what_was_deleted_again(
    madengine: Madengine, engine: Engine, own: Package, token: str
) -> None:
    own.add(token, script="echo as before\n")
    madengine("build", cwd=own.folder)
    engine("rmi", f"ci-{token}_os")
    outcome(["sh"], engine.environment, cwd=own.folder, input=madengine("build", "--dry-run", cwd=own.folder).stdout)
    assert engine("run", "--rm", f"ci-{token}_os").stdout == "as before\n"


# --- side by side, and interrupted ---


@pytest.fixture
def meeting() -> Iterator[Callable[[int], Meeting]]:
    """Makes meeting points; they end with the test."""
    made: list[Meeting] = []

    def make(parties: int) -> Meeting:
        made.append(Meeting(parties))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_builds_run_side_by_side(
    madengine: Madengine, own: Package, token: str, meeting: Callable[[int], Meeting]
) -> None:
    place = meeting(4)
    for number in range(4):
        own.add(f"{token}-{number}", steps=f"RUN echo {number}; nc -w 60 127.0.0.1 {place.port}")
    madengine("build", "--jobs", "4", cwd=own.folder)
    assert place.most == 4
    assert len(images(own.folder)) == 4


def test_no_more_builds_run_than_jobs_says(
    madengine: Madengine, own: Package, token: str, meeting: Callable[[int], Meeting]
) -> None:
    place = meeting(2)
    for number in range(4):
        own.add(f"{token}-{number}", steps=f"RUN echo {number}; nc -w 60 127.0.0.1 {place.port}")
    madengine("build", "--jobs", "2", cwd=own.folder)
    assert place.most == 2


def test_models_that_share_a_dockerfile_build_it_once(madengine: Madengine, own: Package, token: str) -> None:
    own.add(f"{token}-0", steps=f"RUN : {token}; cat /proc/sys/kernel/random/uuid")
    for number in range(1, 4):
        own.add(f"{token}-{number}", dockerfile="docker/m0")
    madengine("build", "--jobs", "4", cwd=own.folder)
    seen = re.findall(r"^(?:#\d+ [\d.]+ )?[0-9a-f]{8}-[0-9a-f-]{27}$", text_of(own.folder / "build_logs"), re.MULTILINE)
    assert len(images(own.folder)) == 4
    assert len(seen) == 1


def seconds_until(condition: Callable[[], bool], limit: float = 30.0) -> float:
    """How long it took; fails the test where it never comes."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit, "it never came"
        time.sleep(0.02)
    return time.monotonic() - began


def processes_with(word: str) -> list[str]:
    """The command lines on this machine that have a word in them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in found if word in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupted_build_leaves_no_process_and_the_earlier_manifest(
    engine: Engine, own: Package, token: str, meeting: Callable[[int], Meeting], number: signal.Signals
) -> None:
    place = meeting(99)
    own.add(token, steps=f"RUN : {token}; nc -w 60 127.0.0.1 {place.port}")
    own.add(f"{token}-too", steps=f"RUN : {token} too; nc -w 60 127.0.0.1 {place.port}")
    (own.folder / "build_manifest.json").write_text("the earlier one")
    with started(engine, own.folder, "build") as process:
        seconds_until(lambda: place.most == 2)
        process.send_signal(number)
        assert process.wait(20) == 130
    seconds_until(lambda: not processes_with(token), limit=5)
    stderr = (own.folder / "stderr").read_text()
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "interrupted"
    assert (own.folder / "build_manifest.json").read_text() == "the earlier one"
    assert not (own.folder / "build_summary.json").exists()


def test_after_a_kill_in_the_middle_a_second_build_works(
    madengine: Madengine, engine: Engine, own: Package, token: str, meeting: Callable[[int], Meeting]
) -> None:
    place = meeting(2)
    own.add(token, steps=f"RUN : {token}; nc -w 60 127.0.0.1 {place.port}; true")
    (own.folder / "build_manifest.json").write_text("the earlier one")
    with started(engine, own.folder, "build") as process:
        seconds_until(lambda: place.most == 1)
        process.kill()
        process.wait()
    assert (own.folder / "build_manifest.json").read_text() == "the earlier one"
    # What the killed one had started runs on until the second one's step meets its own; with BuildKit it is that step.
    threading.Timer(5, place.close).start()
    madengine("build", cwd=own.folder)
    assert set(images(own.folder)) == {f"ci-{token}_os"}
    seconds_until(lambda: not processes_with(token))


def test_a_build_waits_for_another_one_of_the_same_image_and_can_be_interrupted_meanwhile(
    engine: Engine, own: Package, tmp_path: Path, token: str, meeting: Callable[[int], Meeting]
) -> None:
    place = meeting(2)
    own.add(token, steps=f"RUN : {token}; nc -w 60 127.0.0.1 {place.port}")
    other = Path(shutil.copytree(own.folder, tmp_path / "other"))
    with started(engine, own.folder, "build") as first, started(engine, other, "build") as second:
        seconds_until(lambda: place.most == 1)
        says_so = f"ci-{token}_os: waiting for another build of it"
        seconds_until(lambda: says_so in (own.folder / "stderr").read_text() + (other / "stderr").read_text())
        waiting, building = (first, second) if says_so in (own.folder / "stderr").read_text() else (second, first)
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(5) == 130
        assert building.poll() is None
        building.send_signal(signal.SIGINT)
        assert building.wait(20) == 130


def test_two_builds_of_one_image_at_once_both_succeed(engine: Engine, own: Package, tmp_path: Path, token: str) -> None:
    own.add(token, steps=f"RUN : {token}; cat /proc/sys/kernel/random/uuid")
    other = Path(shutil.copytree(own.folder, tmp_path / "other"))
    with started(engine, own.folder, "build") as first, started(engine, other, "build") as second:
        assert (first.wait(60), second.wait(60)) == (0, 0)
    assert images(own.folder)[f"ci-{token}_os"]["image_id"] == images(other)[f"ci-{token}_os"]["image_id"]


# Job B builds its own image after job A, which then adds its payload, and pushes after B has tagged its image too.
STEPS = """#!/bin/sh
await() { while [ ! -e "$STEPS/$1" ]; do sleep 0.05; done; }
case "$JOB $*" in
  A*MODEL_IMAGE=*) await base-B ;;
  "A push"*) await image-B ;;
  "B build"*) await base-A ;;
esac
"$ENGINE" "$@" || exit
case "$*" in
  *MODEL_IMAGE=*) touch "$STEPS/image-$JOB" ;;
  build*) touch "$STEPS/base-$JOB" ;;
esac
"""


def test_two_builds_of_one_name_at_once_each_have_their_own_image(
    engine: Engine, registry: Registry, tmp_path: Path, base_image: str, token: str
) -> None:
    """As CI starts them: two branches of a package, each with its own TMPDIR."""
    steps = tmp_path / "steps"
    steps.mkdir()
    real = str(shutil.which(engine.name))
    (steps / engine.name).write_text(STEPS)
    (steps / engine.name).chmod(0o755)
    jobs = {}
    with ExitStack() as stack:
        for job in ("A", "B"):
            own = Package(tmp_path / job, base_image)
            own.add(token, steps=f"RUN : {token}; echo {job} >/job", script="cat /job\n")
            (tmp_path / f"tmp{job}").mkdir()
            settings = {"JOB": job, "STEPS": str(steps), "ENGINE": real, "TMPDIR": str(tmp_path / f"tmp{job}")}
            environment = {**settings, "PATH": f"{steps}:{os.environ['PATH']}"}
            words = ("build", "--registry", f"{registry.address}/{token}")
            jobs[job] = stack.enter_context(started(engine, own.folder, *words, env=environment))
        for job, process in jobs.items():
            assert process.wait(60) == 0, (tmp_path / job / "stderr").read_text()
    entries = {job: images(tmp_path / job)[f"ci-{token}_os"] for job in jobs}
    for job, image in entries.items():
        assert engine("run", "--rm", image["image_id"]).stdout == f"{job}\n"
    for image in entries.values():
        engine("rmi", "--force", image["image_id"])
    for job, image in entries.items():
        pinned = f"{image['registry_image']}@{image['registry_digest']}"
        assert engine("run", "--rm", pinned).stdout == f"{job}\n"


def test_a_build_leaves_no_name_of_its_own(madengine: Madengine, engine: Engine, own: Package, token: str) -> None:
    own.add(token, steps=f"RUN : {token}")
    madengine("build", cwd=own.folder)
    listed = engine("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    names = [name.removeprefix("localhost/") for name in listed if token in name]
    assert sorted(names) == [f"ci-{token}_os:base", f"ci-{token}_os:latest"]
