"""A secret of each kind is planted, everything is done with it, and it must be found nowhere."""

from __future__ import annotations

import csv
import json
import os
import signal
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.bed.components import Engine, Outcome, Registry, outcome
from tests.engine.packages import Package, started
from tests.servers.conftest import PORT, S3_USER, Nas
from tests.servers.programs import CANARIES, GitServer, Web, command, leaks, recorders, wait_for

CHECKOUT = Path(__file__).parents[2]
STARTED = ["ssh", "rsync", "aws", "curl", "git", "bash", "timeout"]
# Docker's own client of Debian 12 builds with secrets without a plugin; one on PATH before it may not.
DEBIAN = "/usr/bin"

DOCKERFILE = r"""
RUN --mount=type=secret,id=AMD_GITHUB_PASSWORD,required=true \
  test "$(wc -c </run/secrets/AMD_GITHUB_PASSWORD)" = [length] && echo ok >/built
"""
SCRIPT = r"""
fail() { echo "not here: $1"; exit 3; }
[ -e /built ] || fail secret-mount
[ ${#AMD_GITHUB_PASSWORD} = [cred] ] && [ "$AMD_GITHUB_USERNAME" = ann ] || fail cred
[ ${#MAD_SECRETS_TOKEN} = [secrets] ] && [ "$MAD_SECRETS_LINES" = "one
two \"three\"" ] || fail MAD_SECRETS
[ ${#MAD_SECRETS_FILED} = [filed] ] || fail MAD_SECRETS_FILED_FILE
[ "$(cat part/inner.txt)" = inner ] && [ "${PWD##*/}" = model.git ] || fail code
IFS=,
for home in $MAD_DATAHOME; do [ -n "$(ls $home)" ] || fail "$home"; done
[ "$MAD_DATANAME" = disk,bucket,page ] || fail MAD_DATANAME
echo 'performance: 1 runs'
"""


@dataclass(frozen=True)
class Site:
    """A package with a secret of each kind, and madengine with every program that it starts recorded."""

    package: Package
    engine: Engine
    environment: Mapping[str, str]
    argv: Path
    secrets: Mapping[str, str]

    def __call__(self, *words: str, check: bool = True) -> Outcome:
        """Run madengine in the package; what it said is kept in a file."""
        done = outcome(command(*words), self.environment, cwd=self.package.folder, check=check)
        with (self.package.folder / "said").open("a") as said:
            said.write(done.stdout + done.stderr)
        return done

    def leaks(self, *more: str) -> list[str]:
        """Where any of the secrets is, but for the files that they come from."""
        folders = [self.package.folder, self.argv.parent, self.package.folder.parent / "tmp"]
        folders.append(self.package.folder.parent / "cache")
        texts = {f"text {number}": text for number, text in enumerate(more)}
        found = leaks(texts, folders, dict(self.secrets))
        return [line for line in found if not line.endswith("/credential.json")]


