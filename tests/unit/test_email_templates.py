"""Templates: what they need, what they escape, and that nobody gets out of them."""

from email.headerregistry import Address
from typing import Any

import jinja2
import pytest

from streamq import Reject
from workers import email_message
from workers.email import Email
from workers.email_message import Letter, compose, render

ORDER = {"order_id": "A-7", "total": "12 EUR", "items": [{"name": "Lamp", "quantity": 1, "price": "12 EUR"}]}


def letter_of(template: str, data: dict[str, Any] | None = None, subject: str | None = None) -> Letter:
    payload = Email(to="ada@example.net", template=template, data=data or {}, subject=subject)
    return compose(payload, sender=Address("Shop", "shop", "example.org"), message_id="msg_1")


def refusal(template: str, data: dict[str, Any] | None = None) -> str:
    with pytest.raises(Reject) as caught:
        letter_of(template, data)
    return caught.value.reason


@pytest.mark.parametrize(
    ("template", "data", "subject", "words"),
    [
        ("welcome", {}, "Welcome", "Hello,"),
        ("welcome", {"name": "Ada", "link": "https://x.org/?a=1&b=2"}, "Welcome, Ada", "Hello Ada,"),
        ("bid_notification", {"item": "Lamp", "amount": "9 EUR"}, "New bid on Lamp: 9 EUR", "9 EUR"),
        ("payment_receipt", {"amount": "9 EUR", "reference": "R1"}, "Receipt for your payment of 9 EUR", "R1"),
        ("order_confirmation", ORDER, "Your order A-7", "Lamp"),
    ],
)
def test_every_template_makes_a_mail_with_subject_text_and_html(template, data, subject, words):
    content = render(template, data)
    assert content.subject == subject
    assert words in content.text
    assert words in content.html


def test_a_given_subject_replaces_that_of_the_template():
    content = letter_of("welcome", subject="Hi").content
    assert b"Subject: Hi\r\n" in content


@pytest.mark.parametrize(
    ("template", "data", "missing"),
    [
        ("bid_notification", {"item": "Lamp"}, "amount"),
        ("bid_notification", {"item": None, "amount": "1"}, "item"),
        ("payment_receipt", {"amount": "1"}, "reference"),
        ("order_confirmation", {**ORDER, "items": [{"name": "Lamp", "quantity": 1}]}, "price"),
        ("order_confirmation", {"order_id": "1", "items": []}, "total"),
    ],
)
def test_missing_data_is_refused_by_name(template, data, missing):
    reason = refusal(template=template, data=data)
    assert missing in reason
    assert template in reason
    assert "Lamp" not in reason


def test_html_is_escaped_and_text_is_not():
    content = render("welcome", {"name": '<script>"&'})
    assert "&lt;script&gt;&#34;&amp;" in content.html
    assert "<script>" not in content.html
    assert 'Hello <script>"&,' in content.text


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "data:text/html,x", "//x.org", " https://x.org", "https://x\n"]
)
def test_a_link_opens_a_web_page_or_the_mail_is_refused(link):
    assert refusal(template="welcome", data={"link": link}) == "data: a link has to begin with https:// or http://"


def test_data_is_text_and_never_a_template():
    content = render("welcome", {"name": "{{ 7 * 7 }}{% include 'layouts/base.txt' %}"})
    assert "{{ 7 * 7 }}" in content.text
    assert "49" not in content.subject


@pytest.mark.parametrize(
    "name", ["", "Welcome", "../templates/welcome", "layouts/base", "welcome.txt", "welcome\n", "a\0", "/etc/passwd"]
)
def test_only_a_plain_name_is_looked_up(name):
    assert refusal(template=name) == "template: a name of a-z, 0-9 and _ is needed"


def test_an_unknown_template_is_refused():
    assert refusal(template="no_such_thing") == "template: there is none called no_such_thing"


def test_data_of_the_wrong_shape_is_refused_without_quoting_it():
    reason = refusal(template="order_confirmation", data={**ORDER, "items": 7654321})
    assert reason == "template order_confirmation, data: a value does not fit (TypeError)"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ name.__init__.__globals__ }}",
        "{{ items.append(1) }}",
        "{{ items.__getattribute__('clear')() }}",
        "{{ data.update(x=1) }}",
        "{{ ('{0.__class__}').format(name) }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ range(10000000) | list }}",
        "{{ nowhere }}",
    ],
)
def test_even_a_hostile_template_cannot_leave_the_sandbox(source):
    template = email_message._environment().from_string(source)
    with pytest.raises((jinja2.TemplateError, OverflowError)):
        template.render(name="Ada", items=[0], data={})
