"""Results by e-mail, taken by a real SMTP server on loopback and read by Python's own mail library."""

from __future__ import annotations

import csv
import datetime
import email
import email.policy
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from madengine.distributed_cli import main
from madengine.results.rows import COLUMNS
from tests.unit.results.formats.hostile import NAMES

PASSWORD = "canary-smtp"


class Mailbox:
    """Takes every message but those to `nobody@`."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.encrypted: list[bool] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address.startswith("nobody@"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        self.recipients += envelope.rcpt_tos
        self.encrypted.append(session.ssl is not None)
        return "250 OK"


def _login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    is_right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"me@example.com", PASSWORD.encode())
    return AuthResult(success=is_right, handled=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that is its own authority, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
def mailbox(certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Mailbox, str]]:
    """A server with STARTTLS and a login, and its address."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("SMTP_USERNAME", "me@example.com")
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    monkeypatch.chdir(tmp_path)
    box = Mailbox()
    settings = {"tls_context": context, "require_starttls": True, "authenticator": _login, "auth_required": True}
    with running(box, **settings) as address:
        yield box, address


@contextmanager
def running(box: Mailbox, **settings: Any) -> Iterator[str]:
    """A server on a free port of loopback; its address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port, ready_timeout=30, **settings)
    controller.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        controller.stop()


def write_table(path: Path, *rows: dict[str, str]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)


def row(**cells: str) -> dict[str, str]:
    good = {"model": "bert", "performance": "12.5", "metric": "tokens/s", "status": "SUCCESS", "machine_name": "n1"}
    return {**good, "run_id": "r1", **cells}


def parts(message: EmailMessage) -> tuple[str, str, list[tuple[str | None, str]]]:
    """The text, the HTML, and the attachments by name."""
    text, page = message.get_body(("plain",)), message.get_body(("html",))
    assert text and page
    attached = [(one.get_filename(), _lines(one)) for one in message.iter_attachments()]
    return _lines(text), _lines(page), attached


def _lines(part: Any) -> str:
    return str(part.get_content()).replace("\r\n", "\n")


def test_results_arrive_encrypted_with_table_and_failures(
    mailbox: tuple[Mailbox, str], capsys: pytest.CaptureFixture[str]
) -> None:
    box, address = mailbox
    write_table(Path("perf.csv"), row(), row(model="gpt", status="FAILURE", performance="", reason="exit code 3"))
    words = ["report", "perf.csv", f"--smtp={address}", "--email", "a@example.com,b@example.com"]
    assert main(words) == 0
    assert "sent to a@example.com, b@example.com" in capsys.readouterr().err
    (message,) = box.messages
    assert (box.recipients, box.encrypted) == (["a@example.com", "b@example.com"], [True])
    assert message["Subject"] == "madengine: 1 SUCCESS, 1 FAILURE on 1 host"
    assert (message["From"], message["To"]) == ("me@example.com", "a@example.com, b@example.com")
    assert message["Message-ID"] and message["Date"]
    text, page, attached = parts(message)
    assert "| `bert`  | `n1`" in text
    assert "exit code 3" in text
    assert "<td" in page and ">exit code 3</td>" in page and ">12.5</td>" in page
    assert attached == []


def test_the_verdicts_and_the_page_come_too(mailbox: tuple[Mailbox, str]) -> None:
    box, address = mailbox
    for name, base in (("old", 100), ("new", 80)):
        rows = [row(performance=str(base + number), run_id=f"{name}{number}") for number in range(6)]
        write_table(Path(f"{name}.csv"), *rows)
    words = ["report", "new.csv", "--baseline=old.csv", f"--smtp={address}", "--email=a@example.com"]
    assert main(words) == 0
    text, page, attached = parts(box.messages[0])
    assert "worse" in text.partition("## Comparison")[2]
    assert "worse" in page
    assert [name for name, _ in attached] == ["index.html"]
    assert "plotly" in attached[0][1].lower()


def test_to_email_sends_the_page_that_it_writes(mailbox: tuple[Mailbox, str]) -> None:
    box, address = mailbox
    write_table(Path("perf.csv"), row())
    assert main(["report", "to-email", f"--smtp={address}", "--email=a@example.com", "-o", "page.html"]) == 0
    text, page, attached = parts(box.messages[0])
    assert text == "perf: 1 rows\n"
    assert "<h3>perf</h3>" in page
    assert attached == [("page.html", Path("page.html").read_text())]


@pytest.mark.parametrize("name", [*NAMES, "x\r\nBcc: victim@example.com", "模型 🤖"])
def test_hostile_names_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    failure = row(model=name, status="FAILURE", performance="", reason=name, machine_name=name)
    write_table(Path("perf.csv"), row(model=name, metric=name), failure)
    assert main(["report", "perf.csv", "--email-file=mail.eml", "--email=a@example.com"]) == 0
    message = email.message_from_bytes(Path("mail.eml").read_bytes(), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert message.keys() == ["Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "From", "To"]
    assert all(len(line) < 998 for line in Path("mail.eml").read_bytes().splitlines())
    assert "<script>" not in parts(message)[1]


def test_only_the_file_needs_no_server_and_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(Path("perf.csv"), row())
    assert main(["report", "perf.csv", "--email-file", "mail.eml", "--email-from=ci@example.com"]) == 0
    message = email.message_from_bytes(Path("mail.eml").read_bytes(), policy=email.policy.default)
    assert (message["From"], message["To"]) == ("ci@example.com", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--email=nobody@example.com"], "nobody@example.com: 550 no such user"),
        (["--email=a@example.com", "--smtp-tls=none"], "not supported by server"),
    ],
)
def test_what_the_server_refuses_is_one_line(
    mailbox: tuple[Mailbox, str], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write_table(Path("perf.csv"), row())
    assert main(["report", "perf.csv", f"--smtp={mailbox[1]}", *words]) == 1
    errors = capsys.readouterr().err
    assert message in errors
    assert PASSWORD not in errors


def test_a_wrong_password_and_an_unknown_certificate_are_refused(
    mailbox: tuple[Mailbox, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(Path("perf.csv"), row())
    words = ["report", "perf.csv", f"--smtp={mailbox[1]}", "--email=a@example.com"]
    monkeypatch.setenv("SMTP_PASSWORD", "canary-wrong")
    assert main(words) == 1
    assert "535 " in (errors := capsys.readouterr().err) and "canary" not in errors
    monkeypatch.delenv("SSL_CERT_FILE")
    assert main(words) == 1
    assert "its certificate is not trusted" in capsys.readouterr().err
    assert mailbox[0].messages == []


def test_a_server_without_starttls_gets_no_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(Path("perf.csv"), row())
    box = Mailbox()
    with running(box) as address:
        words = ["report", "perf.csv", f"--smtp={address}", "--email=a@example.com"]
        assert main(words) == 1
        assert "--smtp-tls chooses" in capsys.readouterr().err
        assert main([*words, "--smtp-tls=none"]) == 0
    assert box.encrypted == [False]
    monkeypatch.setenv("SMTP_USERNAME", "me")
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    assert main(["report", "perf.csv", "--smtp=mail.invalid", "--smtp-tls=none", "--email=a@example.com"]) == 4
    assert "only over TLS" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--email=a@example.com"],
        ["--smtp=localhost"],
        ["--email=not an address", "--smtp=localhost"],
        ["--email=a@example.com", "--smtp=a b"],
        ["--email=a@example.com", "--smtp=host:99999"],
        ["--email-from=x\ny@z", "--email-file=x.eml"],
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(Path("perf.csv"), row())
    try:
        code: object = main(["report", "perf.csv", *words])
    except SystemExit as end:
        code = end.code
    assert code == 4