@pytest.fixture
def site(
    engine: Engine,
    base_image: str,
    tls_registry: Registry,
    nas: Nas,
    s3: str,
    git_over_tls: tuple[GitServer, Path],
    known_hosts: Mapping[str, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Site:
    server, certificate = git_over_tls
    name = f"{engine.name}-{request.node.name[:20].strip('[')}"
    server.repository(f"{name}-part", {"inner.txt": "inner\n"})
    (server.folder / name).mkdir()
    GitServer(server.folder / name).repository("part", {"inner.txt": "inner\n"})
    commit = GitServer(server.folder / name).repository("model", {"run.sh": "exit 9\n"}, submodule="part")
    package = Package(tmp_path / "package", base_image)
    steps = DOCKERFILE.replace("[length]", str(len(CANARIES["cred"])))
    script = SCRIPT
    for mark, kind in (("[cred]", "cred"), ("[secrets]", "secrets"), ("[filed]", "secrets_file")):
        script = script.replace(mark, str(len(CANARIES[kind])))
    url = f"https://{server.address}/{name}/model.git"
    package.add("model", steps, script, cred="AMD_GITHUB", url=url, data="disk,bucket,page", n_gpus="0", owner=commit)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "registry").write_text(tls_registry.password)
    (secrets / "filed").write_text(CANARIES["secrets_file"] + "\n")
    _write_credentials(package.folder / "credential.json", nas, s3, tls_registry, secrets)
    folder = recorders(tmp_path / "programs", [*STARTED, engine.name], DEBIAN if engine.name == "docker" else "")
    (folder / "ssh").write_text(
        (folder / "ssh").read_text().replace("exec '/usr/bin/ssh'", f"exec '{known_hosts['PATH'].split(':')[0]}/ssh'")
    )
    (tmp_path / "tmp").mkdir()
    environment = {
        **engine.environment,
        "MADENGINE_ENGINE": engine.name,
        "PYTHONPATH": str(CHECKOUT),
        "PATH": f"{folder}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path / "tmp"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "GIT_SSL_CAINFO": str(certificate),
        "MAD_SECRETS_TOKEN": CANARIES["secrets"],
        "MAD_SECRETS_LINES": 'one\ntwo "three"',
        "MAD_SECRETS_FILED_FILE": str(secrets / "filed"),
    }
    planted = {**CANARIES, "registry": tls_registry.password}
    return Site(package, engine, environment, folder / "argv", planted)


def _write_credentials(path: Path, nas: Nas, s3: str, registry: Registry, secrets: Path) -> None:
    entries = {
        "AMD_GITHUB": {"username": "ann", "password": CANARIES["cred"]},
        "NAS_NODES": [{"HOST": nas.host, "PORT": PORT, "USERNAME": "root", "PASSWORD": CANARIES["nas"]}],
        "MAD_MINIO": {"USERNAME": S3_USER, "PASSWORD": CANARIES["s3"], "MINIO_ENDPOINT": s3},
        "web": {"username": "ann", "password": CANARIES["web"]},
        registry.address: {"username": registry.user, "password_file": str(secrets / "registry")},
    }
    path.write_text(json.dumps(entries))
    path.chmod(0o600)


def _write_data(folder: Path, url: str) -> None:
    sources: dict[str, Any] = {
        "disk": {"local": {"path": "/no/such/folder"}, "nas": {"path": "/srv/sets/a set"}},
        "bucket": {"minio": {"path": "sets/set", "home": "/bucket"}},
        "page": {"http": {"path": url, "cred": "web"}},
    }
    (folder / "data.json").write_text(json.dumps(sources))


def test_a_secret_of_each_kind_works_and_is_found_nowhere(site: Site, tls_registry: Registry, nas: Nas) -> None:
    folder = site.package.folder
    with Web(b"1234" * 1000, password=CANARIES["web"]).served() as url:
        _write_data(folder, url)
        site("build", "--dry-run", "--verbose", "--registry", tls_registry.address)
        site("build", "--verbose", "--live-output", "--registry", tls_registry.address)
        cloned = site.argv.read_text().count("git\n")
        site("run", "--manifest-file", "build_manifest.json", "--dry-run", "--verbose")
        site("run", "--manifest-file", "build_manifest.json", "--verbose", "--live-output")
        everything_else(site, tls_registry, nas)
    assert 0 < cloned == site.argv.read_text().count("git\n")  # only a build needs git
    with (folder / "perf.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["status"] == "SUCCESS", row
    assert row["dataname"] == "disk,bucket,page"
    assert row["data_provider_type"] == "nas,minio,http"
    assert (row["data_size"], float(row["data_download_duration"]) > 0) == ("304kB", True)
    manifest = json.loads((folder / "build_manifest.json").read_text())
    ((key, image),) = manifest["built_images"].items()
    assert manifest["credentials_required"] == ["AMD_GITHUB"]
    assert image["git_commit"] == row["git_commit"] == manifest["built_models"][key]["owner"]
    # What fails says why, and not with what.
    (folder / "credential.json").write_text((folder / "credential.json").read_text().replace(CANARIES["nas"], "no-way"))
    failing = json.dumps({"data": {"disk": {"nas": {"path": "/srv"}}}})
    words = ("run", "--manifest-file", "build_manifest.json", "--verbose", "--additional-context", failing)
    assert site(*words, check=False).code == 3
    assert "Permission denied" in (folder / "perf.csv").read_text()
    history = site.engine("history", "--no-trunc", image["image_id"]).stdout
    assert "secret" in history
    assert f"{site.engine.name}\nrun\n" in site.argv.read_text()
    assert "rsync\n" in site.argv.read_text()
    assert site.leaks(history, site.engine("image", "inspect", image["image_id"]).stdout) == []


def everything_else(site: Site, registry: Registry, nas: Nas) -> None:
    """The other verbs that hand something on: push, files for other tools, lines for other hosts, a bundle."""
    folder = site.package.folder
    manifest = ("--manifest-file", "build_manifest.json", "--verbose")
    unpushed = json.loads((folder / "build_manifest.json").read_text())
    for image in unpushed["built_images"].values():
        del image["registry_image"], image["registry_digest"]
    (folder / "unpushed.json").write_text(json.dumps({**unpushed, "registry": ""}))
    for words in (["--dry-run"], []):
        site("push", "--manifest-file", "unpushed.json", "--registry", registry.address, "--verbose", *words)
    pushed = json.loads((folder / "unpushed.json").read_text())["built_images"].values()
    assert all(image["registry_digest"].startswith("sha256:") for image in pushed)
    site("export-config", "--verbose")
    site("generate", "ansible", *manifest)
    claims = [f"{name}=pvc:sets" for name in ("disk", "bucket", "page")]
    site("generate", "k8s", *manifest, "--data-volume", *claims, "--env-secret", "model", "--results", "pull")
    for words in ([], ["--ship-credentials"]):
        lines = site("run", "--host", nas.host, "--dry-run", *manifest, *words).stdout
        assert nas.host in lines
    site("bundle", "--output", "carried.pyz")
    with zipfile.ZipFile(folder / "carried.pyz") as bundle:
        bundle.extractall(folder / "carried")
    written = ["execution_config.json", "madengine_distributed.yml", "k8s-madengine-job.yaml", "carried/madengine"]
    assert [name for name in written if not (folder / name).exists()] == []


def test_the_search_finds_what_is_planted_in_each_place(site: Site, base_image: str) -> None:
    assert site.leaks() == []
    folder, name = site.package.folder, f"leaky-{site.engine.name}"
    (folder / "runs").mkdir()
    (folder / "runs/some.log").write_text(f"user: {CANARIES['web']}\n")
    (folder / "encoded.json").write_text("YToK " + __import__("base64").b64encode(CANARIES["nas"].encode()).decode())
    recorded = {"PATH": site.environment["PATH"]}
    outcome(["git", "version", f"--password={CANARIES['cred']}"], recorded, check=False)
    dockerfile = folder / "Leaky"
    dockerfile.write_text(f"FROM {base_image}\nARG LEAK\nRUN true\n")
    site.engine("build", f"--build-arg=LEAK={CANARIES['s3']}", "--tag", name, "--file", str(dockerfile), str(folder))
    found = site.leaks(site.engine("history", "--no-trunc", name).stdout)
    site.engine("image", "rm", name)
    assert [line.partition(":")[0] for line in found] == ["cred", "s3", "nas", "web"]


def test_build_arguments_are_only_behind_the_switch_which_warns(site: Site) -> None:
    site.package.add("old", "ARG AMD_GITHUB_PASSWORD\nRUN echo ${#AMD_GITHUB_PASSWORD} >/length", cred="AMD_GITHUB")
    said = site("build", "--tags", "old").stderr
    assert "takes AMD_GITHUB_PASSWORD as ARG and gets nothing" in said
    said = site("build", "--tags", "old", "--credentials-as-build-args").stderr
    assert "warning: AMD_GITHUB_PASSWORD can be read in the image's history" in said
    image = json.loads((site.package.folder / "build_manifest.json").read_text())["built_images"]["ci-old_os"]
    length = site.engine("run", "--rm", "--network=none", image["image_id"], "cat", "/length").stdout.strip()
    assert length == str(len(CANARIES["cred"]))
    assert CANARIES["cred"] in site.engine("history", "--no-trunc", image["image_id"]).stdout
    assert site.leaks() == []


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_an_image_of_an_older_version_gets_its_code_at_the_run(site: Site) -> None:
    card = json.loads((site.package.folder / "models.json").read_text())[0]
    script = "cat part/inner.txt; [ -n \"$AMD_GITHUB_PASSWORD\" ] && echo 'performance: 1 runs'\n"
    site.package.add("old", script=script, cred="AMD_GITHUB", url=card["url"], n_gpus="0")
    site("build", "--tags", "old")
    path = site.package.folder / "build_manifest.json"
    manifest = json.loads(path.read_text())
    entry = manifest["built_images"]["ci-old_os"]
    entry["self_contained"] = False
    commit = entry.pop("git_commit")
    path.write_text(json.dumps(manifest))
    site("run", "--manifest-file", "build_manifest.json")
    (site.package.folder / "credential.json").unlink()
    site("run", "--manifest-file", "build_manifest.json", check=False)
    entry["self_contained"] = True
    path.write_text(json.dumps(manifest))
    done = site("run", "--manifest-file", "build_manifest.json", check=False)
    with (site.package.folder / "perf.csv").open(newline="") as file:
        first, second, third = csv.DictReader(file)
    assert (first["status"], first["git_commit"]) == ("SUCCESS", commit)
    assert second["reason"] == "credential.json: no entry 'AMD_GITHUB', which model old needs; add it"
    assert "ignored: the image carries the code" in done.stderr
    assert third["reason"] == "exit code 1"
    assert site.leaks() == []


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_ctrl_c_while_data_come_ends_the_client_and_writes_the_row(site: Site) -> None:
    folder = site.package.folder
    site.package.add("slow", data="slowly", n_gpus="0")
    (folder / "get.sh").write_text(f"echo $$ >{folder}/pid\nexec sleep 1000\n")
    (folder / "data.json").write_text(json.dumps({"slowly": {"custom": {"path": "get.sh"}}}))
    site("build", "--tags", "slow")
    with started(
        Engine(site.engine.name, site.environment), folder, "run", "--manifest-file", "build_manifest.json"
    ) as process:
        wait_for(lambda: (folder / "pid").exists() and (folder / "pid").read_text().endswith("\n"), 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert not Path(f"/proc/{(folder / 'pid').read_text().strip()}").exists()
    with (folder / "perf.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["status"], row["reason"]) == ("FAILURE", "interrupted")
