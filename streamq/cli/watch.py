"""``streamq stats --watch``: the same rows again and again, with what came in and went out a second."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamq.cli.options import chosen_queues, session_from
from streamq.cli.output import Format, JsonWriter, print_table, table

if TYPE_CHECKING:
    from streamq.session import Session
    from streamq.store.inspect import QueueStats

LEAST_INTERVAL = 0.1
COLUMNS = (
    "queue", "ready", "pending", "delayed", "dead", "in_s", "out_s", "oldest_ready_age_s", "oldest_pending_age_s",
    "consumers", "accepted", "done",
)  # fmt: skip


class Rates:
    """Turns counters into rates."""

    def __init__(self) -> None:
        self._before: dict[str, QueueStats] = {}
        self._seen_at = 0.0

    def rows(self, stats: "Sequence[QueueStats]", now: float) -> list[dict[str, Any]]:
        """Rows with `in_s` and `out_s`: messages a second since the last call; None at first.

        Args:
            stats: how the queues stand.
            now: monotonic seconds.
        """
        import msgspec

        passed = now - self._seen_at
        rows = []
        for seen in stats:
            before = self._before.get(seen.queue)
            known = before is not None and passed > 0
            rates = {
                "in_s": round((seen.accepted - before.accepted) / passed, 1) if before and known else None,
                "out_s": round((seen.done - before.done) / passed, 1) if before and known else None,
            }
            rows.append(msgspec.structs.asdict(seen) | rates)
        self._before = {seen.queue: seen for seen in stats}
        self._seen_at = now
        return rows


async def watch_stats(
    queue: str | None, interval: float, form: Format, config: Path | None, redis_url: str | None
) -> None:
    """Show rows until somebody ends it: redrawn on a terminal, one after the other elsewhere."""
    async with session_from(config, redis_url) as session:
        await chosen_queues(session, queue)
        if form is Format.TABLE and sys.stdout.isatty():
            await _redraw(session, queue, interval)
        else:
            await _repeat(session, queue, interval, form)


async def _rows(session: "Session", queue: str | None, rates: Rates) -> list[dict[str, Any]]:
    """The queue, or all that were used: what is only configured would fill the screen with zeros."""
    names = [queue] if queue is not None else await session.inspector.names()
    return rates.rows(await session.inspector.stats(names), time.monotonic())


async def _redraw(session: "Session", queue: str | None, interval: float) -> None:
    import anyio
    from rich.live import Live

    rates = Rates()
    with Live(table(await _rows(session, queue, rates), COLUMNS), auto_refresh=False) as live:
        while True:
            live.refresh()
            await anyio.sleep(interval)
            live.update(table(await _rows(session, queue, rates), COLUMNS))


async def _repeat(session: "Session", queue: str | None, interval: float, form: Format) -> None:
    import anyio

    rates = Rates()
    while True:
        rows = await _rows(session, queue, rates)
        if form is Format.TABLE:
            print_table(rows, COLUMNS)
        else:
            writer = JsonWriter(form)
            for row in rows:
                writer.write(row)
        sys.stdout.flush()
        await anyio.sleep(interval)
