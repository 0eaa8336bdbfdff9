"""What the engines themselves make of a Dockerfile, against what the manifest says of the image."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.bed.components import Engine, Outcome, Registry
from tests.engine.packages import Package, images, registry_digest

Madengine = Callable[..., Outcome]

# Each is built on the image that it begins with; [a] and [b] are two images, 1 is the tag of both.
FORMS = {
    "plain": "FROM [a]:1\n",
    "cased": "from [a]:1 as x\nfrom x\n",
    "argument": "ARG BASE_DOCKER=[a]:1\nFROM $BASE_DOCKER\nARG BASE_DOCKER\nRUN echo on $BASE_DOCKER\n",
    "stage-argument": "FROM [a]:1\nARG BASE_DOCKER=[b]:1\n",
    "continued": "FROM \\\n  [a]:1 \\\n  AS x\nRUN echo \"\\\nfrom [b] import nn\" \\\n# FROM [b]:1\n\n  >/x.py\n",
    "defaults": "ARG TAG\nARG EMPTY=\nFROM [a]${EMPTY:+-gpu}:${TAG:-1}\n",
    "nested": "ARG V=1\nARG TAG=${V}\nARG IMAGE=[a]:$TAG\nFROM ${IMAGE}\n",
    "quoted": "ARG IMAGE='[a]'\nFROM \"$IMAGE:1\"\n",
    "later-stage": "FROM [b]:1 AS tools\nRUN touch /x\nFROM [a]:1 AS main\nCOPY --from=tools /x /x\nFROM main\n",
    "escape": "# escape=`\n# CONTEXT {}\nFROM `\n  [a]:1\nRUN echo `\n  \\\n",
    "windows": "\ufeff# CONTEXT {}\r\nARG TAG=1\r\nFROM [a]:${TAG}\r\nRUN echo \\\r\n  on\r\n",
}  # fmt: skip


BUILDERS = pytest.mark.parametrize(
    ("engine", "uses_buildkit"), [("docker", False), ("docker", True), ("podman", False)], indirect=["engine"]
)


@pytest.fixture
def own(tmp_path: Path, base_image: str) -> Package:
    """A model package that the test fills."""
    return Package(tmp_path / "own", base_image)


def write(own: Package, prefix: str, text: str) -> None:
    """Replace the Dockerfile of a model."""
    header = "" if "CONTEXT" in text else "# CONTEXT {}\n"
    own.folder.joinpath(f"docker/{prefix}.os.Dockerfile").write_bytes((header + text).encode())


def label(engine: Engine, image: str, name: str) -> str:
    """A label of an image, which a child has from its base."""
    return str(json.loads(engine("image", "inspect", image).stdout)[0]["Config"]["Labels"].get(name, ""))


def test_the_manifests_base_image_is_the_one_that_the_engine_built_on(
    engine: Engine, madengine: Madengine, own: Package, base_image: str, tmp_path: Path
) -> None:
    names = {letter: f"{letter}{uuid4().hex[:10]}" for letter in "ab"}
    for name in names.values():
        (tmp_path / "base.Dockerfile").write_text(f"FROM {base_image}\nLABEL test.base={name}:1\n")
        engine("build", "--tag", f"{name}:1", "--file", str(tmp_path / "base.Dockerfile"), str(tmp_path))
    for form, text in FORMS.items():
        prefix = own.add(form)
        write(own, prefix, text.replace("[a]", names["a"]).replace("[b]", names["b"]))
    madengine("build", cwd=own.folder)
    bases = {
        key: (image["base_docker"], label(engine, image["image_id"], "test.base"))
        for key, image in images(own.folder).items()
    }
    assert bases == {f"ci-{form}_os": (f"{names['a']}:1", f"{names['a']}:1") for form in FORMS}


@pytest.mark.parametrize(
    "steps",
    [
        "ARG BATCH\nENV MEASURED=$BATCH",
        "ARG BATCH=1\nARG TWICE=$BATCH\nLABEL x=$TWICE\nENV MEASURED=${TWICE:-none}\nWORKDIR /w$BATCH",
        "ARG BATCH=1\nENV MEASURED=$BATCH\nFROM [base]\nCOPY --from=0 /bin/true /x\nARG BATCH\nENV MEASURED=$BATCH",
    ],
)
def test_a_build_argument_reaches_the_image_whatever_was_built_before(
    engine: Engine, madengine: Madengine, own: Package, base_image: str, steps: str
) -> None:
    own.add("measured", steps.replace("[base]", base_image))
    for batch in ("11", "22"):
        context = json.dumps({"docker_build_arg": {"BATCH": batch}})
        madengine("build", "--additional-context", context, cwd=own.folder)
        (image,) = images(own.folder).values()
        shown = engine("run", "--rm", "--entrypoint=/bin/sh", image["image_id"], "-c", "echo $MEASURED")
        assert shown.stdout == f"{batch}\n"


def test_each_architecture_gets_an_image_of_its_own(engine: Engine, madengine: Madengine, own: Package) -> None:
    own.add("arch", "ARG MAD_SYSTEM_GPU_ARCHITECTURE\nENV ARCH=$MAD_SYSTEM_GPU_ARCHITECTURE")
    madengine("build", "--target-archs", "gfx90a", "gfx942", cwd=own.folder)
    for architecture in ("gfx90a", "gfx942"):
        image = images(own.folder)[f"ci-arch_os_{architecture}"]["image_id"]
        assert engine("run", "--rm", "--entrypoint=/bin/sh", image, "-c", "echo $ARCH").stdout == f"{architecture}\n"


def buildkit(engine: Engine) -> dict[str, str]:
    """What makes Debian's docker build with BuildKit; podman mounts without it."""
    return {"DOCKER_BUILDKIT": "1", "PATH": f"/usr/bin:{os.environ['PATH']}"} if engine.name == "docker" else {}


