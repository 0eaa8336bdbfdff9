"""What madengine costs over the bare programs: medians of pairs, taken in turn in one run."""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import clusters, in_turn, racks, uploads

CHECKOUT = Path(__file__).parents[2]
PYTHON = [sys.executable, "-m", "madengine.distributed_cli"]
CONTEXT = "{'gpu_vendor': 'NONE', 'docker_build_arg': {'BASE_DOCKER': '%s'}}"
GIGABYTE = 1_000_000_000
LINE = "a line of sixty-four bytes, as a chatty model prints them by far."


@dataclass(frozen=True)
class Figure:
    """One comparison: what was measured, what it was held against, and the limit that issue and README name."""

    name: str
    ours: float
    bare: float
    limit: str
    holds: bool
    unit: str = "s"


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; gives 1 where a limit doesn't hold."""
    for name in names:
        if name not in BENCHMARKS:
            sys.exit(f"bench: {name}: no such benchmark; there are {', '.join(BENCHMARKS)}")
    figures = [figure for name, bench in BENCHMARKS.items() if not names or name in names for figure in bench()]
    print(f"\n{'':44}{'ours':>10}{'bare':>10}{'ratio':>8}{'over':>9}  limit")
    for one in figures:
        ratio = one.ours / one.bare if one.bare else float("nan")
        shown = f"{one.ours:9.3f} {one.bare:9.3f} {ratio:7.2f} {one.ours - one.bare:+8.3f}"
        print(f"{one.name:44}{shown}  {one.limit}{'' if one.holds else '   <-- NOT HELD'}")
    return 0 if all(one.holds for one in figures) else 1


def help_text() -> Iterator[Figure]:
    ours, bare = pairs([*PYTHON, "--help"], [sys.executable, "-c", "pass"], runs=15)
    yield Figure("--help over python3 -c pass", ours, bare, "ratio 4", ours <= 4 * bare)


def build() -> Iterator[Figure]:
    with package(1) as folder:
        command = build_command()
        run(command, folder)
        by_hand = hand_lines(folder)
        ours, bare = pairs(command, ["sh", "-ec", by_hand], folder, runs=9)
    yield Figure("build and push, unchanged, over by hand", ours, bare, "+0.2 s", ours <= bare + 0.2)


def build_many() -> Iterator[Figure]:
    """Eight models whose builds take real work, each time anew; by hand, all of them at once."""
    with package(8, "RUN i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; echo {number} > /made") as folder:
        command = [*build_command(registry=False), "--clean-docker-cache"]
        jobs = "\n".join(f"(\n{block}\n) &" for block in blocks(folder, [*command, "--dry-run"]))
        ours, bare = pairs(command, ["sh", "-ec", f"{jobs}\nwait"], folder, runs=3)
    yield Figure("8 models over by hand, side by side", ours, bare, "ratio 1.15", ours <= 1.15 * bare)


def run_model() -> Iterator[Figure]:
    with package(1) as folder:
        run(build_command(), folder)
        name = only_image(folder)
        hand = f"docker pull -q {name} && docker run --rm {name}"
        ours, bare = pairs([*PYTHON, "run", "-m", "build_manifest.json"], ["sh", "-ec", hand], folder, runs=9)
    yield Figure("run of the dummy over pull and run by hand", ours, bare, "+0.3 s", ours <= bare + 0.3)


