"""The mail worker against a real SMTP server: what arrives, what is tried again, what is given up."""

import asyncio
import socket

import pytest

from streamq import Reject, Retry
from tests.e2e.smtp_server import DROP, HANG, Server, both, hang_up, mailing, serving
from workers.app import lifespan
from workers.email import (
    Email,
    send_bid_notification,
    send_email,
    send_order_confirmation_email,
    send_payment_receipt,
    send_welcome_email,
)
from workers.email_message import compose

MAIL = Email(to="ada@example.net", subject="s", body="b")
THREE = Email(to=["a@x.org", "b@x.org"], bcc=["c@x.org"], subject="s", body="b")
GREYLISTED = "451 4.7.1 <ada@example.net>: try later"
UNKNOWN = "550 5.1.1 <ada@example.net>: no such user"


# --- accepted, refused for now, refused for ever


async def test_a_mail_arrives_and_the_log_has_no_address():
    server = Server()
    async with both(server) as ctx:
        await send_welcome_email(recipient="ada@example.net", template="welcome", data={"name": "Ada"}, ctx=ctx)
    (mail,) = server.mails
    assert (mail.mail_from, mail.rcpt_tos) == ("streamq@localhost", ["ada@example.net"])
    assert b"Subject: Welcome, Ada\r\n" in mail.content
    (call,) = ctx.log.calls
    assert call.kwargs["reply"] == "2.0.0 queued as 4711 for <[address]>"
    assert "ada" not in str(call).lower()


@pytest.mark.parametrize(
    ("handler", "data", "subject"),
    [
        (send_welcome_email, None, b"Welcome"),
        (send_bid_notification, {"item": "Lamp", "amount": "9"}, b"New bid on Lamp: 9"),
        (send_payment_receipt, {"amount": "9", "reference": "R"}, b"Receipt for your payment of 9"),
        (send_order_confirmation_email, {"order_id": "A", "total": "9", "items": []}, b"Your order A"),
    ],
)
async def test_every_type_of_mail_brings_its_template(handler, data, subject):
    server = Server()
    async with both(server) as ctx:
        await handler(recipient="ada@example.net", data=data, ctx=ctx)
    assert b"Subject: " + subject + b"\r\n" in server.mails[0].content


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_4xx_is_retried_and_the_second_try_is_the_same_mail(verb):
    server = Server(**{verb: [GREYLISTED]})
    async with both(server) as ctx:
        with pytest.raises(Retry) as caught:
            await send_email(MAIL, ctx)
        assert caught.value.reason == "SMTP 451 4.7.1 <[address]>: try later"
        assert server.mails == []
        await send_email(MAIL, ctx)
        await send_email(MAIL, ctx)
    assert server.message_ids == [b"Message-ID: <msg_1@localhost>"] * 2
    assert len(server.sessions) == 1


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_5xx_is_a_dead_letter_with_code_and_text_and_the_next_mail_goes_out(verb):
    server = Server(**{verb: [UNKNOWN]})
    async with both(server) as ctx:
        with pytest.raises(Reject) as caught:
            await send_email(MAIL, ctx)
        assert caught.value.reason == "SMTP 550 5.1.1 <[address]>: no such user"
        assert server.mails == []
        await send_email(MAIL, ctx)
    assert (len(server.mails), len(server.sessions)) == (1, 1)


async def test_no_traceback_can_show_the_address():
    """The errors of aiosmtplib carry addresses; a verdict must not drag them along as its cause or context."""
    async with both(Server(RCPT=[UNKNOWN])) as ctx:
        with pytest.raises(Reject) as caught:
            await send_email(MAIL, ctx)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize(
    ("replies", "verdict", "reason"),
    [
        ([None, "451 later", None], Retry, "SMTP 451 later (of 3 recipients these were refused: 2: 451;"),
        ([None, None, "550 no"], Reject, "SMTP 550 no (of 3 recipients these were refused: 3: 550;"),
        (["451 later", None, "550 no"], Reject, "SMTP 550 no (of 3 recipients these were refused: 1: 451, 3: 550;"),
    ],
)
async def test_a_mail_goes_to_all_of_its_recipients_or_to_none(replies, verdict, reason):
    server = Server(RCPT=replies)
    async with both(server) as ctx:
        with pytest.raises(verdict) as caught:
            await send_email(THREE, ctx)
        assert caught.value.reason.startswith(reason)
        assert server.mails == []
        await send_email(THREE, ctx)
    assert server.recipients == [["a@x.org", "b@x.org", "c@x.org"]]


async def test_a_mail_that_the_server_finds_too_large_is_a_dead_letter():
    async with serving(Server(), data_size_limit=100) as port, mailing(port) as ctx:
        with pytest.raises(Reject, match="SMTP 552"):
            await send_email(MAIL, ctx)


