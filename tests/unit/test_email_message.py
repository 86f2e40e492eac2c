"""From payload to mail: what is built, what is refused, and that nothing of it shows in a reason."""

import base64
import email
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import default
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq import Reject
from workers import email_message
from workers.email import Attachment, Email
from workers.email_message import Letter, compose, parse_address

SHOP = Address("Shop", "shop", "example.org")
HEADERS = {"From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version"}
BODY_HEADERS = {"Content-Type", "Content-Transfer-Encoding"}


def letter_of(**fields: Any) -> Letter:
    return compose(msgspec.convert({"to": "ada@example.net", **fields}, Email), sender=SHOP, message_id="msg_1")


def mail_of(**fields: Any) -> EmailMessage:
    return email.message_from_bytes(letter_of(**fields).content, policy=default)


def text_of(mail: EmailMessage, form: str = "plain") -> str:
    return mail.get_body((form,)).get_content().replace("\r\n", "\n")


def refusal(**fields: Any) -> str:
    with pytest.raises(Reject) as caught:
        letter_of(**fields)
    return caught.value.reason


# --- building


def test_text_and_html_are_two_forms_of_one_mail():
    mail = mail_of(subject="Grüße", body="Hällo\n.\nlast", html="<p>Hällo</p>", attachments=[])
    assert mail.get_content_type() == "multipart/alternative"
    assert mail["Subject"] == "Grüße"
    assert text_of(mail) == "Hällo\n.\nlast\n"
    assert text_of(mail, "html") == "<p>Hällo</p>\n"


@pytest.mark.parametrize("part", [{"body": "only"}, {"html": "only"}])
def test_one_form_alone_is_a_plain_mail(part):
    mail = mail_of(subject="s", **part)
    assert not mail.is_multipart()
    assert text_of(mail, *(form.replace("body", "plain") for form in part)) == "only\n"


def test_headers_say_who_it_is_from_and_to():
    mail = mail_of(to=["a@x.org", "b@x.org"], cc=["c@x.org"], reply_to=["r@x.org"], subject="s", body="b")
    assert (mail["From"], mail["To"], mail["Cc"]) == ("Shop <shop@example.org>", "a@x.org, b@x.org", "c@x.org")
    assert mail["Reply-To"] == "r@x.org"
    assert mail["Date"].datetime is not None
    assert mail["Auto-Submitted"] == "auto-generated"


def test_everybody_is_in_the_envelope_once_and_bcc_in_no_header():
    letter = letter_of(
        to=["a@x.org", "b@x.org"], cc=["a@x.org"], bcc=["secret@x.org", "b@x.org"], subject="s", body="b"
    )
    assert letter.recipients == ("a@x.org", "b@x.org", "secret@x.org")
    assert letter.sender == "shop@example.org"
    assert b"secret" not in letter.content


def test_the_message_id_is_the_same_over_retries_and_another_for_another_message():
    mail = Email(to="a@x.org", subject="s", body="b")
    ids = [
        email.message_from_bytes(compose(mail, sender=SHOP, message_id=mid).content)["Message-ID"]
        for mid in ("msg_1", "msg_1", "a:b", "a.b", "x" * 128)
    ]
    assert ids[:4] == ["<msg_1@example.org>", "<msg_1@example.org>", "<a%3Ab@example.org>", "<a%2Eb@example.org>"]
    assert ids[4].strip() == f"<{'x' * 128}@example.org>"


def test_the_mail_is_7_bit_with_short_lines_so_that_every_server_takes_it():
    letter = letter_of(
        subject="ü" * 300, body="ä" * 5000, html="<p>" + "x" * 5000, to=[f"u{n}@x.org" for n in range(99)]
    )
    assert letter.content.isascii()
    assert letter_of(subject="s", body="short ä", html="<p>ä").content.isascii()
    assert max(map(len, letter.content.split(b"\r\n"))) <= 998
    assert email.message_from_bytes(letter.content, policy=default)["Subject"] == "ü" * 300


def test_a_letter_shows_nothing_of_itself():
    assert "example.net" not in repr(letter_of(subject="s", body="b"))


# --- attachments


def test_attachments_arrive_as_they_were():
    mail = mail_of(
        subject="s",
        body="b",
        attachments=[
            {
                "filename": "Röchnung 1.pdf",
                "content_type": "application/pdf",
                "content": base64.b64encode(b"\0\r\n%PDF").decode(),
            },
            {
                "filename": "a.csv",
                "content_type": "text/csv; charset=utf-8",
                "content": base64.b64encode("ä;b".encode()).decode(),
            },
            {"filename": "raw", "content": ""},
        ],
    )
    pdf, csv, raw = mail.iter_attachments()
    assert (pdf.get_filename(), pdf.get_content_type(), pdf.get_content()) == (
        "Röchnung 1.pdf",
        "application/pdf",
        b"\0\r\n%PDF",
    )
    assert (csv.get_filename(), csv.get_content_type(), csv.get_content()) == ("a.csv", "text/csv", "ä;b")
    assert (raw.get_content_type(), raw.get_content()) == ("application/octet-stream", b"")
    assert text_of(mail) == "b\n"


@pytest.mark.parametrize("content", ["%%%", "abc", "ä", 7, None])
def test_content_that_is_not_base64_does_not_decode(content):
    raw = msgspec.json.encode({"filename": "a", "content": content})
    with pytest.raises(msgspec.ValidationError, match=r"\$\.content"):
        msgspec.json.decode(raw, type=Attachment)