def gigabyte() -> Iterator[Figure]:
    """A model that prints 1 GB; the ways by hand are measured first, and the fastest is the one to beat."""
    with package(1) as folder:
        talk = f"yes '{LINE}' | head -c {GIGABYTE}"
        (folder / "scripts/dummy/run.sh").write_text(f"{talk}\necho\necho performance: 1 gigabyte\n")
        run(build_command(), folder)
        name, out = only_image(folder), folder / "out"
        out.mkdir()
        ways = {
            "exec": f'c=$(docker run -d {name} sleep 99); docker exec $c sh -c "{talk}" >out/log; docker rm -f $c',
            "pipe": f'docker run --rm --log-driver none {name} sh -c "{talk}" >out/log',
            "mount": f'docker run --rm -v {out}:/out {name} sh -c "{talk} >/out/log"',
        }
        for way in ways.values():
            run(["sh", "-ec", way], folder)
        by_hand = {way: min(timed(["sh", "-ec", line], folder) for _ in range(3)) for way, line in ways.items()}
        print("  a gigabyte by hand:", ", ".join(f"{way} {seconds:.2f} s" for way, seconds in by_hand.items()))
        # With secrets to look for in the log.
        secrets = [f"MAD_SECRETS_{name}={name * 3}_kJhgfdsaQWERTY0123456789" for name in ("HF", "GIT", "WANDB")]
        command = ["env", *secrets, *PYTHON, "run", "-m", "build_manifest.json"]
        ours = min(timed(command, folder) for _ in range(3))
        row = (folder / "perf.csv").read_text().splitlines()[-1]
        assert ",1,gigabyte,,SUCCESS," in row, row
        log = next(folder.glob("runs/*/dummy/*.log"))
        assert log.stat().st_size > GIGABYTE, "the log is not whole"
        memory = peak_memory(command, folder)
    bare = min(by_hand.values())
    yield Figure("a model that prints 1 GB over the fastest way", ours, bare, "ratio 1.5", ours <= 1.5 * bare)
    yield Figure("its peak memory in MB (bare: python3 -c pass)", memory, bare_memory(), "100 MB", memory < 100, "MB")


def discovery() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        card = {"dockerfile": "docker/m", "scripts": "scripts/m", "n_gpus": "1", "args": "", "tags": ["all_of_them"]}
        cards = [{"name": f"model-{number}", **card} for number in range(10_000)]
        (folder / "models.json").write_text(json.dumps(cards))
        ours, bare = pairs([*PYTHON, "discover"], [sys.executable, "-c", "pass"], folder, runs=7)
    yield Figure("discovery of 10,000 models", ours, bare, "1 s", ours < 1.0)


def append() -> Iterator[Figure]:
    """One row more, to a perf.csv of a million rows and to an empty one; inside one process each."""
    code = (
        "import sys, time; from pathlib import Path; from madengine.results import perf_csv;"
        "row = dict.fromkeys(perf_csv.COLUMNS, 'x'); path = Path(sys.argv[1]); t = time.perf_counter();"
        "[perf_csv.append_rows(path, [row]) for _ in range(200)]; print((time.perf_counter() - t) / 200)"
    )
    with tempfile.TemporaryDirectory() as scratch:
        full = Path(scratch) / "full.csv"
        from madengine.results.perf_csv import append_rows
        from madengine.results.rows import COLUMNS

        append_rows(full, [dict.fromkeys(COLUMNS, "x")])
        with full.open("a") as file:
            file.writelines([",".join("x" * len(COLUMNS)) + "\n"] * 1_000_000)
        times: dict[str, list[float]] = {"full": [], "empty": []}
        for number in range(7):
            for name, path in (("full", full), ("empty", Path(scratch) / f"empty{number}.csv")):
                said = run([sys.executable, "-c", code, str(path)], Path(scratch))
                times[name].append(float(said))
    ours, bare = (statistics.median(times[name]) * 1000 for name in ("full", "empty"))
    yield Figure("a row to 1,000,000 rows over to none (ms)", ours, bare, "ratio 1.2", ours <= 1.2 * bare, "ms")


def upload() -> Iterator[Figure]:
    ours, bare = uploads.seconds()
    yield Figure("upload of 1,000,000 rows over sqlite3", ours, bare, "240 s", ours <= 240)


