"""The generated playbook on real hosts: what comes back from them, whatever happens to them."""

from __future__ import annotations

import json

from tests.ansible.conftest import CHECKOUT, HOSTILE, PASSWORD, USER, Rack
from tests.fleet.conftest import until

# A python that breaks the table of a run before the playbook lists its files.
TABLE_LIAR = """#!/bin/sh
for table in /srv/madengine/runs/*/perf.csv; do
  test ! -e "$table" || echo nonsense >"$table"
done
exec /usr/bin/python3 "$@"
"""


def test_the_playbook_passes_every_check_and_check_mode_leaves_the_hosts_alone(rack: Rack) -> None:
    rack.run("ansible-playbook", "-i", "gpu_inventory", "--syntax-check", "madengine_distributed.yml")
    rack.run("yamllint", "--strict", "-c", str(CHECKOUT / ".yamllint.yaml"), "madengine_distributed.yml")
    linted = rack.run("ansible-lint", "--offline", "--strict", "--profile", "production", "madengine_distributed.yml")
    assert "Profile 'production' was required, and it passed." in linted.stderr
    checked = rack.play("--check")
    assert checked.stdout.count("changed=0") == 3
    assert not (rack.folder / "results").exists()
    assert "madengine" not in rack.hosts.run(1, "ls", "/srv").split()


def test_every_host_runs_and_nothing_of_an_earlier_run_or_of_other_hosts_is_merged(rack: Rack) -> None:
    rack.generate("--manifest-file", "good.json")
    rack.play()
    [first] = rack.runs
    assert rack.outcomes(first) == [("h1", "good", "SUCCESS"), ("h2", "good", "SUCCESS"), ("h3", "good", "SUCCESS")]
    assert {(row["performance"], row["deployment_type"]) for row in rack.rows} == {("12.5", "ansible")}
    shown = rack.run(
        "ansible", "gpu_nodes", "-i", "gpu_inventory", "-m", "shell", "-a", "cat /srv/madengine/perf.csv | head -5"
    )
    assert shown.stdout.count(f",{first.name},") == 3
    rack.play("--limit", "h2")
    second = rack.runs[-1]
    assert [path.name for path in second.iterdir()] == ["h2"]
    assert rack.outcomes(second) == [("h2", "good", "SUCCESS")]
    assert len(rack.rows) == 4
    back = {str(path.relative_to(second / "h2")) for path in second.rglob("*") if path.is_file()}
    log = f"runs/{second.name}/good/good_m0.os.run.live.log"
    note = f"runs/{second.name}/good/artifacts/out/note.txt"
    assert back >= {"perf.csv", "run_summary.json", "node.log", "exit_code", f"runs/{second.name}/results.json", log}
    assert (second / "h2" / note).read_text(encoding="utf-8") == "kept\n"
    assert "performance: 12.5 tokens_per_second" in (second / "h2" / log).read_text(encoding="utf-8")
    assert rack.hosts.sh(2, "ls -d /tmp/madengine.*", check=False) == ""


def test_a_failed_model_and_a_lost_host_cost_their_rows_and_resume_repeats_just_those(rack: Rack) -> None:
    rack.hosts.run(1, "touch", "/srv/switch/on")
    rack.hosts.cut(3)
    failed = rack.play(check=False)
    assert failed.code == 2
    assert rack.outcomes(rack.runs[-1]) == [
        ("h1", "good", "SUCCESS"),
        ("h1", "switched", "SUCCESS"),
        ("h2", "good", "SUCCESS"),
        ("h2", "switched", "FAILURE"),
        ("h3", "good", "FAILURE"),
        ("h3", "switched", "FAILURE"),
    ]
    reasons = {row["machine_name"]: row["reason"] for row in rack.rows if row["status"] == "FAILURE"}
    assert reasons.pop("h3").startswith("unreachable: ")
    assert list(reasons.values()) == ["exit code 3"]
    # What was merged is as the hosts wrote it, and nothing is there twice.
    rack.hosts.heal(3)
    for number in (2, 3):
        rack.hosts.run(number, "touch", "/srv/switch/on")
    rack.play("-e", "madengine_resume=true")
    assert rack.outcomes(rack.runs[-1]) == [
        ("h2", "switched", "SUCCESS"),
        ("h3", "good", "SUCCESS"),
        ("h3", "switched", "SUCCESS"),
    ]
    assert len(rack.rows) == 9
    rack.play("-e", "madengine_resume=true", "--limit", "h1")
    assert len(rack.rows) == 9
    assert len(rack.hosts.sh(1, "cat /srv/madengine/perf.csv").splitlines()) == 3