@pytest.mark.parametrize(
    ("attachment", "field"),
    [
        ({"filename": ""}, "filename"),
        ({"filename": "../etc/passwd"}, "filename"),
        ({"filename": "..\\boot.ini"}, "filename"),
        ({"filename": "a\r\nBcc: b@x.org"}, "filename"),
        ({"content_type": "application"}, "content_type"),
        ({"content_type": "text/html\r\nBcc: b@x.org"}, "content_type"),
        ({"content_type": "text/html; name=x"}, "content_type"),
        ({"content_type": "message/rfc822"}, "content_type"),
        ({"content_type": "multipart/mixed"}, "content_type"),
        ({"content": bytes(email_message.MAX_ATTACHMENT + 1)}, "content"),
    ],
)
def test_unusable_attachments_are_refused(attachment, field):
    good = {"filename": "a.bin", "content": b"x"}
    reason = refusal(subject="s", body="b", attachments=[good, {**good, **attachment}])
    assert reason.startswith(f"attachments[1].{field}: ")


def test_the_whole_mail_has_a_limit():
    part = {"filename": "a", "content": bytes(email_message.MAX_ATTACHMENT)}
    assert letter_of(subject="s", body="b", attachments=[part])
    assert "larger than" in refusal(subject="s", body="b", attachments=[part, part])


# --- header injection

BREAKS = ["\r\n", "\n", "\r", "\0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\ud800"]


@pytest.mark.parametrize("at", BREAKS, ids=ascii)
@pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to", "subject"])
def test_no_header_can_be_broken(field, at):
    value = f"a@x.org{at}Bcc: evil@x.org"
    reason = refusal(**{"subject": "s", "body": "b", field: value if field in ("to", "subject") else [value]})
    assert reason.startswith(field)
    assert "evil" not in reason


def test_data_cannot_break_the_subject_of_a_template():
    assert refusal(template="welcome", data={"name": "Ada\r\nBcc: evil@x.org"}).startswith("subject: ")
    assert refusal(template="welcome", data={"name": "Ada\n"}).startswith("subject: ")


@given(subject=st.text(), name=st.text(min_size=1), filename=st.text())
def test_whatever_is_built_has_our_headers_and_no_others(subject, name, filename):
    """Built or refused: no text makes a header, a recipient or a part of its own."""
    attachments = [{"filename": filename, "content": b"x"}]
    try:
        letter = letter_of(template="welcome", subject=subject, data={"name": name}, attachments=attachments)
    except Reject:
        return
    mail = email.message_from_bytes(letter.content, policy=default)
    assert {*mail.keys()} <= HEADERS | BODY_HEADERS
    assert not mail.defects
    assert [part.get_content_type() for part in mail.walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "application/octet-stream",
    ]


# --- addresses


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@x.org",
        "ada@",
        "a@b@c.org",
        "a@x.org, b@x.org",
        "a@x.org;b@x.org",
        "Ada <a@x.org>",
        "<a@x.org>",
        '"boss@x.org" <evil@y.org>',
        '"a b"@x.org',
        "a@x.org (comment)",
        " a@x.org",
        "a@x.org\n",
        "a b@x.org",
        ".a@x.org",
        "a..b@x.org",
        "a@-x.org",
        "a@x..org",
        "a@[127.0.0.1]",
        "a@x_y.org",
        "a@straße.de",
        "a@\uff45xample.org",
        "a@x\u3002org",
        "a@x\u200b.org",
        "a" * 65 + "@x.org",
        "a@" + "x" * 64 + ".org",
        "a@" + "x." * 130 + "org",
    ],
)
def test_only_one_plain_address_is_an_address(text):
    with pytest.raises(ValueError, match="address"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("a.b+c-d@X.org", "a.b+c-d@X.org"),
        ("root@localhost", "root@localhost"),
        ("o'neil@x.org", "o'neil@x.org"),
        ("a@bücher.example", "a@xn--bcher-kva.example"),
        ("a@BÜCHER.example", "a@xn--bcher-kva.example"),
        ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ("jürgen@x.org", "jürgen@x.org"),
    ],
)
def test_plain_addresses_are_taken(text, spec):
    assert parse_address(text).addr_spec == spec


def test_only_an_international_name_needs_smtputf8():
    assert not letter_of(to="a@bücher.example", subject="ü", body="ü").utf8
    letter = letter_of(to="jürgen@x.org", subject="ü", body="ü")
    assert letter.utf8
    assert "To: jürgen@x.org".encode() in letter.content


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"to": []}, "to: between 1 and 100"),
        ({"to": [f"u{n}@x.org" for n in range(101)]}, "to: between 1 and 100"),
        ({"to": ["a@x.org", "evil"]}, "to[1]: not one plain address"),
        ({"from": "ceo@example.org"}, "from: the sender is set by SMTP_FROM"),
        ({"subject": None}, "subject: it is needed"),
        ({"body": None}, "body: there is nothing to send"),
        ({"template": "welcome"}, "template: it makes the text itself"),
        ({"body": "\ud800"}, "the text is not valid Unicode"),
    ],
)
def test_a_payload_that_makes_no_mail_is_refused(fields, reason):
    assert refusal(**{"subject": "s", "body": "b", **fields}).startswith(reason)
