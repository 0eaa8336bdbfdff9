"""A script that prints its secrets: neither its log, the terminal, nor a row has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bed.components import Engine, Registry
from tests.engine.trial import METRIC, Trial
from tests.engine.trial import trial as make_trial

TOKEN = "hf_abcDEF123456"
PASSWORD = "p4ss'word $x"
VARIABLES = {"MAD_SECRETS_HFTOKEN": TOKEN}


@pytest.fixture
def trial(
    engine: Engine, base_image: str, registry: Registry, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    made = make_trial(engine, base_image, registry, tmp_path, tmp_path_factory.getbasetemp())
    (made.folder / "models.json").write_text("[]")
    (made.folder / "credential.json").write_text(json.dumps({"HUB": {"username": "someone", "password": PASSWORD}}))
    (made.folder / "credential.json").chmod(0o600)
    return made


on_docker = pytest.mark.parametrize("engine", ["docker"], indirect=True)


def everything(trial: Trial) -> bytes:
    """All that a run has left, but for artifacts and what was there before."""
    files = (path for path in trial.folder.rglob("*") if path.is_file() and path.name != "credential.json")
    return b"".join(path.read_bytes() for path in files if "artifacts" not in path.parts)


def test_a_script_that_prints_its_secrets_publishes_none(trial: Trial) -> None:
    script = """
set -x; login=$MAD_SECRETS_HFTOKEN; : "$HUB_PASSWORD"; set +x; echo "user $HUB_USERNAME"
printf '%s' "$HUB_PASSWORD" | base64; printf 'part hf_abc'; sleep 1; printf 'DEF123456 end\\n'
echo "performance: 1 $MAD_SECRETS_HFTOKEN"; echo "$MAD_SECRETS_HFTOKEN" >left.txt
"""
    card = {"cred": "HUB", "artifacts": ["left.txt"]}
    done = trial.run(script, "--live-output", env=VARIABLES, card=card)
    assert done.code == 0, done.stderr
    assert b"user someone\n" in done.log
    assert b"part [redacted]***** end\n" in done.log
    assert "part [redacted]***** end\n" in done.stderr
    assert (done.row["performance"], done.row["metric"]) == ("1", "[redacted]")
    left = everything(trial) + done.stderr.encode() + done.stdout.encode()
    for secret in (TOKEN, PASSWORD, "p4ss", "cDRzcyd3b3JkICR4"):
        assert secret.encode() not in left
    assert (done.workspace / "artifacts/left.txt").read_text() == f"{TOKEN}\n", "artifacts are as the script left them"


@on_docker
@pytest.mark.parametrize("end", ["exit 3", "sleep 60", "kill -9 $$"])
def test_secrets_are_overwritten_whatever_the_end(trial: Trial, end: str) -> None:
    script = f"n=0; while [ $((n += 1)) -lt 20000 ]; do echo $n $MAD_SECRETS_HFTOKEN; done; {end}"
    done = trial.run(script, "--timeout", "3", env=VARIABLES)
    assert done.code == 3
    assert done.log.count(b" [redacted]*****\n") == 19999
    assert TOKEN.encode() not in everything(trial) + done.stderr.encode()


@on_docker
def test_a_secret_that_is_a_number_costs_no_result(trial: Trial) -> None:
    csv = "printf 'model,performance,metric,note\\nhf_abcDEF123456,1234,tokens,hf_abcDEF123456\\n' >figures.csv"
    variables = {**VARIABLES, "MAD_SECRETS_PIN": "1234"}
    done = trial.run(f"echo performance: 1234 tokens; {METRIC}; {csv}", env=variables)
    assert (done.row["performance"], done.log) == ("1234", b"performance: **** tokens\n" + f"{METRIC[5:]}\n".encode())
    (trial.folder / "perf.csv").unlink()
    done = trial.run(csv, env=variables, card={"multiple_results": "figures.csv"})
    assert (done.row["model"], done.row["performance"]) == ("any_[redacted]", "1234")
