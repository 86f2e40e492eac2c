"""The way to the mail server: one connection that stays open, and a verdict on each refusal.

At least once, like everything here: a connection that breaks after the text was handed over leaves open whether the
server has taken it, so the mail is sent again with the same ``Message-ID``. Anywhere before that nothing has been
sent, and nothing can be sent twice.
"""

import asyncio
import contextlib
import re
from email.headerregistry import Address
from types import TracebackType
from typing import Self

import aiosmtplib
from aiosmtplib import (
    SMTPException,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)

from streamq import Reject, Retry
from workers.email_message import Letter
from workers.smtp_settings import SmtpSettings

CLOSING = 421  # the server ends the connection: RFC 5321, 3.8
NOT_LOGGED_IN = {530, 534, 535, 538}  # RFC 4954, 6: about our login, not about the mail
GOODBYE = 2.0  # seconds for QUIT; a worker that stops has better things to wait for
BROKEN = (SMTPException, OSError)  # OSError holds timeouts and TLS failures

_ADDRESS_LIKE = re.compile(r"[^\s<>()\[\]\"',;:]+@[^\s<>()\[\]\"',;:]+")


class Mailer:
    """One connection to the mail server, opened by the first mail, kept open, and shared by all handlers in turn.

    Used as an async context manager; leaving it says QUIT.

    Args:
        settings: where to send to.
    """

    def __init__(self, settings: SmtpSettings) -> None:
        self._settings = settings
        self._turn = asyncio.Lock()
        self._client = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            username=settings.user,
            password=settings.password,
            timeout=settings.timeout,
            use_tls=settings.tls,
            start_tls=settings.insists_on_starttls,
            cert_bundle=settings.ca_file,
        )

    @property
    def sender(self) -> Address:
        """Who every mail is from."""
        return self._settings.sender

    async def send(self, letter: Letter) -> str:
        """Send one mail to all of its recipients, or to none of them.

        The text is handed over only after the server has agreed to every recipient. So a mail that is retried, or
        replayed from the dead letters, reaches nobody twice because somebody else was refused.

        Args:
            letter: the mail.

        Returns:
            The server's answer, often with its own id of the mail; addresses are taken out.

        Raises:
            Retry: no connection, no answer in time, no login, or refused with 4xx.
            Reject: refused with 5xx, or the server cannot carry an international address.
        """
        async with self._turn:
            try:
                return await self._deliver(letter)
            except BROKEN as error:
                failure = verdict(error, letter)
        raise failure  # out here, with no context: a chained traceback would show the error's addresses

    async def _deliver(self, letter: Letter) -> str:
        try:
            await self._begin(letter)
            await self._name_recipients(letter)
            response = await self._client.data(letter.content)
        except (SMTPResponseException, SMTPRecipientsRefused, Reject):
            await self._reset()
            raise
        except BaseException:
            self._client.close()  # a dialogue broken off in the middle: the next mail must not continue it
            raise
        return without_addresses(response.message)

    async def _begin(self, letter: Letter) -> None:
        """Say MAIL FROM, over a new connection if the kept one turns out to be dead.

        Only here is a failure tried again silently: the server has nothing of this mail yet.
        """
        if self._client.is_connected:
            try:
                return await self._mail_from(letter)
            except (SMTPServerDisconnected, SMTPTimeoutError):
                pass
            except SMTPSenderRefused as error:
                if error.code != CLOSING:
                    raise
        self._client.close()
        await self._connect()
        await self._mail_from(letter)
        return None

    async def _connect(self) -> None:
        """Open the connection and log in. What fails here says nothing about the mail, so it is always retried."""
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._client.connect()
                if self._client.is_ehlo_or_helo_needed:
                    await self._client.ehlo()
        except BROKEN as error:
            failure = Retry(reason=_describe(error))
        else:
            return
        self._client.close()
        raise failure

    async def _mail_from(self, letter: Letter) -> None:
        client, options = self._client, []
        if client.supports_extension("size"):
            options.append(f"SIZE={len(letter.content)}")
        if letter.utf8:
            if not client.supports_extension("smtputf8"):
                raise Reject("the mail server cannot carry international addresses (no SMTPUTF8)")
            options += ["SMTPUTF8", "BODY=8BITMIME"]
        await client.mail(letter.sender, options=options, encoding=_encoding(letter))

    async def _name_recipients(self, letter: Letter) -> None:
        refused = []
        for recipient in letter.recipients:
            try:
                await self._client.rcpt(recipient, encoding=_encoding(letter))
            except SMTPRecipientRefused as error:
                refused.append(error)
        if refused:
            raise SMTPRecipientsRefused(refused)

    async def _reset(self) -> None:
        """Make the connection fit for the next mail, or give it up."""
        try:
            await self._client.rset()
        except BaseException as error:
            self._client.close()
            if not isinstance(error, BROKEN):
                raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._turn:
            if self._client.is_connected:
                with contextlib.suppress(*BROKEN):
                    await self._client.quit(timeout=GOODBYE)
            self._client.close()


def verdict(error: Exception, letter: Letter) -> Retry | Reject:
    """Judge a refusal: 5xx is for ever, everything else may pass.

    Among several refused recipients one 5xx decides: trying again would end there every time.

    Args:
        error: what aiosmtplib raised.
        letter: the mail it was raised for.

    Returns:
        ``Retry``, or ``Reject`` with code and text of the server. The reason names no address.
    """
    if isinstance(error, SMTPRecipientsRefused):
        worst = max(error.recipients, key=lambda refusal: _is_final(refusal.code))
        reason = _describe(worst) + _who_was_refused(error.recipients, letter.recipients)
        return Reject(reason) if _is_final(worst.code) else Retry(reason=reason)
    if isinstance(error, SMTPResponseException) and _is_final(error.code):
        return Reject(_describe(error))
    return Retry(reason=_describe(error))


def without_addresses(text: str) -> str:
    """One short line of what a server said, with everything that looks like an address taken out."""
    clean = text.encode(errors="replace").decode()
    return _ADDRESS_LIKE.sub("[address]", " ".join(clean.split()))[:200]


def _describe(error: Exception) -> str:
    if isinstance(error, SMTPResponseException) and error.code > 0:
        return f"SMTP {error.code} {without_addresses(error.message)}"
    return f"SMTP {type(error).__name__}: {without_addresses(str(error))}".removesuffix(": ")


def _who_was_refused(refusals: list[SMTPRecipientRefused], recipients: tuple[str, ...]) -> str:
    """Which of several recipients, by their place in ``to``, ``cc`` and ``bcc``: addresses are not for the log."""
    if len(recipients) == 1:
        return ""
    codes = ", ".join(f"{recipients.index(refusal.recipient) + 1}: {refusal.code}" for refusal in refusals)
    return f" (of {len(recipients)} recipients these were refused: {codes}; the mail was sent to none)"


def _is_final(code: int) -> bool:
    return 500 <= code <= 599 and code not in NOT_LOGGED_IN


def _encoding(letter: Letter) -> str:
    return "utf-8" if letter.utf8 else "ascii"
