"""What a worker says of itself with its beats, so that everybody sees who can do what, and in which version."""

import json
import sys
from importlib import metadata

from streamq.runtime.lane import Lane
from streamq.runtime.plan import Plan
from streamq.store.scripts import PROTOCOL


def about(plan: Plan, lane: Lane, started_ms: int) -> str:
    """What this worker can do on a queue, as JSON; ``streamq workers`` shows it."""
    return json.dumps(
        {
            "types": plan.registry.types(lane.queue),
            "slots": lane.in_flight.slots,
            "started_ms": started_ms,
            "version": metadata.version("streamq"),
            "protocol": PROTOCOL,
            "python": ".".join(map(str, sys.version_info[:3])),
        }
    )
