"""Where mail goes and who it is from, read from the environment once, when a worker starts."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.headerregistry import Address
from email.utils import parseaddr
from pathlib import Path
from typing import Literal, TypeVar

from streamq.core.errors import ConfigError
from workers.email_message import parse_address

StartTls = Literal["auto", "always", "never"]
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """The mail server and the sender.

    Args:
        sender: who every mail is from.
        host: the mail server.
        port: its port.
        user: the login; None = no login.
        password: never shown.
        starttls: ``auto`` encrypts where the server offers it, and insists when a password would travel to another
            machine; ``always`` insists; ``never`` does not even try.
        tls: encrypted from the first byte, without STARTTLS.
        ca_file: certificates to trust beside those of the system.
        timeout: seconds for connecting, and for each answer of the server.
    """

    sender: Address
    host: str = "localhost"
    port: int = 25
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    starttls: StartTls = "auto"
    tls: bool = False
    ca_file: str | None = None
    timeout: float = 10.0

    @property
    def insists_on_starttls(self) -> bool | None:
        """True: encrypt or fail. None: encrypt if offered. False: do not."""
        if self.tls or self.starttls == "never":
            return False
        sends_password_away = self.user is not None and not _is_this_machine(self.host)
        return True if self.starttls == "always" or sends_password_away else None


def settings_from_env(environ: Mapping[str, str]) -> SmtpSettings:
    """Read the settings; a variable that is empty counts as absent.

    ``SMTP_HOST`` is localhost unless given. ``SMTP_PORT`` is 465 with ``SMTP_TLS``, 587 with ``SMTP_USER``, else 25.
    ``SMTP_USER`` and ``SMTP_PASSWORD`` come together. ``SMTP_FROM`` is ``SMTP_USER`` where that is an address, and
    ``streamq@localhost`` where the server is this machine. ``SMTP_STARTTLS`` is ``auto`` ``always`` or ``never``,
    ``SMTP_TLS`` true or false, ``SMTP_CA_FILE`` a file of certificates, ``SMTP_TIMEOUT`` seconds (10).

    Args:
        environ: usually ``os.environ``.

    Raises:
        ConfigError: a value cannot be used. The text names the variable and does not show the value.
    """
    given = {name: value for name, value in environ.items() if name.startswith("SMTP_") and value}
    host, user, tls = given.get("SMTP_HOST", "localhost"), given.get("SMTP_USER"), _flag(given, "SMTP_TLS")
    if ("SMTP_USER" in given) != ("SMTP_PASSWORD" in given):
        raise ConfigError("SMTP_USER and SMTP_PASSWORD: both are needed, or none")
    if "SMTP_CA_FILE" in given and not Path(given["SMTP_CA_FILE"]).is_file():
        raise ConfigError("SMTP_CA_FILE: there is no such file")
    return SmtpSettings(
        sender=_sender(given, host),
        host=host,
        port=_number(int, given, "SMTP_PORT", default=465 if tls else 587 if user else 25, most=65535),
        user=user,
        password=given.get("SMTP_PASSWORD"),
        starttls=_starttls(given),
        tls=tls,
        ca_file=given.get("SMTP_CA_FILE"),
        timeout=_number(float, given, "SMTP_TIMEOUT", default=10.0, most=600.0),
    )


def _sender(given: Mapping[str, str], host: str) -> Address:
    name, address = parseaddr(given.get("SMTP_FROM") or given.get("SMTP_USER", ""))
    with contextlib.suppress(ValueError):
        plain = parse_address(address)
        if name.isprintable():
            return Address(name, plain.username, plain.domain)
    if "SMTP_FROM" in given or not _is_this_machine(host):
        raise ConfigError("SMTP_FROM: an address is needed, like shop@example.org or Shop <shop@example.org>")
    return Address("", "streamq", "localhost")


def _is_this_machine(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _starttls(given: Mapping[str, str]) -> StartTls:
    match given.get("SMTP_STARTTLS", "auto").lower():
        case ("auto" | "always" | "never") as choice:
            return choice
    raise ConfigError("SMTP_STARTTLS: auto, always or never is needed")


def _flag(given: Mapping[str, str], name: str) -> bool:
    match given.get(name, "no").lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
    raise ConfigError(f"{name}: true or false is needed")


def _number(
    kind: Callable[[str], Number], given: Mapping[str, str], name: str, *, default: Number, most: Number
) -> Number:
    if name not in given:
        return default
    with contextlib.suppress(ValueError):
        number = kind(given[name].removesuffix("s"))
        if 0 < number <= most:
            return number
    raise ConfigError(f"{name}: a number above 0, at most {most}, is needed")
