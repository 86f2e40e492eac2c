"""A real SMTP server for tests: aiosmtpd on a port of its own, in the loop of the test, answering by script."""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from aiosmtpd.smtp import SMTP
from structlog.testing import CapturingLogger

from workers.app import State
from workers.smtp import Mailer
from workers.smtp_settings import settings_from_env

DROP = "drop"  # the server closes the connection instead of answering
HANG = "hang"  # the server never answers


class Server:
    """Answers by script: for each command a queue of replies, after which everything is accepted."""

    def __init__(self, **script: list[str | None]):
        self.script = {verb: deque(replies) for verb, replies in script.items()}
        self.sessions: list[tuple[str, int]] = []
        self.protocols: list[SMTP] = []
        self.mails: list[Any] = []
        self.quits = 0
        self.hanging = asyncio.Event()
        self.port = 0

    async def answer(self, verb: str, server: SMTP) -> str | None:
        replies = self.script.get(verb)
        reply = replies.popleft() if replies else None
        if reply is DROP:
            server.transport.abort()
        elif reply is HANG:
            self.hanging.set()
            await asyncio.Event().wait()
        return reply

    async def handle_EHLO(self, server, session, envelope, hostname, responses):  # noqa: N802
        if session.peer not in self.sessions:
            self.sessions.append(session.peer)
        session.host_name = hostname
        return responses

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802
        reply = await self.answer("MAIL", server)
        if reply is None:
            envelope.mail_from, envelope.mail_options = address, options
        return reply or "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        reply = await self.answer("RCPT", server)
        if reply is None:
            envelope.rcpt_tos.append(address)
        return reply or "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        reply = await self.answer("DATA", server)
        if reply in (None, DROP):
            self.mails.append(envelope)
        return reply or "250 2.0.0 queued as 4711 for <ada@example.net>"

    async def handle_QUIT(self, server, session, envelope):  # noqa: N802
        self.quits += 1
        return "221 Bye"

    @property
    def recipients(self) -> list[list[str]]:
        return [mail.rcpt_tos for mail in self.mails]

    @property
    def message_ids(self) -> list[bytes]:
        return [line for mail in self.mails for line in mail.content.split(b"\r\n") if line.startswith(b"Message-ID")]


@asynccontextmanager
async def serving(server: Server, *, implicit_tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[int]:
    def protocol() -> SMTP:
        server.protocols.append(SMTP(server, hostname="test", loop=asyncio.get_running_loop(), **options))
        return server.protocols[-1]

    listener = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, ssl=implicit_tls)
    async with listener:
        yield listener.sockets[0].getsockname()[1]
        hang_up(server)
        dialogues = [protocol._handler_coroutine for protocol in server.protocols]
        for dialogue in dialogues:
            dialogue.cancel()
        await asyncio.wait(dialogues)


def hang_up(server: Server) -> None:
    for protocol in server.protocols:
        if protocol.transport is not None:
            protocol.transport.abort()


@asynccontextmanager
async def mailing(port: int, **environ: str) -> AsyncIterator[Any]:
    """A handler's context, as a worker would make it."""
    settings = settings_from_env({"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(port), "SMTP_TIMEOUT": "5", **environ})
    async with Mailer(settings) as mailer:
        yield SimpleNamespace(message=SimpleNamespace(id="msg_1"), state=State(mailer), log=CapturingLogger())


@asynccontextmanager
async def both(server: Server, **environ: str) -> AsyncIterator[Any]:
    async with serving(server) as port, mailing(port, **environ) as ctx:
        yield ctx