def test_a_mounted_file_reaches_the_image_whatever_was_built_before(
    engine: Engine, madengine: Madengine, own: Package
) -> None:
    own.add("mounts", "RUN --mount=source=batch,target=/batch cp /batch /measured")
    for batch in ("11", "22"):
        (own.folder / "docker/batch").write_text(batch)
        madengine("build", cwd=own.folder, env=buildkit(engine))
        (image,) = images(own.folder).values()
        assert engine("run", "--rm", "--entrypoint=/bin/cat", image["image_id"], "/measured").stdout == batch


@pytest.fixture
def remote_base(engine: Engine, registry: Registry, base_image: str, tmp_path: Path) -> tuple[str, str]:
    """The name of a base image that only the registry has, and its digest there."""
    name = f"{registry.address}/{uuid4().hex[:10]}:1"
    (tmp_path / "base.Dockerfile").write_text(f"FROM {base_image}\nLABEL test.name={name}\n")
    engine("build", "--tag", name, "--file", str(tmp_path / "base.Dockerfile"), str(tmp_path))
    engine("push", *(["--tls-verify=false"] if engine.name == "podman" else []), name)
    engine("rmi", "--force", name)
    return name, registry_digest(registry, name)


@BUILDERS
@pytest.mark.parametrize("form", ["[name]", "[repository]@[digest]", "[repository]:1@[digest]"])
def test_the_manifest_has_the_digest_of_a_base_image_that_only_the_registry_had(
    engine: Engine, madengine: Madengine, own: Package, remote_base: tuple[str, str], uses_buildkit: bool, form: str
) -> None:
    name, digest = remote_base
    base = form.replace("[name]", name).replace("[repository]", name.removesuffix(":1")).replace("[digest]", digest)
    write(own, own.add("remote"), f"FROM {base} AS first\nRUN true\nFROM first\n")
    madengine("build", cwd=own.folder, env=buildkit(engine) if uses_buildkit else {})
    (image,) = images(own.folder).values()
    assert (image["base_docker"], image["docker_sha"]) == (base, digest)


@BUILDERS
def test_a_script_of_the_same_length_makes_another_image_where_all_files_have_one_time(
    engine: Engine, madengine: Madengine, own: Package, uses_buildkit: bool
) -> None:
    prefix = own.add("timed")
    for number in ("1", "2"):
        (own.folder / f"scripts/{prefix}/run.sh").write_text(f"echo 'performance: {number} runs'\n")
        madengine("build", "--jobs", "2", cwd=own.folder, env=buildkit(engine) if uses_buildkit else {})
        (image,) = images(own.folder).values()
        look = "find /opt/madengine -type f -exec stat -c %Y {} +; cat /opt/madengine/scripts/run.sh"
        shown = engine("run", "--rm", "--entrypoint=/bin/sh", image["image_id"], "-c", look).stdout.splitlines()
        assert len({*shown[:-1]}) == 1
        assert int(shown[0]) < 1_600_000_000
        assert shown[-1] == f"echo 'performance: {number} runs'"
