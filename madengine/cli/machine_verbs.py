"""The commands that look at a machine, or at hosts: status, logs, cleanup."""

from __future__ import annotations

import json
import logging

from madengine.cli.machine_options import CleanupOptions, LogsOptions, StatusOptions
from madengine.cli.places import names_hosts
from madengine.cli.terminal import show, show_bytes
from madengine.cli.verbs import Values, engine_name, ssh_options_of
from madengine.config.option import words_for_hosts
from madengine.errors import EXIT_DONE, EXIT_FAILURE

logger = logging.getLogger(__name__)


def status(values: Values) -> int:
    """Show what runs."""
    from madengine.programs.engine_finder import answering_engines
    from madengine.run.running import running_models
    from madengine.run.running_table import as_record, table

    if names_hosts(values):
        from madengine.deploy.ssh.verbs import status_of_hosts

        return status_of_hosts(ssh_options_of(values), words_for_hosts((StatusOptions,), values), values["json"], show)
    record = as_record(running_models(answering_engines(engine_name(values))))
    show(json.dumps(record, indent=2) if values["json"] else table([record]))
    return EXIT_DONE


def logs(values: Values) -> int:
    """Show, or follow, the log of a model."""
    from madengine.programs.engine_finder import answering_engines
    from madengine.run.live_output import LiveOutput
    from madengine.run.model_logs import copy_log, find_log
    from madengine.run.running import running_models

    if names_hosts(values):
        from madengine.deploy.ssh.verbs import logs_of_hosts

        run = [f"--run-id={values['run_id']}"] if values["run_id"] else []
        follow = ["--follow"] if values["follow"] else []
        words = [*words_for_hosts((LogsOptions,), values), *run, *follow, "--", values["model"]]
        return logs_of_hosts(ssh_options_of(values), words, show)
    engines = answering_engines(engine_name(values))
    log = find_log(values["model"], values["run_id"], running_models(engines))
    logger.info(f"log: {log.path}")
    harmless = LiveOutput().harmless
    copy_log(log, engines, values["follow"], lambda chunk: show_bytes(harmless(chunk)))
    return EXIT_DONE


def cleanup(values: Values) -> int:
    """Remove what madengine has left, or list it."""
    from madengine.run.cleanup import clean_up

    if names_hosts(values):
        from madengine.deploy.ssh.verbs import command_on_hosts

        words = words_for_hosts((CleanupOptions,), values)
        return command_on_hosts(ssh_options_of(values), "cleanup", words, show)
    options = {name: values[name] for name in ("everything", "older_than", "workspace", "dry_run")}
    return EXIT_DONE if clean_up(engine_name(values), show=show, **options) else EXIT_FAILURE
