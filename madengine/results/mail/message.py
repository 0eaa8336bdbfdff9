"""A message with results: how many, what failed, a table for each metric, verdicts, and pages as attachments."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from pathlib import Path

from madengine.errors import MadengineError
from madengine.files import SIZE_LIMIT, human_size
from madengine.results.formats import Results
from madengine.results.formats.markdown import counts, failure_lines, text
from madengine.results.page import render
from madengine.results.page.plain_tables import PlainTable
from madengine.results.rows import Row
from madengine.results.statistics import HEADERS, metric_tables

# What many servers still take.
_MOST_BYTES = 20_000_000
_MOST_LINES = 2000


def results_message(results: Results, verdicts: str = "") -> EmailMessage:
    """Return a message with these results in its body, as text and as HTML; `verdicts` are those of a comparison."""
    body = text(results) + (f"\n## Comparison\n\n{verdicts}\n" if verdicts else "")
    values = {
        "counts": counts(results.rows),
        "error": results.error,
        "tables": [*_failures(results.rows), *_metrics(results.rows)],
        "text": verdicts,
    }
    return _message(f"madengine: {counts(results.rows).rstrip('.')}", body, render("email.html", values))


def tables_message(tables: Sequence[PlainTable]) -> EmailMessage:
    """Return a message with tables as they are."""
    names = ", ".join(table.title for table in tables)
    body = "\n".join(f"{table.title}: {len(table.lines)} rows" for table in tables)
    shown = [table._replace(lines=table.lines[:_MOST_LINES]) for table in tables]
    values = {"counts": body.replace("\n", "; "), "error": "", "tables": shown, "text": ""}
    return _message(f"madengine: {names}"[:200], f"{body}\n", render("email.html", values))


def addressed(message: EmailMessage, sender: str, recipients: Sequence[str]) -> EmailMessage:
    """Add from whom and to whom; without a sender it is madengine at this machine."""
    message["From"] = sender or f"madengine@{_host()}"
    if recipients:
        message["To"] = ", ".join(recipients)
    return message


def attach(message: EmailMessage, pages: Sequence[Path]) -> None:
    """Attach pages. Raises MadengineError for one that can't be read, and if they are too much for a message."""
    size = 0
    for page in pages:
        try:
            content = page.read_bytes()
        except OSError as error:
            raise MadengineError(f"{page}: can't be read: {error.strerror}") from error
        size += len(content)
        if size > min(_MOST_BYTES, SIZE_LIMIT):
            raise MadengineError(f"{page}: too large for an e-mail, at most {human_size(_MOST_BYTES)} can be attached")
        message.add_attachment(content, maintype="text", subtype="html", filename=page.name)


def _message(subject: str, body: str, page: str) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["Subject"] = " ".join(subject.encode("utf-8", "replace").decode().split())
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid(domain=_host())
    message.set_content(body.encode("utf-8", "backslashreplace").decode().replace("\0", ""), cte="quoted-printable")
    message.add_alternative(page.replace("\0", ""), subtype="html", cte="quoted-printable")
    return message


def _host() -> str:
    """Return this machine's name, as far as an address can hold it."""
    name = "".join(
        character
        for character in socket.gethostname()
        if (character.isascii() and character.isalnum()) or character in "-."
    )
    return name.strip("-.") or "localhost"


def _failures(rows: Sequence[Row]) -> list[PlainTable]:
    lines = failure_lines(rows)[:_MOST_LINES]
    return [PlainTable("Failures", ("cause", "model", "host", "reason", "n"), lines)] if lines else []


def _metrics(rows: Sequence[Row]) -> list[PlainTable]:
    return [
        PlainTable(
            f"{metric.name or 'Without a metric name'} ({metric.direction} is better)",
            HEADERS,
            metric.lines[:_MOST_LINES],
        )
        for metric in metric_tables(rows)
    ]
