"""How long repair takes, from the histories.

*Restart*: from the death of a worker to the next start of each message that ran in it and had not ended. Messages that
lost their first worker so are told apart from those that lost one before: they wait on purpose (protocol 4.5). Outages
of the server in between are not taken off; *calm* are the first losses without any, nor the pause that workers make
after one (protocol 4.3). *Resume*: from the server's return to the first start of any message.
"""

from bisect import bisect_right
from typing import NamedTuple

from tests.chaos.history import ENDED, STARTED
from tests.chaos.story import KINDS

PAUSE = 10.0  # seconds after an outage in which nothing is taken over
RETURNS = frozenset({"server killed", "server frozen"})


class Recovery(NamedTuple):
    """Seconds, sorted.

    Attributes:
        first: messages that lost a worker for the first time.
        calm: those of them that no outage of the server held up.
        again: those that had lost one before.
        resume: after each return of the server.
    """

    first: list[float]
    calm: list[float]
    again: list[float]
    resume: list[float]


def measure(events, deaths, faults):
    """How long it took.

    Args:
        events: by key.
        deaths: (pid, when) of workers that died without handing anything back.
        faults: what happened.
    """
    died = dict(deaths)
    outages = [fault for fault in faults if fault.kind in RETURNS]
    first, calm, later, starts = [], [], [], []
    for told in events.values():
        starts += [event.at for event in told if event.what == STARTED]
        if not KINDS[told[0].kind].kills:
            for number, (at, again) in enumerate(_losses(told, died)):
                (later if number else first).append(again - at)
                if not number and not any(o.began <= again and at <= o.ended + PAUSE for o in outages):
                    calm.append(again - at)
    starts.sort()
    returns = [outage.ended for outage in outages if starts and outage.ended < starts[-1]]
    resume = [starts[bisect_right(starts, at)] - at for at in returns]
    return Recovery(sorted(first), sorted(calm), sorted(later), sorted(resume))


def _losses(told, died):
    """When a worker died with this message, and when it was started again."""
    for number, start in enumerate(told):
        at = died.get(start.pid) or died.get(start.parent)
        if start.what != STARTED or at is None:
            continue
        later = told[number + 1 :]
        if any(event.pid == start.pid and event.what in ENDED for event in later):
            continue
        again = next((event.at for event in later if event.what == STARTED and event.at > at), None)
        if again is not None:
            yield at, again


def quantile(sorted_values, share):
    """A quantile by the nearest rank; None of nothing."""
    if not sorted_values:
        return None
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]