def test_hosts_that_are_not_fit_say_why_and_the_others_run(rack: Rack) -> None:
    rack.generate("--manifest-file", "good.json")
    rack.inventory(h1="madengine_engine=nerdctl", h2="madengine_python=/nowhere/python3")
    assert rack.play("--check", check=False).code == 2
    assert rack.play(check=False).code == 2
    reasons = {row["machine_name"]: (row["status"], row["reason"]) for row in rack.rows}
    assert reasons.pop("h1") == ("FAILURE", "no container engine answers (nerdctl)")
    status, reason = reasons.pop("h2")
    assert status == "FAILURE"
    assert "python 3.10 or newer is needed" in reason
    assert [status for status, _ in reasons.values()] == ["SUCCESS"]


def test_a_run_outlives_the_connection_and_is_followed_again(rack: Rack) -> None:
    rack.hosts.sh(1, "touch /srv/switch/on /srv/switch/wait")
    with rack.playing("--limit", "h1") as playing:
        until(lambda: "switched" in rack.hosts.sh(1, "docker ps --format '{{.Names}}'"), 90, lambda: output_of(rack))
        rack.hosts.cut(1)
        rack.hosts.run(1, "rm", "/srv/switch/wait")
        until(lambda: "...ignoring" in output_of(rack), 60, lambda: output_of(rack))
        rack.hosts.heal(1)
        assert playing.wait(120) == 0, output_of(rack)
    assert rack.outcomes(rack.runs[-1]) == [("h1", "good", "SUCCESS"), ("h1", "switched", "SUCCESS")]


def test_madengine_ends_a_run_at_its_own_limit_and_a_host_that_went_away_is_told(rack: Rack) -> None:
    for number in (1, 2):
        rack.hosts.sh(number, "touch /srv/switch/on /srv/switch/wait")
    more = ("-e", "madengine_timeout=20", "-e", "madengine_patience=3")
    with rack.playing("--limit", "h1,h2", *more) as playing:
        until(lambda: "switched" in rack.hosts.sh(2, "docker ps --format '{{.Names}}'"), 90, lambda: output_of(rack))
        rack.hosts.cut(2)
        assert playing.wait(200) == 2, output_of(rack)
    rows = {(row["machine_name"], row["model"]): row for row in rack.rows}
    name = rack.hosts.name(1)
    assert rows[name, "good"]["status"] == "SUCCESS"
    assert rows[name, "switched"]["reason"].startswith("timeout")
    assert [rows["h2", model]["reason"].partition(":")[0] for model in ("good", "switched")] == ["lost", "lost"]
    assert len(rows) == 4


def test_what_a_killed_madengine_has_measured_comes_back_and_the_rest_says_why(rack: Rack) -> None:
    rack.hosts.run(1, "touch", "/srv/switch/wait")
    with rack.playing("--limit", "h1") as playing:
        until(lambda: "switched" in rack.hosts.sh(1, "docker ps --format '{{.Names}}'"), 90, lambda: output_of(rack))
        rack.hosts.sh(1, "kill -9 $(pgrep -f '^python3 .*madengine.pyz run')")
        assert playing.wait(120) == 2, output_of(rack)
    assert rack.outcomes(rack.runs[-1]) == [("h1", "good", "SUCCESS"), ("h1", "switched", "FAILURE")]
    [failed] = [row for row in rack.rows if row["status"] == "FAILURE"]
    assert failed["reason"].startswith("Wait for the run: ")
    assert (rack.runs[-1] / "h1/exit_code").read_text(encoding="utf-8") == "137\n"


def test_a_password_opens_the_registry_and_is_shown_nowhere(rack: Rack) -> None:
    rack.generate("--manifest-file", "good.json")
    rack.hosts.sh(1, "docker image prune --all --force")
    closed = ("--limit", "h1", "-vvv", "-e", f"registry_url={rack.hosts.address}.254:{rack.registries.closed}")
    wrong = rack.play(
        *closed,
        environment={"MADENGINE_REGISTRY_USER": USER, "MADENGINE_REGISTRY_PASSWORD": "wrong-secret"},
        check=False,
    )
    assert wrong.code == 2
    assert "wrong-secret" not in wrong.stdout + wrong.stderr + (rack.folder / "perf.csv").read_text(encoding="utf-8")
    assert [row["status"] for row in rack.rows] == ["FAILURE"]
    assert rack.rows[0]["reason"].startswith("Log in to the registry: ")
    right = rack.play(*closed, environment={"MADENGINE_REGISTRY_USER": USER, "MADENGINE_REGISTRY_PASSWORD": PASSWORD})
    assert PASSWORD not in right.stdout + right.stderr
    assert rack.rows[-1]["status"] == "SUCCESS"
    assert PASSWORD not in rack.hosts.sh(
        1, "cat /home/fleet/.docker/config.json /srv/madengine/runs/*/node.log", check=False
    )
    assert rack.hosts.sh(1, "ls -d /tmp/madengine.*", check=False) == ""


