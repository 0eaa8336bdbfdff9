"""The files that every host gets, under the names that they have there."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from madengine.deploy.bundle import write_bundle
from madengine.deploy.ssh import node
from madengine.process import private_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """Files in a private folder of this machine."""

    files: tuple[Path, ...]
    #: SHA-256 of those that nodes keep from one run to the next, by name
    digests: Mapping[str, str]

    def missing(self, names: Sequence[str]) -> list[Path]:
        """Return the files that a node needs which has those of these names."""
        return [file for file in self.files if file.name not in names]


def sources(
    manifest: Path, context: Path | None, secrets_from: Path | None, against: Path | None = None
) -> dict[str, Path]:
    """Return the files that go with the bundle, by the name that each has on the node."""
    secrets = {name: secrets_from / name for name in node.SECRETS} if secrets_from else {}
    return {
        node.MANIFEST: manifest,
        **({node.CONTEXT: context} if context else {}),
        **({node.AGAINST: against} if against else {}),
        **{name: path for name, path in secrets.items() if path.is_file()},
    }


@contextmanager
def upload_of(files: Mapping[str, Path]) -> Iterator[Upload]:
    """Copy the bundle and these files, by their names on the node, to a private folder until the block ends."""
    with private_folder() as folder:
        copies = [write_bundle(folder / node.BUNDLE)]
        for name, source in files.items():
            copies.append(folder / name)
            copies[-1].touch(0o600 if name in node.SECRETS else 0o644)
            copies[-1].write_bytes(source.read_bytes())
        shared = [file for file in copies if file.name in node.SHARED]
        digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in shared}
        yield Upload(tuple(copies), digests)


def report_secrets(secrets_from: Path | None) -> None:
    """Log which logins and data sources are copied to the hosts, or stay here."""
    names = [name for name in node.SECRETS if ((secrets_from or Path.cwd()) / name).is_file()]
    if names and secrets_from:
        logger.info(f"{', '.join(names)}: copied to every host (mode 600), where they stay")
    elif names:
        logger.info(f"{', '.join(names)}: not copied to the hosts; --ship-credentials does")