def rack() -> Iterator[Figure]:
    """A model of 5 s on one host, on 16 at once, and on the same 16 by the playbook; the images are there each time.

    All nodes are on this machine, so that their engines share its processors with the controller.
    """
    with package(1) as folder, racks.hosts(16) as fleet:
        (folder / "scripts/dummy/run.sh").write_text("sleep 5\necho performance: 1 runs\n")
        address = bed("REGISTRY").replace("127.0.0.1", "localhost")
        run([*build_command(registry=False), "--registry", address], folder)
        command = [*PYTHON, "run", f"--ssh-config={fleet}/ssh_config", "--host"]
        names = ",".join(f"h{number}" for number in range(1, 17))
        run([*command, names], folder)  # which pulls the images and ships the bundle
        one = statistics.median(timed([*command, "h1"], folder) for _ in range(3))
        busy, before = busy_seconds(), resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = [timed([*command, names], folder) for _ in range(3)]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        nodes = busy_seconds() - busy
        mine = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 3 / 16
        nodes, cpus = nodes / 3 / 16 - mine, os.cpu_count() or 1
        print(
            f"  the nodes' own CPU: {nodes:.2f} s a host, so {16 * nodes / cpus:.1f} s of the time on {cpus} processors"
        )
        with racks.playbook(folder, fleet, Path(os.environ["MADENGINE_TEST_BED"])) as played:
            by_ansible = [timed(played, folder) for _ in range(2)][-1]
        racks.check(folder / "perf.csv", 16 + 3 + 3 * 16 + 2 * 16)
    median, limit = statistics.median(ours), 1.5 * one + 0.2 * 16
    yield Figure("16 hosts over one, a model of 5 s", median, one, "ratio 1.5 and 3.2 s", median <= limit)
    yield Figure("  the controller's own CPU, a host", mine, 0.0, "0.2 s", mine <= 0.2)
    yield Figure("  16 hosts over ansible-playbook", median, by_ansible, "ratio 1", median <= by_ansible)


def slurm() -> Iterator[Figure]:
    """A hundred models of a second on three nodes, two at a time on each, which share this machine's processors."""
    with package(1) as folder, racks.hosts(3) as fleet:
        (folder / "scripts/dummy/run.sh").write_text("sleep 1\necho performance: 1 runs\n")
        run(build_command(registry=False), folder)
        manifest = folder / "build_manifest.json"
        [image] = json.loads(manifest.read_text())["built_images"].values()
        took = clusters.seconds(fleet, manifest, image["image_id"], bed("DOCKER_HOST"))
    limit = 1.2 * took.same_array
    yield Figure(
        "100 models under Slurm over their sbatch", took.ours, took.same_array, "ratio 1.2", took.ours <= limit
    )
    yield Figure("  over an array of docker run alone", took.ours, took.docker, "none", True)


def nodes() -> Iterator[Figure]:
    """The dummy on two hosts together, over the slower of what each takes by itself; the images are there."""
    with package(1) as folder, racks.hosts(2) as fleet:
        (folder / "scripts/dummy/run.sh").write_text("echo performance: 1 runs\n")
        address = bed("REGISTRY").replace("127.0.0.1", "localhost")
        run([*build_command(registry=False), "--registry", address], folder)
        command = [*PYTHON, "run", f"--ssh-config={fleet}/ssh_config", "--host"]
        together = [*command, "h1,h2", "--nodes=2"]
        run([*command, "h1,h2"], folder)  # which pulls the images and ships the bundle
        times = [[timed(words, folder) for words in (together, [*command, "h1"], [*command, "h2"])] for _ in range(5)]
        ours, *each = (statistics.median(column) for column in zip(*times, strict=True))
    yield Figure("2 nodes together over the slower one", ours, max(each), "+1 s", ours <= max(each) + 1)


def against() -> Iterator[Figure]:
    """20 comparisons of the dummy with itself, and 20 with one that is 10 % slower, of ten pairs each."""
    with package(1) as folder:
        base_image = bed("BASE_IMAGE")
        codes = in_turn.verdicts(folder, PYTHON, base_image, environment(), run)
    for name, code, what in (("same", 0, "the dummy against itself: exit 0"), ("slow", 5, "10 % slower: exit 5")):
        right = codes[name][code]
        yield Figure(f"{what}, of 20", right, in_turn.REPETITIONS, "19", right >= 19, "comparisons")


BENCHMARKS: dict[str, Callable[[], Iterator[Figure]]] = {
    "help": help_text,
    "build": build,
    "build-many": build_many,
    "run": run_model,
    "gigabyte": gigabyte,
    "discovery": discovery,
    "append": append,
    "upload": upload,
    "rack": rack,
    "slurm": slurm,
    "nodes": nodes,
    "against": against,
}


