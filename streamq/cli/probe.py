"""``python -m streamq.cli.probe [MODULE:NAME]``: import the app for ``streamq doctor``, and say what is in it."""

import sys

import msgspec

from streamq.cli.options import load_app
from streamq.core.errors import ConfigError


def probe(name: str | None) -> dict[str, str]:
    """What became of the import: a status and a detail."""
    try:
        registry = load_app(name).registry
    except ConfigError as error:
        # Whoever only publishes has no app, and needs none.
        missing = name is None and str(error).startswith("no app found")
        return {"status": "warn" if missing else "fail", "detail": str(error)}
    queues = [f"{queue} ({', '.join(registry.types(queue))})" for queue in registry.queues()]
    if not queues:
        return {"status": "fail", "detail": "the app has no handler: is the module imported that defines them?"}
    return {"status": "ok", "detail": "; ".join(queues)}


if __name__ == "__main__":
    answer = probe(sys.argv[1] if len(sys.argv) > 1 else None)
    sys.stdout.flush()  # what the app printed comes first: our answer is the last line
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(answer) + b"\n")
