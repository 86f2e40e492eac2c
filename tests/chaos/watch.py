"""A look at things once a second, in a thread, for as long as a block lasts."""

import threading

EVERY = 1.0  # seconds


class Watch(threading.Thread):
    """Calls ``look`` again and again until it is stopped. Used as a context manager.

    Args:
        name: of the thread.
    """

    def __init__(self, name):
        super().__init__(name=name, daemon=True)
        self._enough = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._enough.set()
        self.join()

    def run(self):
        while not self._enough.wait(EVERY):
            self.look()
