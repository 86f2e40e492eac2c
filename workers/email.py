"""The mail worker: what can be sent, and how each mail is called on ``email_queue``.

The server and the sender come from the environment (``SMTP_HOST`` and its neighbours: ``workers/smtp_settings.py``),
the texts from ``workers/templates``. One message is one mail: it goes to all of its recipients or to none of them.
A refusal that will pass (4xx, no connection) is retried; one that will not (5xx, a payload that makes no mail)
becomes a dead letter whose reason names the cause.
"""

from typing import Any

import msgspec

from streamq import Context
from workers.app import app
from workers.email_message import compose


class Attachment(msgspec.Struct, kw_only=True, frozen=True):
    """A file that goes with a mail: at most 512 KiB, all of the mail at most 1 MiB.

    Args:
        filename: its name, without a path.
        content: its bytes; base64 in JSON.
        content_type: what it is; ``text/csv; charset=utf-8`` is understood too.
    """

    filename: str
    content: bytes
    content_type: str = "application/octet-stream"


class Email(msgspec.Struct, kw_only=True, frozen=True):
    """Any mail. Either ``template`` with ``data``, or ``subject`` with ``body``, ``html`` or both.

    Args:
        to: one address or several, plain ones like ``name@example.org``. With ``cc`` and ``bcc`` at most 100.
        subject: one line; a template brings its own unless this is given.
        body: the text.
        html: the same as HTML. It is sent as it is: escape what comes from others, or use a template, which does.
        template: the name of a template.
        data: the template's variables.
        cc: who gets a copy.
        bcc: who gets a copy that nobody else sees.
        reply_to: where an answer goes.
        attachments: files that go with it.
        from_: refused (``from`` in JSON), so that a message cannot speak in another's name. ``SMTP_FROM`` sets it.
    """

    to: str | list[str]
    subject: str | None = None
    body: str | None = None
    html: str | None = None
    template: str | None = None
    data: dict[str, Any] = {}
    cc: list[str] = []
    bcc: list[str] = []
    reply_to: list[str] = []
    attachments: list[Attachment] = []
    from_: str | None = msgspec.field(default=None, name="from")


@app.handler("email_queue", type="send_email")
async def send_email(email: Email, ctx: Context) -> None:
    """Send any mail."""
    mailer = ctx.state.mailer
    letter = compose(email, sender=mailer.sender, message_id=ctx.message.id)
    reply = await mailer.send(letter)
    ctx.log.info("email_accepted", recipients=len(letter.recipients), bytes=len(letter.content), reply=reply)


@app.handler("email_queue", type="send_welcome_email")
async def send_welcome_email(
    recipient: str, template: str = "welcome", data: dict[str, Any] | None = None, *, ctx: Context
) -> None:
    """Greet a new user. Data: may have ``name``, ``link``."""
    await send_email(Email(to=recipient, template=template, data=data or {}), ctx)


@app.handler("email_queue", type="send_bid_notification")
async def send_bid_notification(
    recipient: str, template: str = "bid_notification", data: dict[str, Any] | None = None, *, ctx: Context
) -> None:
    """Tell a seller about a bid. Data: needs ``item``, ``amount``; may have ``name``, ``bidder``, ``link``."""
    await send_email(Email(to=recipient, template=template, data=data or {}), ctx)


@app.handler("email_queue", type="send_payment_receipt")
async def send_payment_receipt(
    recipient: str, template: str = "payment_receipt", data: dict[str, Any] | None = None, *, ctx: Context
) -> None:
    """Confirm a payment. Data: needs ``amount``, ``reference``; may have ``name``, ``method``, ``date``, ``link``."""
    await send_email(Email(to=recipient, template=template, data=data or {}), ctx)


@app.handler("email_queue", type="send_order_confirmation_email")
async def send_order_confirmation_email(
    recipient: str, template: str = "order_confirmation", data: dict[str, Any] | None = None, *, ctx: Context
) -> None:
    """Confirm an order.

    Data: needs ``order_id``, ``total``, ``items`` (a list of ``name``, ``quantity``, ``price``); may have ``name``,
    ``link``.
    """
    await send_email(Email(to=recipient, template=template, data=data or {}), ctx)
