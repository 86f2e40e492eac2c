"""Run the machine: so many operations on one server, repeatable by a seed."""

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.disorder import Disorder

STEPS = 100  # of one life; then everything begins anew
HAPPENS = ("done", "dead", "retried", "released", "orphan", "suspect", "vanished", "fenced", "promoted", "evicted")


def check(bench, *, operations, number, shrink=True):
    """Raise what Hypothesis found, cut down to the few operations that it takes.

    Args:
        bench: with the server that is tried.
        operations: how many.
        number: the seed.
        shrink: whether a failure is cut down; else the first one will do.
    """
    machine = seed(number)(type("Machine", (Disorder,), {"bench": bench}))
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    how = settings(
        max_examples=-(-operations // STEPS), stateful_step_count=STEPS, phases=phases, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), print_blob=False, report_multiple_bugs=False,
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=how)


def missing(bench):
    """What should have happened in a long run and did not: knocking at empty queues proves nothing."""
    return [name for name in HAPPENS if not bench.happened[name]]
