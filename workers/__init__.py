"""The app that ships: ``streamq worker`` runs it unless another one is named. Importing it registers its handlers."""

from streamq.core.errors import ConfigError

try:
    from workers import email
    from workers.app import app
except ModuleNotFoundError as missing:
    if missing.name not in ("aiosmtplib", "jinja2"):
        raise
    raise ConfigError(f"the mail worker needs {missing.name}: pip install 'streamq[email]'") from None

__all__ = ["app", "email"]
