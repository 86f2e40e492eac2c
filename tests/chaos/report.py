"""What the run prints: a line every few seconds, a table at the end, and the history of whatever is off."""

from tests.chaos.checker import OFFENCES
from tests.chaos.recovery import quantile

SHOWN = 5  # messages whose history is printed, of each offence


def progress(seconds, sample, faults, processes):
    """Where the run stands."""
    if sample is None:
        return f"{seconds:6.0f} s  no answer from the server yet"
    return (
        f"{seconds:6.0f} s  accepted {sample.total('accepted'):>7}  done {sample.total('done'):>7}  "
        f"dead {sample.total('dead'):>4}  left {sample.left:>5}  faults {faults:>4}  workers {processes}"
    )


def table(result):
    """Everything that is worth a figure."""
    findings, rows = result.findings, []
    counts = findings.counts
    rows += [(name, counts[name]) for name in ("published", "accepted", "refused", "unknown", "unknown, but in")]
    rows += [("finished", counts["finished"]), ("starts", counts["starts"])]
    if result.ledger is not None:
        names = ("retried", "snoozed", "held", "released", "suspect", "fenced", "late_ack", "vanished")
        rows += [(f"ledger: {name}", result.ledger.last.total(name)) for name in names]
    rows += [(f"dead: {reason}", count) for reason, count in sorted(findings.dead.items())]
    rows += [(f"fault: {kind}", count) for kind, count in sorted(result.faults.items())]
    rows += [("faults", sum(result.faults.values())), ("workers that died", result.deaths)]
    rows += [("finished more than once", sum(findings.duplicates.values()))]
    for kind, count in sorted(findings.duplicates.items()):
        rows.append((f"  after {kind}", f"{count} (bound {findings.bounds.get(kind, 0)})"))
    rows += [(f"recovery: {name}", _times(values)) for name, values in result.recovery._asdict().items()]
    rows.append(("drained in", f"{result.drained_in:.1f} s"))
    if result.ledger is not None:
        rows.append(
            ("ledger samples", f"{result.ledger.count}, {len({at for at, _ in result.ledger.broken})} of them broken")
        )
    rows += [(offence, len(keys)) for offence, keys in findings.offences.items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def _times(values):
    if not values:
        return "-"
    p50, p99 = quantile(values, 0.5), quantile(values, 0.99)
    return f"p50 {p50:.2f} s  p99 {p99:.2f} s  max {values[-1]:.2f} s  of {len(values)}"


def offences(result, case):
    """What is off, with all that is known of each message."""
    lines = []
    for offence, keys in result.findings.offences.items():
        if keys:
            lines.append(f"\n{offence}: {len(keys)} - {OFFENCES[offence]}")
        for key in sorted(keys)[:SHOWN]:
            lines += history(key, case)
    lines += [f"\nledger at {at:.3f}: {words}" for at, words in (result.ledger.broken if result.ledger else ())[:20]]
    lines += [f"\n{words}" for words in result.complaints]
    return "\n".join(lines)


def history(key, case):
    """All that was written of a message, what lies in Redis, and the faults around it."""
    told = case.events.get(key, [])
    lines = [f"  {key}"]
    if told:
        near = [b for b in case.faults if b.ended >= told[0].at - 1 and b.began <= told[-1].at + 1]
        items = [(event.at, _event(event, case)) for event in told]
        items += [(b.began, f"  ({b.kind}, {b.ended - b.began:.1f} s, {_who(b)})") for b in near]
        lines += [f"    {at:.3f} {words}" for at, words in sorted(items)]
    lines += [f"    there: {where}" for where in case.remains.left.get(key, [])]
    lines += [f"    dead letter: {letter.fields}" for letter in case.remains.letters if letter.key == key]
    return lines


def _event(event, case):
    slot = case.slot_of.get(event.pid, case.slot_of.get(event.parent, "-"))
    return f"{event.what} {event.queue} {event.kind} pid {event.pid} of slot {slot} {event.note}"


def _who(fault):
    return "everybody" if fault.slots is None else f"slots {sorted(fault.slots)}"
