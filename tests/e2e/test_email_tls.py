"""The mail worker and TLS: who is trusted, who gets the password, and what is retried because no mail is at fault."""

import ssl

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword

from streamq import Retry
from tests.e2e.smtp_server import Server, both, mailing, serving
from workers.email import Email, send_email

MAIL = Email(to="ada@example.net", subject="s", body="b")
LOGIN = {"SMTP_USER": "ada", "SMTP_PASSWORD": "canary"}


@pytest.fixture
def tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


def accept(server, session, envelope, mechanism, data):
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"ada", b"canary")
    return AuthResult(success=right, handled=right)


@pytest.mark.parametrize("starttls", ["auto", "always"])
async def test_starttls_and_login(certificate, tls, starttls):
    server = Server()
    trust = {"SMTP_CA_FILE": str(certificate / "cert.pem"), "SMTP_STARTTLS": starttls}
    options = {"tls_context": tls, "require_starttls": True, "auth_required": True, "authenticator": accept}
    async with serving(server, **options) as port, mailing(port, **LOGIN, **trust) as ctx:
        await send_email(MAIL, ctx)
        await send_email(MAIL, ctx)
    assert len(server.mails) == 2
    assert server.quits == 1


async def test_a_wrong_password_is_retried_because_the_mail_is_not_at_fault(certificate, tls):
    environ = {**LOGIN, "SMTP_PASSWORD": "wrong canary", "SMTP_CA_FILE": str(certificate / "cert.pem")}
    async with (
        serving(Server(), tls_context=tls, auth_required=True, authenticator=accept) as port,
        mailing(port, **environ) as ctx,
    ):
        with pytest.raises(Retry, match="SMTP 535") as caught:
            await send_email(MAIL, ctx)
    assert "canary" not in caught.value.reason


async def test_a_server_that_wants_a_login_is_retried_when_there_is_none(tls):
    options = {"tls_context": tls, "auth_required": True, "authenticator": accept}
    async with serving(Server(), **options) as port, mailing(port, SMTP_STARTTLS="never") as ctx:
        with pytest.raises(Retry, match="SMTP 530"):
            await send_email(MAIL, ctx)


async def test_a_certificate_that_nobody_trusts_is_retried_and_nothing_is_sent(tls):
    server = Server()
    async with serving(server, tls_context=tls) as port, mailing(port) as ctx:
        with pytest.raises(Retry, match="certificate verify failed"):
            await send_email(MAIL, ctx)
    assert server.mails == []


async def test_always_does_not_send_in_the_clear():
    server = Server()
    async with both(server, SMTP_STARTTLS="always") as ctx:
        with pytest.raises(Retry, match="STARTTLS"):
            await send_email(MAIL, ctx)
    assert server.mails == []


async def test_tls_from_the_first_byte(certificate, tls):
    server = Server()
    trust = {"SMTP_CA_FILE": str(certificate / "cert.pem"), "SMTP_TLS": "true"}
    async with serving(server, implicit_tls=tls) as port, mailing(port, **trust) as ctx:
        await send_email(MAIL, ctx)
    assert len(server.mails) == 1
