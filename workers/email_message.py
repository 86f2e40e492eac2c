"""From a payload to the bytes of a mail: addresses, headers, templates, attachments. No network here.

What cannot become a mail is refused with ``Reject``. Reasons are logged and stored, so they name the field or the
variable that is wrong and never quote what is in it.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from streamq import Reject

if TYPE_CHECKING:
    from workers.email import Attachment, Email

MAX_RECIPIENTS = 100  # what every server has to take in one mail: RFC 5321, 4.5.3.1.8
MAX_ATTACHMENT = 512 * 1024  # bytes of one attachment
MAX_MAIL = 1024 * 1024  # bytes of the finished mail

TEMPLATES = Path(__file__).with_name("templates")

_TEMPLATE_NAME = re.compile(r"[a-z0-9_]+")
_LOCAL_PART = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.IGNORECASE)
_CONTENT_TYPE = re.compile(r"([a-z0-9][a-z0-9!#$&^_.+-]*)/([a-z0-9][a-z0-9!#$&^_.+-]*)(?:; ?charset=([a-z0-9_-]+))?")
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # control characters, half characters, line and paragraph separators


@dataclass(frozen=True, slots=True, repr=False)
class Letter:
    """A finished mail in its envelope. Without a repr: nothing of it may reach a log.

    Args:
        sender: the envelope sender, one address.
        recipients: everybody it goes to, those of ``bcc`` too, each once.
        content: headers and body as they are transmitted. 7-bit, unless ``utf8``.
        utf8: an address needs a server that offers SMTPUTF8 (RFC 6531).
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    utf8: bool


class Content(NamedTuple):
    """What a reader sees. ``text`` and ``html`` are two forms of the same; one of them may be missing."""

    subject: str
    text: str | None
    html: str | None


def compose(email: "Email", *, sender: Address, message_id: str) -> Letter:
    """Build the mail that a payload describes.

    Args:
        email: the payload.
        sender: who it is from.
        message_id: the id of the streamq message. The mail's ``Message-ID`` is made of it, so that a mail which is
            sent again after a lost connection is recognised as the same one.

    Returns:
        The mail, ready to be sent.

    Raises:
        Reject: this payload can never become a mail.
    """
    to = _addresses("to", [email.to] if isinstance(email.to, str) else email.to)
    cc, bcc, reply_to = (_addresses(field, getattr(email, field)) for field in ("cc", "bcc", "reply_to"))
    recipients = tuple(dict.fromkeys(address.addr_spec for address in (*to, *cc, *bcc)))
    if not to or len(recipients) > MAX_RECIPIENTS:
        raise Reject(f"to: between 1 and {MAX_RECIPIENTS} addresses are needed")
    if email.from_ is not None:
        raise Reject("from: the sender is set by SMTP_FROM; an answer can be led elsewhere with reply_to")

    content = _content(email)
    utf8 = not all(address.addr_spec.isascii() for address in (*to, *cc, *bcc, *reply_to, sender))
    message = EmailMessage((SMTPUTF8 if utf8 else SMTP).clone(cte_type="7bit"))
    people = {"From": (sender,), "To": to, "Cc": cc, "Reply-To": reply_to}
    for header, addresses in people.items():
        if addresses:
            message[header] = addresses
    message["Subject"] = _one_line("subject", content.subject)
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{quote(message_id, safe='').replace('.', '%2E')}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: holiday notices do not answer this mail
    try:
        _write_body(message, content)
        for number, attachment in enumerate(email.attachments):
            _attach(message, f"attachments[{number}]", attachment)
        raw = message.as_bytes()
    except UnicodeEncodeError:
        raise Reject("the text is not valid Unicode") from None
    if len(raw) > MAX_MAIL:
        raise Reject(f"the mail is larger than {MAX_MAIL} bytes")
    return Letter(sender.addr_spec, recipients, raw, utf8)


def parse_address(text: str) -> Address:
    """Read one plain address: no display name, no comment, no quotes, nothing that a reader could take for another.

    Args:
        text: ``name@domain``. The domain may be international; it is turned into its ASCII form.

    Returns:
        The address, without a display name.

    Raises:
        ValueError: it is not one plain address. The text of the error does not quote it.
    """
    local, _, domain = text.rpartition("@")
    if len(text) > 254 or len(local.encode(errors="replace")) > 64:  # RFC 5321, 4.5.3.1
        raise ValueError("an address has at most 64 bytes before the @ and 254 in all")
    domain = _ascii_domain(domain)
    if not _LOCAL_PART.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise ValueError("not one plain address like name@example.org")
    return Address(username=local, domain=domain)


