"""A progress bar on stderr, where somebody looks: nothing is drawn when stderr is not a terminal."""

import sys
from typing import Any, Self


class Progress:
    """Counts what is done while it is open.

    Args:
        text: what is being done.
        total: how much there will be, where that is known.
    """

    def __init__(self, text: str, total: int | None = None) -> None:
        self._text, self._total = text, total
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn())
            self._bar = progress.Progress(*columns, progress.TimeElapsedColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task(self._text, total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.advance(self._task, count)
