"""The reference of all options, in Markdown, out of their declarations: `python -m madengine.cli.reference FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from madengine.cli.commands import VERBS
from madengine.cli.descriptions import DESCRIPTIONS, GENERATORS, REPORTERS
from madengine.config.option import Group, Option
from madengine.files import write_whole

BEGIN, END = "<!-- options:begin -->", "<!-- options:end -->"


def options_markdown() -> str:
    """A section a command, with a table of its options."""
    tools = (("generate", GENERATORS), ("report", REPORTERS))
    of_tools = {f"{verb} {name}": text for verb, texts in tools for name, text in texts.items()}
    descriptions = {**DESCRIPTIONS, **of_tools}
    return "\n".join(_section(name, descriptions[name]) for name in VERBS)


def _section(name: str, description: str) -> str:
    options = VERBS[name].declared()
    rows = [
        f"| {_flags(option)} | {_cell(option.help)} |" for group in Group for option in options if option.group is group
    ]
    sentence = f"{description[0].upper()}{description[1:]}."
    head = [f"### madengine {name}", "", sentence, "", "| option | meaning |", "|---|---|"]
    return "\n".join([*head, *rows, ""])


def _flags(option: Option) -> str:
    value = "\\|".join(option.choices) or option.metavar
    return ", ".join(f"`{flag}`" for flag in option.flags) + (f" `{value}`" if value and option.flag[0] == "-" else "")


def _cell(text: str) -> str:
    return text.replace("%%", "%").replace("|", "\\|")


def main(argv: list[str]) -> int:
    """Replace what is between the marks of the page; returns the exit code."""
    page = Path(argv[0])
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    write_whole(page, f"{before}{BEGIN}\n\n{options_markdown()}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