def test_data_that_looks_like_a_template_reaches_the_node_as_it_is(rack: Rack) -> None:
    rack.generate("--manifest-file", "good.json")
    rack.play("--limit", "h3")
    [context] = rack.hosts.sh(3, "cat /srv/madengine/runs/*/context.json").splitlines()
    assert json.loads(context)["docker_env_vars"] == {"NOTE": HOSTILE}


def test_a_manifest_that_was_built_again_is_refused(rack: Rack) -> None:
    (rack.folder / "build_manifest.json").write_bytes((rack.folder / "good.json").read_bytes())
    refused = rack.play(check=False)
    assert refused.code == 2
    assert "`madengine generate ansible` again" in refused.stdout + refused.stderr
    assert "madengine" not in rack.hosts.run(1, "ls", "/srv").split()


def test_a_node_that_lies_costs_its_own_rows(rack: Rack) -> None:
    rack.generate("--manifest-file", "good.json")
    # Its python says that a file lies elsewhere, and what it sends is no table.
    lies = (
        r's#"path": "\([^"]*\)/runs/\([^"/]*\)/run_summary.json"#"path": "\1/runs/\2/../../../../../../../etc/motd"#g',
        r's#"path": "\([^"]*\)/runs/\([^"/]*\)/exit_code"#"path": "\1/runs/\2/../../../outside"#g',
    )
    rack.hosts.sh(1, "echo mine >/srv/outside; echo mine >/etc/motd")
    script = f"#!/bin/sh\n/usr/bin/python3 \"$@\" | sed -e '{lies[0]}' -e '{lies[1]}'\n"
    rack.hosts.run(1, "python3", "-c", f"open('/srv/liar', 'w').write({script!r})")
    rack.hosts.run(1, "chmod", "+x", "/srv/liar")
    rack.inventory(h1="ansible_python_interpreter=/srv/liar")
    played = rack.play(check=False)
    assert played.code == 2
    assert rack.outcomes(rack.runs[-1]) == [(name, "good", "SUCCESS") for name in ("h1", "h2", "h3")]
    assert "the node lists files outside of its run" in played.stdout
    results = rack.runs[-1].parent
    assert not list(rack.folder.rglob("outside")) + list(rack.folder.rglob("motd"))
    assert [path.name for path in results.iterdir()] == [rack.runs[-1].name]
    rack.inventory(h2="ansible_python_interpreter=/srv/liar")
    rack.hosts.run(2, "python3", "-c", f"open('/srv/liar', 'w').write({TABLE_LIAR!r})")
    rack.hosts.run(2, "chmod", "+x", "/srv/liar")
    played = rack.play(check=False)
    assert played.code == 2
    assert rack.outcomes(rack.runs[-1]) == [
        ("h1", "good", "SUCCESS"),
        ("h2", "good", "FAILURE"),
        ("h3", "good", "SUCCESS"),
    ]
    [failed] = [row for row in rack.rows if row["status"] == "FAILURE"]
    assert failed["reason"].startswith("its files are unusable: perf.csv: not a perf.csv")
    assert "12.5" in played.stdout


DEPLOY = (str(CHECKOUT / "bin/madengine"), "deploy", "--target=ansible")


def test_one_command_writes_the_playbook_and_runs_it(rack: Rack) -> None:
    (rack.folder / "madengine_distributed.yml").unlink()
    manifest = json.loads((rack.folder / "good.json").read_text())
    manifest["context"] |= {"env_vars": {"SITE": "${LAB}"}, "encapsulate_script": "echo site $SITE;"}
    manifest["deployment_config"] = {"env_file": "site.sh"}
    (rack.folder / "good.json").write_text(json.dumps(manifest))
    (rack.folder / "site.sh").write_text("LAB=$(uname -n)\n")
    words = ("--inventory=gpu_inventory", "--limit=h2", "--extra-vars=madengine_poll=1", "--manifest-file=good.json")
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "summary.md"}
    rack.run(*DEPLOY, *words, environment=github)
    assert rack.outcomes(rack.runs[-1]) == [("h2", "good", "SUCCESS")]
    [log] = rack.runs[-1].glob("h2/**/*.run.live.log")
    assert f"site {rack.hosts.name(2)}\n" in log.read_text(), "the file is sourced on the node"
    summary = (rack.folder / "summary.md").read_text(encoding="utf-8")
    assert summary.count("1 SUCCESS on 1 host.") == 1, "the playbook's own collect adds none"
    refused = rack.run(*DEPLOY, "--limit=h2", "--manifest-file=good.json", check=False)
    assert (refused.code, "no inventory of nodes: name one with --inventory" in refused.stderr) == (4, True)


def output_of(rack: Rack) -> str:
    """Return what the playbook beside the test has printed."""
    return (rack.folder / "output").read_text(encoding="utf-8")