# --- what they share ---


@contextmanager
def package(count: int, line: str = "") -> Iterator[Path]:
    """A model package with so many models, each with its own Dockerfile for machines without GPUs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "models"
        shutil.copytree(CHECKOUT / "templates/package", folder)
        [card] = json.loads((folder / "models.json").read_text())
        names = ["dummy", *(f"dummy{number}" for number in range(2, count + 1))]
        header = (folder / "docker/dummy.ubuntu.cpu.Dockerfile").read_text()
        for number, name in enumerate(names):
            text = f"{header}\n{line.replace('{number}', str(number))}\n"
            (folder / f"docker/{name}.ubuntu.cpu.Dockerfile").write_text(text)
        cards = [{**card, "name": name, "dockerfile": f"docker/{name}"} for name in names]
        (folder / "models.json").write_text(json.dumps(cards))
        yield folder


def build_command(registry: bool = True) -> list[str]:
    where = ["--registry", bed("REGISTRY")] if registry else []
    return [*PYTHON, "build", "--engine=docker", *where, "--additional-context", CONTEXT % bed("BASE_IMAGE")]


def hand_lines(folder: Path) -> str:
    """The two builds and the push of the image, as `--dry-run` prints them; the payload is made beforehand."""
    lines = run([*build_command(), "--dry-run"], folder).splitlines()
    prepared = [line for line in lines if not line.startswith("rm -rf")]
    run(["sh", "-ec", "\n".join(prepared)], folder)
    docker = [line for line in lines if " docker build " in line or line.startswith("docker push")]
    return "\n".join(line for line in docker if "/madengine/" not in line or " docker build " in line)


def blocks(folder: Path, command: list[str]) -> list[str]:
    """The lines of `build --dry-run`, a block an image."""
    text = run(command, folder).split("\n# ci-")
    return ["# ci-" + block for block in text[1:]]


def only_image(folder: Path) -> str:
    [image] = json.loads((folder / "build_manifest.json").read_text())["built_images"].values()
    return f"{image['registry_image']}@{image['registry_digest']}"


def bed(name: str) -> str:
    for line in (Path(os.environ["MADENGINE_TEST_BED"]) / "environment").read_text().splitlines():
        key, _, value = line.partition("=")
        os.environ.setdefault(key, "".join(shlex.split(value)))
    return os.environ[name]


def pairs(ours: list[str], bare: list[str], folder: Path = CHECKOUT, runs: int = 5) -> tuple[float, float]:
    """The medians of two commands, run in turn after one warm-up each."""
    for command in (ours, bare):
        run(command, folder)
    times = [(timed(ours, folder), timed(bare, folder)) for _ in range(runs)]
    return statistics.median(one for one, _ in times), statistics.median(other for _, other in times)


def timed(command: list[str], folder: Path) -> float:
    began = time.perf_counter()
    run(command, folder)
    return time.perf_counter() - began


def run(command: list[str], folder: Path) -> str:
    bed("REGISTRY")
    ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, errors="replace")
    if ended.returncode != 0:
        sys.exit(f"bench: {shlex.join(command)[:300]} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def environment() -> dict[str, str]:
    # As users have it: modules are compiled once, and not at every start.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPATH": str(CHECKOUT), "MADENGINE_ENGINE": "docker"}


def busy_seconds() -> float:
    """What all processors of this machine have worked since it started."""
    user, nice, system, _, _, *others = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def peak_memory(command: list[str], folder: Path) -> float:
    """The largest memory of the command's own process, in MB."""
    code = (
        "import os, sys; pid = os.spawnvp(os.P_NOWAIT, sys.argv[1], sys.argv[1:]);"
        "print(os.wait4(pid, 0)[2].ru_maxrss, file=sys.stderr)"
    )
    words = [sys.executable, "-c", code, *command]
    ended = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    return int(ended.stderr.splitlines()[-1]) * 1024 / 1e6


def bare_memory() -> float:
    run([sys.executable, "-c", "pass"], CHECKOUT)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
