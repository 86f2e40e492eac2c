"""The inside of a child process: what its worker starts, and how the two talk.

They share a socket, not the standard streams: what a handler prints, or a program that it starts, is no word of ours. A
frame is eight bytes of length and so many bytes. What crosses is made by the worker and by this child alone: a payload
goes as the JSON bytes that were signed, and is decoded on the other side.
"""

import contextlib
import faulthandler
import io
import multiprocessing.spawn
import os
import pickle
import queue
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

from streamq.core.codec import bind
from streamq.core.failure import remember, text_of

LENGTH = struct.Struct("!Q")
#: What a new interpreter is told to run. It finds this package where its worker found it.
START = "import sys; fd, *sys.path = sys.argv[1:]; from streamq.runtime.child import main; main(int(fd))"


class Channel:
    """The child's end of the socket.

    Args:
        end: a connected socket.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def receive(self) -> bytes:
        """Wait for a frame."""
        return self._frames.get()

    def tell(self, error: BaseException | None) -> None:
        """Say how something ended: that it was done, or with which error."""
        self._end.sendall(frame(_carried(error)))

    def _read(self) -> None:
        """A child must not outlive its worker, whatever it does just now: others run its message again."""
        with contextlib.suppress(OSError), self._end.makefile("rb") as stream:
            while len(head := stream.read(LENGTH.size)) == LENGTH.size:
                self._frames.put(stream.read(*LENGTH.unpack(head)))
        os._exit(0)


Program = Callable[[Channel], None]


def frame(raw: bytes) -> bytes:
    """Bytes on their way through the socket."""
    return LENGTH.pack(len(raw)) + raw


def main(end: int) -> None:
    """Run the program that the worker sends first.

    Args:
        end: the descriptor of the socket.
    """
    # Ctrl-C, a closed terminal and a service manager's SIGTERM reach the whole process group. When a handler ends is
    # the worker's business: it lets it finish or kills it, and a child that died of such a signal would look like one
    # that its message killed.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _not_heard)
    faulthandler.enable()  # the log tells where it crashed
    # What a handler prints goes where stderr goes, and no later: a child that is killed would take it along.
    if isinstance(sys.stdout, io.TextIOWrapper):  # a service may have closed it
        sys.stdout.reconfigure(line_buffering=True)
    channel = Channel(socket.socket(fileno=end))
    try:
        program = unpacked(channel.receive())
        program(channel)
    except BaseException as error:  # noqa: BLE001 - told to the worker
        channel.tell(error)


def run_functions(channel: Channel) -> None:
    """Run one function after the other, each with the arguments that its payload holds."""
    channel.tell(None)
    while True:
        try:
            function, payload = unpacked(channel.receive())
            function(**bind(function).arguments(payload))
        except BaseException as error:  # noqa: BLE001 - told to the worker
            channel.tell(error)
        else:
            channel.tell(None)


def packed(function: Callable[..., Any], *more: Any) -> bytes:
    """A function, by its name, and values, on their way to another process. A script's own functions are found, too."""
    main_module = {}
    if function.__module__ == "__main__":
        found = multiprocessing.spawn.get_preparation_data("")
        main_module = {name: value for name, value in found.items() if name.startswith("init_main")}
    return pickle.dumps((main_module, pickle.dumps((function, *more) if more else function)))


def unpacked(raw: bytes) -> Any:
    """What ``packed`` packed."""
    main_module, inner = pickle.loads(raw)  # noqa: S301 - our own worker's
    multiprocessing.spawn.prepare(main_module)
    return pickle.loads(inner)  # noqa: S301 - likewise


def _carried(error: BaseException | None) -> bytes:
    """An error as bytes: itself, or what it says, where it cannot travel."""
    if error is None:
        return b""
    if not isinstance(error, Exception):  # it would end the worker
        error = RuntimeError(f"the handler raised {text_of(error)}").with_traceback(error.__traceback__)
    remember(error)
    try:
        raw = pickle.dumps(error)
        _unpickled_error(raw)  # what comes back may be another matter
    except Exception:  # noqa: BLE001 - its parts and its way back are the user's code
        return pickle.dumps(RuntimeError(text_of(error)))
    return raw


def _unpickled_error(raw: bytes) -> Exception:
    error = pickle.loads(raw)  # noqa: S301 - our own child's
    if not isinstance(error, Exception):  # raising it would end the worker
        raise TypeError(f"it comes back as {type(error).__name__}, which is no exception of a handler")
    return error


def _not_heard(*_: object) -> None:
    """Unlike SIG_IGN, this is not inherited by programs that a handler starts."""


def read_error(raw: bytes) -> Exception | None:
    """What ``Channel.tell`` said."""
    if not raw:
        return None
    try:
        return _unpickled_error(raw)
    except Exception as unreadable:  # noqa: BLE001 - its class may be known to the child alone
        return RuntimeError(f"what the handler raised cannot be read here: {text_of(unreadable)}")
