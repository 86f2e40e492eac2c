"""The outside world of the demo: an SMTP server that remembers what it took."""

import asyncio
import email
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

REFUSED = "nobody@refused.example"
DEFERRED = "patient@deferred.example"
PACE = 0.05  # seconds a mail takes: slow enough to kill a worker in the middle


class Postbox:
    """Takes mail. One address is refused for ever, one is deferred once.

    Attributes:
        taken: how often each recipient's mail was taken.
        deferred: how often mail was put off.
    """

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.deferred = 0

    async def handle_RCPT(  # noqa: N802 - the name that aiosmtpd looks for
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        """Answer RCPT TO."""
        if address == REFUSED:
            return "550 5.1.1 no such user"
        if address == DEFERRED and self.deferred == 0:
            self.deferred += 1
            return "451 4.7.1 greylisted, try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - likewise
        """Take a mail, at the pace of a busy server."""
        await asyncio.sleep(PACE)
        parsed = email.message_from_bytes(envelope.content)
        if parsed["Message-ID"] is None:
            return "554 5.6.0 a mail without Message-ID"
        self.taken.update(envelope.rcpt_tos)
        return "250 OK"


@asynccontextmanager
async def outside_world() -> AsyncIterator[tuple[Postbox, int]]:
    """A postbox, and the port of 127.0.0.1 it listens on."""
    from aiosmtpd.smtp import SMTP

    postbox = Postbox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(postbox, hostname="demo", loop=loop), "127.0.0.1", 0)
    try:
        yield postbox, server.sockets[0].getsockname()[1]
    finally:
        server.close()
