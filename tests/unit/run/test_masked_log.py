"""Secrets in a log are overwritten as it grows, wherever the parts that are read begin and end."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madengine.config.credentials import Credentials, secret_values
from madengine.run.masked_log import MaskedLog

TOKEN = "hf_abcDEF123456"
OTHER = "Aa1!"


def masked(path: Path, parts: Sequence[bytes], secrets: Sequence[str]) -> tuple[bytes, bytes, bytes]:
    """Write a log part by part; return what was read, what was shown, and the file at its end."""
    raw, shown = b"", b""
    with path.open("w+b", buffering=0) as log, path.open("ab", buffering=0) as writer:
        reader = MaskedLog(log, secrets)
        for part in parts:
            writer.write(part)
            while (read := reader.read()).raw:
                raw += read.raw
                shown += read.text
        shown += reader.read_to_end()
    return raw, shown, path.read_bytes()


def test_a_secret_is_overwritten_in_the_file_and_in_what_is_shown(tmp_path: Path) -> None:
    text = f"+ login {TOKEN} {OTHER}\n{TOKEN}{TOKEN}\nperformance: 1 x\n".encode()
    raw, shown, file = masked(tmp_path / "log", [text], [TOKEN, OTHER])
    assert raw == text
    assert shown == file == b"+ login [redacted]***** ****\n" + b"[redacted]*****" * 2 + b"\nperformance: 1 x\n"


@pytest.mark.parametrize("size", range(1, 20))
def test_a_secret_across_the_parts_is_overwritten_too(tmp_path: Path, size: int) -> None:
    text = f"a {TOKEN}{TOKEN} hf_abc {TOKEN[:-1]} {TOKEN}".encode()
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    _, shown, file = masked(tmp_path / "log", parts, [TOKEN])
    mark = b"[redacted]*****"
    assert shown == file == b"a " + mark * 2 + b" hf_abc " + TOKEN[:-1].encode() + b" " + mark


def test_only_what_may_be_the_beginning_of_a_secret_waits(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b", buffering=0) as log, (tmp_path / "log").open("ab", buffering=0) as writer:
        reader = MaskedLog(log, [TOKEN])
        for text, shown in [(b"step 1\n", b"step 1\n"), (b"x hf_", b"x "), (b"no\n", b"hf_no\n"), (b"hf_abc", b"")]:
            writer.write(text)
            assert reader.read().text == shown
        assert reader.read_to_end() == b"hf_abc"


def test_without_secrets_nothing_changes(tmp_path: Path) -> None:
    text = b"\0\xff some bytes" * 100_000
    assert masked(tmp_path / "log", [text, b"end"], []) == ((text + b"end"),) * 3


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_secret_is_left_whatever_the_parts(tmp_path: Path, data: st.DataObject) -> None:
    secrets = data.draw(st.lists(st.text("ab", min_size=4, max_size=18), min_size=1, max_size=4))
    parts = data.draw(st.lists(st.text("abc", max_size=30).map(str.encode), max_size=8))
    path = tmp_path / "log"
    raw, shown, file = masked(path, parts, secrets)
    assert raw == b"".join(parts)
    assert shown == file
    assert len(file) == len(raw)
    assert not any(secret.encode() in file for secret in secrets)
    assert all(before == after or after in b"*[redacted]" for before, after in zip(raw, file, strict=True))
    path.unlink()


@pytest.mark.parametrize(
    "value",
    [
        "p'a\"ss $word`x`",
        "line one\nline two of it\n",
        "back\\slash and\ttab",
        "naïve 模型 pass",
        "alpha,beta;gamma|delta&epsilon>zeta",
    ],
)
def test_a_secret_is_known_as_shells_print_it(tmp_path: Path, value: str) -> None:
    script = 'set -x; : "$S"; set +x; printf "%q\\n" "$S"; export -p; printf "%s" "$S" | base64 -w0; echo "$S"'
    ran = subprocess.run(["bash", "-c", script], env={"S": value, "LC_ALL": "C.UTF-8"}, capture_output=True, check=True)
    secrets = secret_values(Credentials({}, {"MAD_SECRETS_S": value}))
    _, _, file = masked(tmp_path / "log", [ran.stderr, ran.stdout], secrets)
    words = [word for word in re.findall(r"\w+", value) if len(word) > 3]
    assert words
    assert not [word for word in words if word.encode() in file], file