@pytest.mark.parametrize("offered", [True, False])
async def test_an_international_address_needs_a_server_that_knows_them(offered):
    server = Server()
    async with serving(server, enable_SMTPUTF8=offered) as port, mailing(port) as ctx:
        mail = Email(to="jürgen@x.org", subject="s", body="b")
        if offered:
            await send_email(mail, ctx)
        else:
            with pytest.raises(Reject, match="cannot carry international addresses"):
                await send_email(mail, ctx)
        await send_email(MAIL, ctx)
    assert server.recipients == [["jürgen@x.org"]] * offered + [["ada@example.net"]]
    assert len(server.sessions) == 1


# --- one connection


async def test_the_lifespan_reads_the_environment_when_it_starts_and_says_quit_when_it_ends(monkeypatch):
    server = Server()
    async with serving(server) as port:
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(port))
        monkeypatch.setenv("SMTP_FROM", "Shop <shop@example.org>")
        async with lifespan() as state:
            await state.mailer.send(compose(MAIL, sender=state.mailer.sender, message_id="msg_1"))
    assert (server.mails[0].mail_from, server.quits) == ("shop@example.org", 1)


async def test_twenty_mails_at_once_share_one_connection_and_it_ends_with_quit():
    server = Server()
    async with both(server) as ctx:
        for _ in range(20):
            await send_email(MAIL, ctx)
        mails = [Email(to=f"u{number}@x.org", subject="s", body="b") for number in range(20)]
        await asyncio.gather(*(send_email(mail, ctx) for mail in mails))
    assert sorted(map(tuple, server.recipients[20:])) == sorted((mail.to,) for mail in mails)
    assert (len(server.mails), len(server.sessions), server.quits) == (40, 1, 1)


async def test_a_connection_that_was_closed_between_two_mails_is_opened_again():
    server = Server()
    async with both(server) as ctx:
        await send_email(MAIL, ctx)
        hang_up(server)
        await send_email(MAIL, ctx)
    assert (len(server.mails), len(server.sessions)) == (2, 2)


@pytest.mark.parametrize("sign", [DROP, HANG, "421 4.4.2 idle for too long"])
async def test_a_dead_connection_is_noticed_at_mail_and_replaced_without_a_retry(sign):
    server = Server(MAIL=[None, sign])
    async with both(server, SMTP_TIMEOUT="0.2") as ctx:
        await send_email(MAIL, ctx)
        await send_email(MAIL, ctx)
    assert (len(server.mails), len(server.sessions)) == (2, 2)


async def test_a_server_that_drops_every_connection_is_not_tried_again_at_once():
    server = Server(MAIL=[DROP, DROP])
    async with both(server) as ctx:
        with pytest.raises(Retry, match="Disconnected"):
            await send_email(MAIL, ctx)
    assert len(server.sessions) == 1


async def test_a_connection_lost_after_the_text_is_never_sent_again_silently():
    """The server may have taken the mail: that decision is the queue's, and the Message-ID tells the two apart."""
    server = Server(DATA=[None, DROP])
    async with both(server) as ctx:
        await send_email(MAIL, ctx)
        with pytest.raises(Retry, match="Disconnected"):
            await send_email(MAIL, ctx)
        assert len(server.mails) == 2
        await send_email(MAIL, ctx)
    assert server.message_ids == [b"Message-ID: <msg_1@localhost>"] * 3


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_no_answer_in_time_is_retried_over_a_new_connection(verb):
    server = Server(**{verb: [HANG]})
    async with both(server, SMTP_TIMEOUT="0.2") as ctx:
        with pytest.raises(Retry, match="Timed out"):
            await send_email(MAIL, ctx)
        await send_email(MAIL, ctx)
    assert (len(server.mails), len(server.sessions)) == (1, 2)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_a_cancelled_mail_leaves_no_half_dialogue_to_the_next(verb):
    server = Server(**{verb: [HANG]})
    async with both(server) as ctx:
        sending = asyncio.create_task(send_email(MAIL, ctx))
        await server.hanging.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not ctx.state.mailer._client.is_connected
        await send_email(THREE, ctx)
    assert (len(server.recipients[0]), len(server.sessions)) == (3, 2)


async def test_a_refused_connection_is_retried(unused_tcp_port):
    async with mailing(unused_tcp_port) as ctx:
        with pytest.raises(Retry, match="SMTPConnectError"):
            await send_email(MAIL, ctx)


async def test_a_server_that_does_not_greet_is_retried():
    with socket.create_server(("127.0.0.1", 0)) as never_accepted:
        async with mailing(never_accepted.getsockname()[1], SMTP_TIMEOUT="0.2") as ctx:
            with pytest.raises(Retry, match="Timeout"):
                await send_email(MAIL, ctx)


async def test_a_server_that_does_not_want_us_at_all_is_retried_because_the_mail_is_not_at_fault():
    class Unfriendly(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(b"554 5.7.1 no service for you\r\n")
            transport.close()

    listener = await asyncio.get_running_loop().create_server(Unfriendly, "127.0.0.1", 0)
    async with listener, mailing(listener.sockets[0].getsockname()[1]) as ctx:
        with pytest.raises(Retry, match=r"SMTP 554 5\.7\.1 no service"):
            await send_email(MAIL, ctx)
