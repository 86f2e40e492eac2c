"""A network that misbehaves on purpose: a TCP proxy in front of a server, whose faults are switched while it runs."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from urllib.parse import unquote, urlsplit

CHUNK = 64 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero: closing sends RST and not FIN


class FaultProxy:
    """Stands between clients and one server. Used as a context manager; it runs in a thread of its own.

    Faults may be set from any thread and count from the next bytes on, also of connections that are open:
    ``delay`` and ``throttle`` are plain attributes, the others methods. ``heal`` ends all of them.

    Args:
        upstream: URL of the server, ``unix://`` or ``redis://``; its credentials and database are handed on.
        match: only a connection that once sent these bytes is harmed; None = all of them.

    Attributes:
        url: what clients connect to.
        delay: seconds that every reply is late.
        throttle: bytes a second that come through; 0 = as many as there are.
        happened: how often each fault did something.
    """

    def __init__(self, upstream, *, match=None):
        self._upstream, self.match = urlsplit(upstream), match
        self.delay, self.throttle, self.happened = 0.0, 0, Counter()
        self._hole, self._refusing, self._halved = False, False, 0
        self._cuts = []  # what a request must contain for its reply to be cut, one item a cut
        self._pipes = set()
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        userinfo, at, _ = self._upstream.netloc.rpartition("@")
        path = self._upstream.path if self._upstream.scheme != "unix" else ""
        self.url = f"redis://{userinfo}{at}127.0.0.1:{self.port}{path}"
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    # --- faults

    def cut_replies(self, count=1, *, to=b""):
        """Let the next requests through that contain these bytes, and reset the connection instead of replying."""
        self._call(self._cuts.extend, [to] * count)

    def halve_replies(self, count=1):
        """Reset the connection in the middle of each of the next replies."""
        self._call(self._halve, count)

    def go_silent(self):
        """Half-open: connections stay, and nothing passes in either direction."""
        self._call(self._set_hole, True)

    def refuse(self):
        """Reset every connection that is there and every new one."""
        self._call(self._refuse)

    def reset_all(self):
        """Reset every connection that is there; new ones are welcome."""
        self._call(self._reset_all)

    def heal(self):
        """End every fault. Connections whose bytes were swallowed are reset: their streams have holes."""
        self._call(self._heal)

    # --- life

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._call(self._loop.stop)
        self._thread.join()

    def _run(self):
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
        self._loop.run_forever()
        server.close()
        self._reset_all()
        # Each ends by itself now: one that is cancelled would be told as an error.
        self._loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(self._loop), return_exceptions=True))
        self._loop.close()

    def _call(self, function, *args):
        done = threading.Event()

        def run():
            function(*args)
            done.set()

        self._loop.call_soon_threadsafe(run)
        if function != self._loop.stop:
            done.wait(5)

    def _halve(self, count):
        self._halved = count

    def _set_hole(self, value):
        self._hole = value

    def _refuse(self):
        self._refusing = True
        self._reset_all()

    def _heal(self):
        self.delay, self.throttle, self._hole, self._refusing, self._halved = 0.0, 0, False, False, 0
        self._cuts.clear()
        for pipe in [pipe for pipe in self._pipes if pipe.holed]:
            pipe.reset()

    def _reset_all(self):
        for pipe in list(self._pipes):
            pipe.reset()

    async def _serve(self, reader, writer):
        if self._refusing:
            self.happened["refused"] += 1
            _reset(writer)
            return
        try:
            behind = await self._connect()
        except OSError:
            _reset(writer)
            return
        pipe = _Pipe(self, (reader, writer), behind)
        self._pipes.add(pipe)
        try:
            await pipe.run()
        finally:
            self._pipes.discard(pipe)

    async def _connect(self):
        if self._upstream.scheme == "unix":
            return await asyncio.open_unix_connection(unquote(self._upstream.path))
        return await asyncio.open_connection(self._upstream.hostname, self._upstream.port)


class _Pipe:
    """One client's connection and its counterpart."""

    def __init__(self, proxy, front, behind):
        self.proxy, self.front, self.behind = proxy, front, behind
        self.holed = False  # bytes of it were swallowed
        self.asked = b""  # the last request
        self.marked = proxy.match is None

    async def run(self):
        ways = [asyncio.ensure_future(self._requests()), asyncio.ensure_future(self._replies())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for _, writer in (self.front, self.behind):
            writer.close()

    def reset(self):
        for _, writer in (self.front, self.behind):
            _reset(writer)

    async def _requests(self):
        reader, writer = self.front[0], self.behind[1]
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                self.marked = self.marked or self.proxy.match in data
                if self._swallowed():
                    continue
                self.asked = data
                writer.write(data)
                await writer.drain()

    async def _replies(self):
        proxy, reader, writer = self.proxy, self.behind[0], self.front[1]
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.marked and proxy.delay:
                    proxy.happened["delayed"] += 1
                    await asyncio.sleep(proxy.delay)
                if self._swallowed():
                    continue
                if self.marked and self._harmed(data, writer):
                    return
                await self._write(writer, data)

    def _swallowed(self):
        if self.marked and self.proxy._hole:
            self.holed = True
            self.proxy.happened["swallowed"] += 1
            return True
        return False

    def _harmed(self, data, writer):
        """Whether this reply ended the connection."""
        proxy = self.proxy
        due = next((cut for cut in proxy._cuts if cut in self.asked), None)
        if due is not None:
            proxy._cuts.remove(due)
            proxy.happened["cut"] += 1
            self.reset()
            return True
        if proxy._halved and len(data) > 1:
            proxy._halved -= 1
            proxy.happened["halved"] += 1
            writer.transport.set_write_buffer_limits(0)
            writer.write(data[: len(data) // 2])
            writer.close()  # the first half must arrive
            self.behind[1].close()
            return True
        return False

    async def _write(self, writer, data):
        rate = self.proxy.throttle if self.marked else 0
        if not rate:
            writer.write(data)
            await writer.drain()
            return
        self.proxy.happened["throttled"] += 1
        step = max(1, rate // 50)
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await writer.drain()
            await asyncio.sleep(step / rate)


def _reset(writer):
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) and sock.fileno() >= 0:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
