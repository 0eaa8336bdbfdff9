"""A message to a server: encrypted, with the login of credential.json."""

from __future__ import annotations

import ipaddress
import smtplib
import ssl
from collections.abc import Mapping
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path

from madengine.config.credentials import load_credentials
from madengine.errors import ConfigurationError, MadengineError
from madengine.files import write_whole
from madengine.results.mail.message import addressed
from madengine.results.mail.options import EmailOptions, Server

_ENTRY = "SMTP"
_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_SECONDS = 60


def deliver(message: EmailMessage, options: EmailOptions, environ: Mapping[str, str], root: Path) -> str:
    """Send the message, or write it to a file, or both; return what was done, in words.

    `root` is where credential.json is. Raises MadengineError if the server refuses it.
    """
    entries = load_credentials(root, environ, [_ENTRY]).entries
    entry = entries.get(options.smtp.host if options.smtp else "", {}) or entries.get(_ENTRY, {})
    user = entry.get("username", "")
    addressed(message, options.email_from or (user if "@" in user else ""), options.email)
    done = []
    if options.email_file:
        write_whole(options.email_file, message.as_bytes().decode("ascii", "surrogateescape"))
        done.append(f"message: {options.email_file}")
    if options.smtp:
        _send(message, options.smtp, options.smtp_tls, user, entry.get("password", ""))
        done.append(f"sent to {', '.join(options.email)}")
    return "; ".join(done)


def _send(message: EmailMessage, server: Server, security: str, user: str, password: str) -> None:
    name = f"{server.host}:{server.port or _PORTS[security]}"
    if security == "none" and user and not _is_this_machine(server.host):
        raise ConfigurationError(f"{name}: a login is sent only over TLS; leave out --smtp-tls none")
    try:
        with _connection(server, security) as connection:
            if user:
                connection.login(user, password)
            refused = connection.send_message(message)
    except smtplib.SMTPNotSupportedError as error:
        raise MadengineError(f"{name}: {error}; --smtp-tls chooses how it is encrypted") from error
    except ssl.SSLCertVerificationError as error:
        raise MadengineError(
            f"{name}: its certificate is not trusted: {error.verify_message}; SSL_CERT_FILE names yours"
        ) from error
    except (smtplib.SMTPException, OSError) as error:
        raise MadengineError(f"{name}: {_reason(error)}") from error
    if refused:
        raise MadengineError(f"{name}: refused for {', '.join(refused)}; sent to the others")


def _connection(server: Server, security: str) -> smtplib.SMTP:
    port, context = server.port or _PORTS[security], ssl.create_default_context()
    if security == "tls":
        return smtplib.SMTP_SSL(server.host, port, timeout=_SECONDS, context=context)
    connection = smtplib.SMTP(server.host, port, timeout=_SECONDS)
    try:
        if security == "starttls":
            connection.starttls(context=context)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_this_machine(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _reason(error: Exception) -> str:
    """Return the server's own words."""
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error.decode("utf-8", "replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        return f"{error.smtp_code} {' '.join(str(text).split())}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "; ".join(f"{name}: {_words(answer)}" for name, answer in error.recipients.items())
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


def _words(answer: tuple[int, bytes]) -> str:
    return f"{answer[0]} {answer[1].decode('utf-8', 'replace')}"