def render(template: str, data: Mapping[str, Any]) -> Content:
    """Fill a template: ``NAME.txt`` with the block ``subject``, and ``NAME.html``.

    Args:
        template: its name. Templates are files of this package and never come with a message.
        data: the variables. One that is null counts as missing.

    Raises:
        Reject: there is no such template, or the data does not fill it; a missing variable is named.
    """
    if not _TEMPLATE_NAME.fullmatch(template):
        raise Reject("template: a name of a-z, 0-9 and _ is needed")
    given = {name: value for name, value in data.items() if value is not None}
    try:
        plain = _environment().get_template(f"{template}.txt")
        subject = "".join(plain.blocks["subject"](plain.new_context(given)))
        rich = _environment().get_template(f"{template}.html")
        return Content(subject, plain.render(given), rich.render({**given, "subject": subject}))
    except jinja2.TemplateNotFound:
        raise Reject(f"template: there is none called {template}") from None
    except jinja2.UndefinedError as error:  # its text has the names of variables and types, no values
        raise Reject(f"template {template}, data: {error.message}") from None
    except (jinja2.TemplateError, TypeError, ValueError, RecursionError) as error:
        raise Reject(f"template {template}, data: a value does not fit ({type(error).__name__})") from None


def _ascii_domain(domain: str) -> str:
    """The form that DNS knows; empty when there is none or when it would be another domain's.

    IDNA 2003 turns ß into ss and full-width letters into plain ones: such a mail would go to somebody else.
    """
    if domain.isascii():
        return domain
    try:
        ascii_form = domain.encode("idna")
        return ascii_form.decode() if ascii_form.decode("idna") == domain.lower() else ""
    except UnicodeError:
        return ""


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["web_address"] = _web_address
    return environment


def _web_address(value: object) -> str:
    """A link that opens a web page: escaping alone would let ``javascript:`` through."""
    link = str(value)
    if not link.startswith(("https://", "http://")) or _unprintable(link):
        raise Reject("data: a link has to begin with https:// or http://")
    return link


def _content(email: "Email") -> Content:
    if email.template is not None:
        if email.body is not None or email.html is not None:
            raise Reject("template: it makes the text itself, so body and html cannot be given too")
        content = render(email.template, email.data)
        return content if email.subject is None else content._replace(subject=email.subject)
    if email.subject is None:
        raise Reject("subject: it is needed when there is no template")
    if email.body is None and email.html is None:
        raise Reject("body: there is nothing to send; body, html or template is needed")
    return Content(email.subject, email.body, email.html)


def _write_body(message: EmailMessage, content: Content) -> None:
    if content.text is None:
        message.set_content(content.html, subtype="html")
        return
    message.set_content(content.text)
    if content.html is not None:
        message.add_alternative(content.html, subtype="html")


def _attach(message: EmailMessage, field: str, attachment: "Attachment") -> None:
    filename = _one_line(f"{field}.filename", attachment.filename)
    content_type = _CONTENT_TYPE.fullmatch(attachment.content_type.lower())
    if not filename or "/" in filename or "\\" in filename:
        raise Reject(f"{field}.filename: a name without a path is needed")
    if content_type is None or content_type[1] in ("message", "multipart"):
        raise Reject(f"{field}.content_type: a type like application/pdf is needed, and no mail within the mail")
    if len(attachment.content) > MAX_ATTACHMENT:
        raise Reject(f"{field}.content: larger than {MAX_ATTACHMENT} bytes")
    main, sub, charset = content_type.groups()
    params = {"charset": charset} if charset else None
    message.add_attachment(attachment.content, maintype=main, subtype=sub, filename=filename, params=params)


def _addresses(field: str, texts: Iterable[str]) -> tuple[Address, ...]:
    addresses = []
    for number, text in enumerate(texts):
        try:
            addresses.append(parse_address(text))
        except ValueError as error:
            raise Reject(f"{field}[{number}]: {error}") from None
    return tuple(addresses)


def _one_line(field: str, text: str) -> str:
    """The text, if it may stand in a header: whoever can break the line can write headers of their own."""
    if _unprintable(text):
        raise Reject(f"{field}: line breaks and control characters are not allowed in a header")
    return text


def _unprintable(text: str) -> bool:
    return not text.isprintable() and any(unicodedata.category(character) in _UNPRINTABLE for character in text)
