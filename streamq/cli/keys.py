"""``streamq keys``: secrets that sign messages."""

from typing import TYPE_CHECKING, Annotated

import typer

from streamq.cli.options import ConfigPath, queue_name, scoped
from streamq.cli.output import Format, Output, show
from streamq.cli.run import NOT_FOUND, command, fail

if TYPE_CHECKING:
    from streamq.core.signing import KeyRing, SigningKey

option = scoped("KEYS")

FIRST = """\
Put it into STREAMQ_SIGNING_KEYS, or into a file that STREAMQ_SIGNING_KEYS_FILE names; the same on every machine.
It is the first key: give it to the publishers first. A worker that knows a key refuses what is not signed, unless the
queue says `signing: optional`. To rotate later, make another one; this command then says how."""
ROTATE = """\
To rotate, without losing a message:
  1. everywhere add the new key as accepted:            {new}:accepted:…
  2. then make it active and the old one accepted:      {new}:active:…,{old}:accepted:…
  3. when all that the old one signed has been handled: {new}:active:…,{old}:revoked:…"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Signing keys: only who has one can ask a worker for work.")
    group.callback()(lambda: None)  # a group, although it has one command so far
    group.command()(command(generate))
    app.add_typer(group, name="keys")


def generate(
    id: Annotated[
        str | None, option("--id", help="Name of the key, which every signature carries; default: k1, k2, ...")
    ] = None,
    queue: Annotated[
        str | None,
        option(
            "--queue", parser=queue_name, metavar="NAME",
            help="Derive the key of one queue from STREAMQ_SIGNING_KEYS, for a producer trusted with that queue alone.",
        ),
    ] = None,
    output: Output = Format.TABLE,
    config: ConfigPath = None,
) -> None:  # fmt: skip
    """Make a signing key, and print it as STREAMQ_SIGNING_KEYS takes it; how to use it goes to stderr.

    Example: export STREAMQ_SIGNING_KEYS=$(streamq keys generate)

    Example: streamq keys generate --queue email_queue --id k1
    """
    import secrets

    from streamq.core.signing import MIN_SECRET, KeyRing, SigningKey

    ring = _known(config)
    if queue is None:
        key = SigningKey(id or _free_id(ring), "active", secrets.token_bytes(MIN_SECRET))
    else:
        key = _root(ring, id).for_queue(queue)
    line, key_id = key.export(), key.key_id
    KeyRing.parse(line)  # a name that cannot be one is told in the words of the configuration
    if output is Format.TABLE:
        typer.echo(line)
    else:
        show([{"id": key_id, "queue": queue, "state": "active", "key": line}], output)
    if queue is None:
        typer.echo(ROTATE.format(new=key_id, old=ring.keys[0].key_id) if ring else FIRST, err=True)
    else:
        typer.echo(f"It signs for {queue} alone, and what it signs verifies wherever {key_id} is known.", err=True)


def _known(config: ConfigPath) -> "KeyRing":
    from streamq.core.signing import KeyRing
    from streamq.settings import load_settings

    return KeyRing.parse(load_settings(config=config).signing_keys or "")


def _free_id(ring: "KeyRing") -> str:
    taken = {key.key_id for key in ring.keys}
    return next(f"k{n}" for n in range(1, len(taken) + 2) if f"k{n}" not in taken)


def _root(ring: "KeyRing", id: str | None) -> "SigningKey":
    """The root secret to derive from: the one that was named, else the one that signs."""
    roots = [key for key in ring.keys if key.queue is None and key.state != "revoked"]
    if id is None:
        roots = [key for key in roots if key.state == "active"] or roots
    else:
        roots = [key for key in roots if key.key_id == id]
    if not roots:
        what = f"no key {id!r}" if id else "no key"
        fail(
            f"STREAMQ_SIGNING_KEYS has {what} to derive from; it needs the secret itself, not another queue's",
            NOT_FOUND,
        )
    return roots[0]
