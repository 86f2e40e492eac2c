"""The environment of the mail worker: defaults, refusals, and a password that never shows."""

import pytest

from streamq.core.errors import ConfigError
from workers.smtp_settings import settings_from_env


def test_without_an_environment_the_server_is_this_machine():
    settings = settings_from_env({})
    assert (settings.host, settings.port, settings.user, settings.starttls) == ("localhost", 25, None, "auto")
    assert settings.sender.addr_spec == "streamq@localhost"
    assert settings.insists_on_starttls is None


def test_the_environment_is_read():
    settings = settings_from_env(
        {
            "SMTP_HOST": "mail.example.org",
            "SMTP_USER": "ada@example.org",
            "SMTP_PASSWORD": "canary",
            "SMTP_FROM": "Käse Shop <shop@example.org>",
            "SMTP_TIMEOUT": "2.5s",
            "SMTP_PORT": "",
        }
    )
    assert (settings.port, settings.timeout, settings.user) == (587, 2.5, "ada@example.org")
    assert (settings.sender.display_name, settings.sender.addr_spec) == ("Käse Shop", "shop@example.org")
    assert settings.insists_on_starttls is True
    assert settings.password == "canary"
    assert "canary" not in repr(settings)


def test_the_login_names_the_sender_when_it_is_an_address():
    login = {"SMTP_HOST": "mail.example.org", "SMTP_USER": "ada@example.org", "SMTP_PASSWORD": "x"}
    assert settings_from_env(login).sender.addr_spec == "ada@example.org"


@pytest.mark.parametrize(
    ("environ", "insists"),
    [
        ({"SMTP_STARTTLS": "always"}, True),
        ({"SMTP_STARTTLS": "never", "SMTP_USER": "u", "SMTP_PASSWORD": "p"}, False),
        ({"SMTP_HOST": "127.0.0.1", "SMTP_USER": "u", "SMTP_PASSWORD": "p"}, None),
        ({"SMTP_TLS": "true"}, False),
    ],
)
def test_a_password_travels_encrypted_unless_it_stays_here_or_never_is_said(environ, insists):
    assert settings_from_env(environ).insists_on_starttls is insists


def test_implicit_tls_has_its_own_port():
    assert settings_from_env({"SMTP_TLS": "yes"}).port == 465


@pytest.mark.parametrize(
    "environ",
    [
        {"SMTP_PORT": "canary"},
        {"SMTP_PORT": "70000"},
        {"SMTP_PORT": "25.5"},
        {"SMTP_TIMEOUT": "0"},
        {"SMTP_TIMEOUT": "nan"},
        {"SMTP_TLS": "canary"},
        {"SMTP_STARTTLS": "canary"},
        {"SMTP_USER": "canary"},
        {"SMTP_PASSWORD": "canary"},
        {"SMTP_CA_FILE": "/no/such/canary"},
        {"SMTP_FROM": "canary"},
        {"SMTP_FROM": "Sh\0op <canary@x.org>"},
        {"SMTP_HOST": "mail.example.org"},
    ],
)
def test_unusable_settings_stop_the_start_and_name_the_variable(environ):
    with pytest.raises(ConfigError, match="SMTP_") as caught:
        settings_from_env(environ)
    assert "canary" not in str(caught.value)
