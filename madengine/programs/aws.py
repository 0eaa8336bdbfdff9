"""The AWS CLI, for S3 and compatible servers: what a path is, and a copy of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs
from madengine.programs import Secret

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

INSTALL = "the AWS CLI (aws) is not installed here; pip install awscli"


@dataclass(frozen=True)
class Account:
    """A user at an endpoint: without a user the AWS CLI's own settings apply, without an endpoint it is Amazon."""

    username: str = ""
    password: str = field(default="", repr=False)
    endpoint: str = ""
    region: str = ""
    session_token: str = field(default="", repr=False)

    def __call__(self, *words: str) -> BaseCommand:
        """Return an `aws` command."""
        endpoint = [f"--endpoint-url={self.endpoint}"] if self.endpoint else []
        limits = ["--cli-connect-timeout=10", "--cli-read-timeout=60"]
        return programs.program("aws", *words, *endpoint, *limits, env=self._environment())

    def listing(self, path: str) -> BaseCommand:
        """List what begins with an `s3://` path, a line each: `PRE name/` for a folder, else date, size and name."""
        return self("s3", "ls", path.rstrip("/"))

    def copy_folder(self, path: str, target: Path) -> BaseCommand:
        """Copy all below an `s3://` path into a local folder, except files that it already has in the same size."""
        return self("s3", "sync", "--only-show-errors", f"{path.rstrip('/')}/", f"{target}/")

    def copy_file(self, path: str, target: Path) -> BaseCommand:
        """Copy one object into a local folder."""
        return self("s3", "cp", "--only-show-errors", path, f"{target}/")

    def _environment(self) -> dict[str, str]:
        environment = {"AWS_PAGER": "", "AWS_MAX_ATTEMPTS": "3", "AWS_DEFAULT_REGION": self.region or "us-east-2"}
        if self.endpoint:
            # Only Amazon's own servers support these checksums.
            environment |= dict.fromkeys(
                ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"), "when_required"
            )
        if self.username:
            environment |= {
                "AWS_ACCESS_KEY_ID": self.username,
                "AWS_SECRET_ACCESS_KEY": Secret(self.password),
                **({"AWS_SESSION_TOKEN": Secret(self.session_token)} if self.session_token else {}),
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        return environment


def kind(listing: Sequence[str], path: str) -> str:
    """Return what a path is by the lines of its listing: `folder`, `file`, or empty for neither."""
    name = path.rstrip("/").rpartition("/")[2]
    lines = [line.strip() for line in listing]
    if f"PRE {name}/" in lines or re.fullmatch(r"s3://[^/]+/?", path):
        return "folder"
    return "file" if any(re.fullmatch(rf"\S+ +\S+ +\d+ {re.escape(name)}", line) for line in lines) else ""
