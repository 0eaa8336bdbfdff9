"""Every option of every command is declared in one place, and it is known what becomes of it on other hosts."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from madengine.cli.commands import VERBS
from madengine.cli.descriptions import DESCRIPTIONS, GENERATORS, REPORTERS
from madengine.cli.options import add_options
from madengine.cli.parser import command_parser
from madengine.cli.reference import options_markdown
from madengine.config.common_options import ContextOptions, EngineOptions
from madengine.config.option import OnHosts, options_of
from madengine.run.options import RunOptions

CHECKOUT = Path(__file__).parents[3]
FORWARDED = {
    "additional_context", "describe_environment", "engine", "force_mirror_local", "gpu_mode", "gpu_wait", "isolation",
    "keep_alive", "keep_going", "keep_model_dir", "live_output", "max_repeats", "nodes", "pack", "registry",
    "repeat",
    "require_pinned_image", "sample_hz", "seed", "skip_gpu_arch", "skip_model_run", "tags", "timeout",
    "until_stable", "warmup", "workspace",
}  # fmt: skip
LOCAL = {
    "clean_only", "cleanup_perf", "dry_run", "fail_on", "higher_is_better", "json", "lower_is_better", "min_effect",
    "output", "quiet", "run_id", "summary_output",
}  # fmt: skip


def test_each_command_is_described_and_each_description_is_a_command() -> None:
    described = {name for name in DESCRIPTIONS if name != "generate"} | {f"generate {name}" for name in GENERATORS}
    described |= {f"report {name}" for name in REPORTERS}
    assert described == set(VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_the_options_of_a_command_fit_together(name: str) -> None:
    """argparse refuses a flag that two options have."""
    parser = argparse.ArgumentParser()
    declared = add_options(parser, VERBS[name].options(), VERBS[name].without)
    flags = [flag for option, _ in declared.values() for flag in option.flags]
    assert len(flags) == len(set(flags))
    assert all(option.help for option, _ in declared.values())


@pytest.mark.parametrize("name", ["run", "deploy"])
def test_every_option_of_a_run_is_forwarded_copied_local_or_refused(name: str) -> None:
    """An option that is added later has to be put into one of these lists by its author."""
    declared = options_of((RunOptions, ContextOptions, EngineOptions))
    by_fate = {fate: {key for key, (option, _) in declared.items() if option.on_hosts is fate} for fate in OnHosts}
    assert by_fate == {
        OnHosts.FORWARDED: FORWARDED,
        OnHosts.COPIED: {"additional_context_file", "against"},
        OnHosts.LOCAL: LOCAL,
        OnHosts.REFUSED: {"data_file", "resume", "tools_file"},
    }
    assert set(declared) <= set(options_of(VERBS[name].options()))


def test_the_reference_page_lists_every_option_as_it_is_declared() -> None:
    page = (CHECKOUT / "docs/reference.md").read_text(encoding="utf-8")
    assert options_markdown() in page, "docs/reference.md is out of date: run `just docs`"


def test_a_command_that_is_not_named_costs_no_options() -> None:
    parser = command_parser(["--help"])
    assert "--tags" not in parser.format_help()
