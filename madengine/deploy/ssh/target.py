"""Hosts over ssh as a target."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from madengine.config.common_options import ContextOptions, EngineOptions
from madengine.config.context import Context
from madengine.config.manifest import Manifest, load_manifest
from madengine.config.option import from_options, refuse_on_hosts, words_for_hosts
from madengine.config.validation import refuse_unsupported
from madengine.deploy.ssh import node
from madengine.deploy.ssh.fleet import Fleet, connected
from madengine.deploy.ssh.group import HostGroup, group_of
from madengine.deploy.ssh.host_run import FleetRun, LocalTable, run_on_host, run_words
from madengine.deploy.ssh.hosts import ssh_options, tunnel_ports
from madengine.deploy.ssh.options import CopyOptions, HostRun, SshOptions
from madengine.deploy.ssh.report import conclude, rows_of
from madengine.deploy.ssh.upload import report_secrets, sources, upload_of
from madengine.deploy.target import CALLER_VARIABLES, Prepared
from madengine.errors import EXIT_FAILURE, ConfigurationError
from madengine.files import check_writable
from madengine.process import RESULTS
from madengine.programs import ssh
from madengine.results.against import InTurn, verdict_code
from madengine.results.comparison_table import render
from madengine.results.perf_csv import check_perf_csv
from madengine.results.results_json import known_runs
from madengine.run.names import new_run_id
from madengine.run.options import AgainstOptions, RunOptions
from madengine.run.selection import selected_images
from madengine.session import SOURCED, Session

logger = logging.getLogger(__name__)


@dataclass
class SshTarget:
    """A manifest on many hosts side by side; what fails on one of them costs that host's rows only."""

    OPTIONS: ClassVar[tuple[type, ...]] = (RunOptions, ContextOptions, EngineOptions, CopyOptions)

    options: SshOptions
    run: HostRun
    show: Callable[[str], None]
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    #: how verdicts are given where two manifests run in turn
    verdict: AgainstOptions = field(default_factory=AgainstOptions)
    #: merges the user's context over a manifest's
    merged: Callable[[Mapping[str, Any]], Context] = Context
    #: the upload and the connections, from `start` to `collect`
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _fleet: Fleet | None = field(default=None, init=False)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], manifest_file: Path, session: Session) -> SshTarget:
        """Return the target for a manifest, out of the parsed options.

        Raises ConfigurationError for an option that can't be used on another host, and for a wrong host.
        """
        classes = (RunOptions, ContextOptions, EngineOptions)
        refuse_on_hosts(classes, values)
        options = from_options(RunOptions, {**values, "run_id": ""})
        if options.against:
            # One order for all hosts, which is named here.
            options = options.with_seed()
        values = {**values, "seed": options.seed}
        run = HostRun(
            manifest=manifest_file,
            registry=values["registry"],
            tags=values["tags"],
            nodes=values["nodes"],
            engine=values["engine"] or "auto",
            words=words_for_hosts(classes, values),
            context=values["additional_context_file"],
            against=options.against,
            run_id=values["run_id"],
            output=values["output"],
            summary_output=values["summary_output"],
            quiet=values["quiet"],
        )
        ssh = ssh_options(from_options(CopyOptions, values))
        return cls(ssh, run, session.show, session.environ, options, partial(session.context, {}))

    def __post_init__(self) -> None:
        self.run_id = self.run.run_id or new_run_id()

    def check(self) -> None:
        """Raise ConfigurationError for what ssh refuses, a host of two names, and files that can't be written."""
        check_perf_csv(self.run.output)
        check_writable(self._results / "results.json", self.run.summary_output)
        with ssh.connections(self.options.hosts, self.options.config):
            pass

    def prepare(self) -> Prepared:
        """Return the lines that do the same by hand."""
        manifest, _, ports = self._manifests()
        group = self._group(manifest)
        lines = [
            f"madengine bundle --output {node.BUNDLE}",
            *(self._joint_lines(group, ports) if group else self._lines(ports)),
            f"madengine collect --output {shlex.quote(str(self.run.output))} {self._results}",
        ]
        return Prepared(lines=tuple(lines))

    def start(self) -> None:
        """Begin to copy and start the run, on as many hosts at once as there are forks."""
        manifest, base, ports = self._manifests()
        for line in self._in_turn.lines(self.verdict.seed) if self._in_turn else ():
            logger.info(line)
        group = self._group(manifest)
        report_secrets(self.options.secrets_from)
        upload = self._stack.enter_context(upload_of(self._sources))
        fleet = self._fleet = self._stack.enter_context(connected(self.options, all_at_once=group is not None))
        of_file = [SOURCED, *self.environ.get(SOURCED, "").split(",")]
        environ = {name: self.environ[name] for name in (*CALLER_VARIABLES, *of_file) if self.environ.get(name)}
        table = LocalTable(self.run.output)
        images = base.images
        interruption = fleet.interruption
        job = FleetRun(self.run, self.run_id, manifest, images, ports, upload, environ, table, interruption, group)
        count = len(fleet.nodes)
        logger.info(f"run {self.run_id} on {count} host{'s' * (count != 1)}; results: {self._results}")
        fleet.begin(partial(run_on_host, job=job))

    def follow(self) -> None:
        """Wait until every host's rows are here, or the reason why not."""
        if self._fleet:
            self._fleet.wait()

    def stop(self) -> None:
        """Stop the runs on all hosts, and bring back what they have."""
        if self._fleet:
            self._fleet.interrupt()

    def collect(self) -> int:
        """Write the summary and show the tables; the rows have been added as they came."""
        with self._stack:
            outcomes = self._fleet.outcomes() if self._fleet else []
        if not outcomes:
            return EXIT_FAILURE
        run, in_turn = self.run, self._in_turn
        if in_turn is None:
            return conclude(outcomes, run.output, run.summary_output, self.show, False, run.quiet)
        comparison = in_turn.comparison(rows_of(outcomes), known_runs(self._results / "results.json"), self.verdict)
        table = render(comparison)
        if self.verdict.json:
            self.show(table)
        quiet = run.quiet or self.verdict.json
        code = conclude(outcomes, run.output, run.summary_output, self.show, False, quiet, lambda _: table)
        return verdict_code(comparison, code)

    @property
    def _results(self) -> Path:
        return RESULTS / self.run_id

    @property
    def _sources(self) -> dict[str, Path]:
        return sources(self.run.manifest, self.run.context, self.options.secrets_from, self.run.against)

    def _manifests(self) -> tuple[Manifest, Manifest, tuple[int, ...]]:
        """Return the images that are to run, those that they are compared with, and the ports to be tunnelled."""
        manifest = self._selected(self.run.manifest)
        base = self._selected(self.run.against) if self.run.against else Manifest((), {})
        ports = {port: None for one in (manifest, base) for port in tunnel_ports(one, self.run.registry)}
        return manifest, base, tuple(ports)

    def _selected(self, file: Path) -> Manifest:
        manifest = load_manifest(file)
        refuse_unsupported(self.merged(manifest.context).here)
        return selected_images(manifest, self.run.tags, file)

    @cached_property
    def _in_turn(self) -> InTurn | None:
        """The two manifests of `--against`."""
        if self.run.against is None:
            return None
        new, base, _ = self._manifests()
        base_models, new_models = (
            [(one.models[image.key], image) for image in one.images if image.key in one.models] for one in (base, new)
        )
        names = str(self.run.against), str(self.run.manifest)
        return InTurn.of(names, (base_models, new_models), (base.context, new.context))

    def _group(self, manifest: Manifest) -> HostGroup | None:
        """Return the group in which the hosts run models together, if they do."""
        context = self.merged(load_manifest(self.run.manifest).context)
        group = group_of(self.options.hosts, manifest, self.run.nodes, context)
        if group and self.run.against:
            raise ConfigurationError("--against: unsupported on several nodes together; run the manifests one by one")
        return group

    def _lines(self, ports: tuple[int, ...]) -> Iterator[str]:
        for host in self.options.hosts:
            yield from self._copy_lines(host)
            yield self._run_line(host, ports, {})
            yield from self._fetch_lines(host)

    def _joint_lines(self, group: HostGroup, ports: tuple[int, ...]) -> Iterator[str]:
        """Yield the lines of hosts that wait for each other: they run side by side."""
        for host in group.hosts:
            yield from self._copy_lines(host)
        for host, seat in zip(group.hosts, group.seats(), strict=True):
            yield f"{self._run_line(host, ports, seat.environ)} &"
        yield "wait"
        for host in group.hosts:
            yield from self._fetch_lines(host)

    def _copy_lines(self, host: ssh.Host) -> Iterator[str]:
        folder = self.options.node.folder_on(host)
        yield f"ssh {self._ssh_words(host)} {host.target} mkdir -p {folder}"
        for name, source in {node.BUNDLE: Path(node.BUNDLE), **self._sources}.items():
            yield f"scp {self._ssh_words(host)} {shlex.quote(str(source))} {host.target}:{folder}/{name}"

    def _run_line(self, host: ssh.Host, ports: tuple[int, ...], environ: Mapping[str, str]) -> str:
        settings = self.options.node
        tunnels = "".join(f"-R {port}:127.0.0.1:{port} " for port in ports)
        variables = ["env", *(f"{name}={value}" for name, value in environ.items())] if environ else []
        words = [*variables, settings.python, node.BUNDLE, *run_words(self.run_id, "", self.run)]
        command = f"cd {settings.folder_on(host)} && {shlex.join(words)}"
        return f"ssh {self._ssh_words(host)} {tunnels}{host.target} {shlex.quote(command)}"

    def _fetch_lines(self, host: ssh.Host) -> Iterator[str]:
        runs = f"{self.options.node.folder_on(host)}/{node.RUNS}/{self.run_id}"
        yield f"mkdir -p {self._results / host.folder}"
        yield f"scp {self._ssh_words(host)} -r {host.target}:{runs} {self._results / host.folder}/"

    def _ssh_words(self, host: ssh.Host) -> str:
        return shlex.join(["-o", "BatchMode=yes", *ssh.user_options(host, self.options.config)])
