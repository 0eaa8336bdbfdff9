"""With SLURM_ACCOUNTING=yes: what the controller has forgotten is known from the accounting (slurmdbd on MariaDB)."""

from __future__ import annotations

import os

from tests.fleet.conftest import Cluster, until

if os.environ.get("SLURM_ACCOUNTING") == "yes":

    def test_a_job_that_the_controller_has_forgotten_is_in_the_accounting(cluster: Cluster) -> None:
        words = ("--target=slurm", "--run-id=r1")
        cluster("deploy", *words, "--manifest-file=build_manifest.json", "--tags=quick,bad", check=False)
        (cluster.folder / "perf.csv").unlink()
        queue = ("squeue", "--noheader", "--states=all", "--name=madengine-r1")
        until(lambda: not cluster.hosts.run(1, *queue), 120, lambda: "the controller still knows the job")
        done = cluster("fetch", *words, check=False)
        assert done.code == 3, done.stderr
        assert "unknown" not in done.stderr
        assert sorted((row["model"], row["status"]) for row in cluster.rows) == [
            ("bad", "FAILURE"),
            ("quick", "SUCCESS"),
        ]
        sacct = cluster.hosts.run(1, "sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State")
        assert {line.partition("|")[2] for line in sacct.split()} == {"COMPLETED", "FAILED"}
