"""Variables of the caller that other programs read, and that change what they do: each is named in one line."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

logger = logging.getLogger(__name__)

#: What engines pass on to containers, or read for them.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY")
# Proxies may hold passwords.
_WITH_VALUE = re.compile(r"(?!.*PROXY)[A-Z_]+")


def log_settings(program: str, names: Iterable[str], environ: Mapping[str, str], effect: str) -> None:
    """Log which variables of these names (a `*` at the end stands for any rest) are set, and their effect."""
    patterns = [re.compile(f"{re.escape(name.rstrip('*'))}{'.*' if name.endswith('*') else ''}") for name in names]
    matches = [name for name in sorted(environ) if environ[name] and any(one.fullmatch(name) for one in patterns)]
    if matches:
        values = (f"{name}={environ[name]}" if _WITH_VALUE.fullmatch(name) else name for name in matches)
        logger.info(f"{program}: {', '.join(values)} {'are' if len(matches) > 1 else 'is'} set: {effect}")
