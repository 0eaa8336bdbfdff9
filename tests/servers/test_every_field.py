"""A package that uses every field of a card at once: built here, run where only its manifest and its secrets are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bed.components import Engine
from tests.engine.everything import Everything, spoken
from tests.servers.programs import CANARIES, GitServer, Web

# What a build takes out of its context and out of a secret.
STEPS = """COPY note.txt /note.txt
RUN --mount=type=secret,id=GIT_PASSWORD,required=true wc -c </run/secrets/GIT_PASSWORD >/length"""
SCRIPT = """echo context $(cat /note.txt) secret $(cat /length)
echo cred $GIT_USERNAME ${#GIT_PASSWORD}
echo code ${PWD##*/} $(cat code.txt)
echo data $MAD_DATANAME $MAD_DATAHOME $(cat ${MAD_DATAHOME%,*}/set.txt) $(wc -c <${MAD_DATAHOME#*,}/numbers.bin)
echo limit $(tr '\\0' '\\n' </proc/1/environ | sed -n s/^MADENGINE_TIMEOUT=//p) gpus $MAD_RUNTIME_NGPUS
"""


@dataclass(frozen=True)
class Site:
    everything: Everything
    environment: dict[str, str]
    commit: str


@pytest.fixture
def site(engine: Engine, base_image: str, git_over_tls: tuple[GitServer, Path], tmp_path: Path) -> Iterator[Site]:
    server, certificate = git_over_tls
    token = os.urandom(4).hex()
    commit = server.repository(f"every-{token}", {"code.txt": "cloned\n", "run.sh": "exit 9\n"})
    web = Web(b"12345" * 1000)
    with web.served() as url:
        sets = {
            "here": {"local": {"path": str(tmp_path / "set")}},
            "there": {"http": {"path": url}},
            "mirrorlocal": "/",
        }
        (tmp_path / "set").mkdir()
        (tmp_path / "set/set.txt").write_text("local\n")
        files = {"docker/train/note.txt": "sent\n", "data.json": json.dumps(sets)}
        card = {
            "url": f"https://{server.address}/every-{token}.git",
            "cred": "GIT",
            "data": "here,there",
            "dockercontext": "docker/train",
            "distributed": {"launcher": "torchrun"},
            "k8s": {"namespace": "gpus"},
            "log_error_patterns": ["no such line"],
        }
        everything = Everything(engine, base_image, tmp_path, token, files, STEPS, SCRIPT, **card)
        everything.write("credential.json", json.dumps({"GIT": {"username": "ann", "password": CANARIES["cred"]}}))
        for name in ("credential.json", "data.json"):
            (everything.folder / name).chmod(0o600)
            (everything.node / name).write_bytes((everything.folder / name).read_bytes())
        # Docker's own client of Debian 12 builds with secrets without a plugin; one on PATH before it may not.
        path = f"/usr/bin:{os.environ['PATH']}" if engine.name == "docker" else os.environ["PATH"]
        yield Site(
            everything,
            {"GIT_SSL_CAINFO": str(certificate), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": path},
            commit,
        )


def test_each_field_of_a_card_has_its_effect(site: Site) -> None:
    everything = site.everything
    context = {"pre_scripts": [{"path": "scripts/sites/prepare.sh"}], "tools": [{"name": "mine"}]}
    words = ("build", "--tags", "every", "--additional-context", json.dumps(context))
    manifest = everything.build(*words[1:], env=site.environment)
    assert manifest["context"]["tools"] == context["tools"]
    assert set(manifest["built_images"]) == {"ci-every_one_os", "ci-every_two_os"}  # `old` is deprecated
    assert {image["git_commit"] for image in manifest["built_images"].values()} == {site.commit}
    done = everything.run(env=site.environment)
    assert done.code == 0, done.stderr
    logs = [spoken(log.read_bytes()) for log in sorted(everything.node.glob("runs/*/*/*.run.live.log"))]
    assert "data.json: mirrorlocal: ignored by this version" in done.stderr
    length = len(CANARIES["cred"])
    code = Path(manifest["built_models"]["ci-every_one_os"]["url"]).name
    for name, log in zip(("one", "two"), logs, strict=True):
        assert log[:3] == ["pre: before it", "prepared", "around"]
        assert log[3:10] == [
            f"context sent secret {length}",
            f"cred ann {length}",
            f"code {code} cloned",
            "data here,there /data_dlm_0,/data_dlm_1 local 5000",
            "limit 60 gpus 0",
            f"model --{name} tool 1 every",
            "post: after",
        ]
        assert log.count("around") == log.count("prepared") == 1
        (line,) = (line for line in done.stderr.splitlines() if "`k8s` ignored on one machine; " in line)
        assert f"every/{name}" in line
    assert [(row["model"], row["performance"]) for row in done.rows] == [
        *(("every/one_a", "1"), ("every/one_b", "2"), ("every/two_a", "1"), ("every/two_b", "2")),
    ]
    for row in done.rows:
        assert (row["training_precision"], row["n_gpus"], row["git_commit"]) == ("fp16", "0", site.commit)
        assert row["launcher"] == "torchrun"
        assert (row["dataname"], row["data_provider_type"]) == ("here,there", "local,http")
        assert row["additional_docker_run_options"] == "--hostname=every --env CARD=1"
        assert (row["args"], row["tags"]) == (f"--{row['model'][6:9]}", "every")
    (first, _) = done.results
    assert [metric["extra"] for metric in first["metrics"]] == [{"batch": "8"}, {"batch": "16"}]
    assert {entry["path"] for entry in first["artifacts"]} == {"artifacts/left.txt", "artifacts/trace_output.csv"}
    assert first["model"]["unknown"] == {"kept": [1]}
    assert first["model"]["owner"] == "someone@example.com"


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_fields_that_leave_a_model_out(site: Site) -> None:
    everything = site.everything
    lines = everything.madengine(everything.folder, "build", "--dry-run", "--ignore-deprecated", env=site.environment)
    assert "ci-old_os" in lines.stdout
    assert lines.code == 0, lines.stderr
    lines = everything.madengine(everything.folder, "build", "--dry-run", env=site.environment)
    assert "ci-old_os" not in lines.stdout
    (everything.folder / "credential.json").unlink()
    ended = everything.madengine(everything.folder, "build", "--tags", "every/one", env=site.environment)
    assert ended.code == 2
    assert (
        "no entry 'GIT', which model every/one needs; add it or ask the model's owner, someone@example.com"
        in ended.stderr
    )
