"""`madengine deploy --target kubernetes`, which `just k8s` calls: build, push, generate, apply, wait, collect."""

from __future__ import annotations

import json
import os

from tests.bed.components import Registry, outcome
from tests.k8s.conftest import CHECKOUT, Cluster

DEPLOY = (str(CHECKOUT / "bin/madengine"), "deploy", "--target=kubernetes")


def test_it_is_the_whole_chain_and_says_what_failed(cluster: Cluster, registry: Registry) -> None:
    environment = {
        **cluster.environment,
        **cluster.kubelet.docker.environment,
        "MADENGINE_ENGINE": "docker",
        "MODEL_DIR": str(cluster.built.folder),
        "HOME": os.environ["HOME"],
    }
    base = ["namespace=fresh", f"registry={registry.address}", f"runner-image={cluster.built.runner_image}"]

    def chain(*words: str) -> tuple[int, str]:
        line = [*DEPLOY, *(f"--{word}" for word in (*base, *words))]
        ended = outcome(line, environment, cwd=cluster.folder, check=False)
        return ended.code, ended.stderr

    code, errors = chain("tags=bad,good", "run-id=first")
    assert code == 3, errors
    # Rows come as pods end.
    assert sorted((row["model"], row["status"], row["run_id"]) for row in cluster.rows) == [
        ("bad", "FAILURE", "first"),
        ("good", "SUCCESS", "first"),
    ]
    # The Jobs of the run before make room, its results stay.
    code, errors = chain("manifest-file=build_manifest.json", "tags=good")
    assert code == 0, errors
    assert sorted(row["status"] for row in cluster.rows) == ["FAILURE", "SUCCESS", "SUCCESS"]
    assert len({row["run_id"] for row in cluster.rows}) == 2
    results = cluster.server.cluster.get("configmaps", "fresh", "madengine-results")["data"]
    assert len([key for key in results if key.endswith(".result.json")]) == 3
    assert json.loads((cluster.folder / "build_manifest.json").read_text())["registry"] == registry.address


def test_it_needs_to_know_the_registry(cluster: Cluster) -> None:
    line = [*DEPLOY, "--tags=good"]
    ended = outcome(line, cluster.environment, cwd=cluster.folder, check=False)
    assert (ended.code, ended.stderr.strip()) == (
        4,
        "madengine: error: deploy: the images are pulled from a registry; name it with --registry",
    )
