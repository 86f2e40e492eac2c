"""The faults as they happen: what they hit is whoever is there then."""

import heapq
import itertools
import signal
import time
from collections import Counter

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tests.chaos.checker import Fault

EVERYBODY = None


class Faults:
    """Makes them happen, and remembers what did.

    Args:
        house: where.
        actions: what, in order.
    """

    def __init__(self, house, actions):
        self.house, self._actions = house, iter(actions)
        self.happened = []
        self._ends = []  # (when, number, end, fault): what still lasts
        self._numbers = itertools.count()
        self._next = next(self._actions)
        self._due = time.monotonic() + self._next.gap

    def tick(self):
        """Begin and end whatever is due."""
        now = time.monotonic()
        while self._ends and self._ends[0][0] <= now:
            self._end(heapq.heappop(self._ends))
        if now >= self._due:
            self._begin(self._next)
            self._next = next(self._actions)
            self._due = time.monotonic() + self._next.gap

    def stop(self):
        """End all that lasts, and mend the network."""
        while self._ends:
            self._end(heapq.heappop(self._ends))
        for proxy in self.house.proxies:
            proxy.heal()

    def counts(self):
        """How often each kind happened."""
        return Counter(fault.kind for fault in self.happened)

    def _begin(self, action):
        began = time.monotonic()
        hit = _DOERS[action.kind](self, action)
        if hit is None:  # nobody there to be hit just now
            return
        slots, end = hit
        if end is None:
            self.happened.append(Fault(action.kind, began, time.monotonic(), slots))
        else:
            heapq.heappush(self._ends, (began + action.seconds, next(self._numbers), end, (action.kind, began, slots)))

    def _end(self, item):
        _, _, end, (kind, began, slots) = item
        end()
        self.happened.append(Fault(kind, began, time.monotonic(), slots))

    # --- workers: each returns the slots that it hits and what ends it, or None

    def _slot(self, action):
        return self.house.slots[action.victim % len(self.house.slots)]

    def _alive(self, action):
        slot = self._slot(action)
        return slot if slot.current is not None and slot.current.code is None else None

    def _kill(self, action):
        if (slot := self._alive(action)) is None:
            return None
        slot.current.kill()
        return frozenset({slot.number}), None

    def _stop_worker(self, action):
        if (slot := self._alive(action)) is None:
            return None
        process = slot.current
        process.signal(signal.SIGSTOP)
        return frozenset({slot.number}), lambda: process.signal(signal.SIGCONT)

    def _terminate(self, action):
        if (slot := self._alive(action)) is None:
            return None
        slot.replace()
        return frozenset({slot.number}), None

    def _interrupt_twice(self, action):
        if (slot := self._alive(action)) is None:
            return None
        first = slot.current
        slot.replace(signal.SIGINT)
        first.signal(signal.SIGINT)
        return frozenset({slot.number}), None

    def _roll(self, _):
        """Every worker gives way to one of the other version."""
        for slot in self.house.slots:
            slot.version = 1 - slot.version
            slot.replace()
        return EVERYBODY, None

    def _kill_producer(self, action):
        producers = self.house.producers
        if not producers:
            return None
        producers[action.victim % len(producers)].kill()
        del producers[action.victim % len(producers)]
        self.house.start_producer()
        return frozenset(), None

    # --- the network

    def _proxies(self, action):
        """Those that are hit, and the slots behind them."""
        if action.everywhere:
            return self.house.proxies, EVERYBODY
        number = action.victim % len(self.house.proxies)
        slots = frozenset({number}) if number < len(self.house.slots) else frozenset()
        return [self.house.proxies[number]], slots

    def _network(self, action, begin, end=None):
        proxies, slots = self._proxies(action)
        for proxy in proxies:
            begin(proxy)
        return slots, (lambda: [end(proxy) for proxy in proxies]) if end else None

    def _cut(self, action):
        return self._network(action, lambda proxy: proxy.cut_replies(action.count))

    def _halve(self, action):
        return self._network(action, lambda proxy: proxy.halve_replies(action.count))

    def _slow(self, action):
        return self._network(action, lambda p: setattr(p, "delay", 0.02 * action.count), lambda p: p.heal())

    def _thin(self, action):
        return self._network(action, lambda p: setattr(p, "throttle", 4000 * action.count), lambda p: p.heal())

    def _silent(self, action):
        return self._network(action, lambda p: p.go_silent(), lambda p: p.heal())

    def _refuse(self, action):
        return self._network(action, lambda p: p.refuse(), lambda p: p.heal())

    def _reset(self, action):
        return self._network(action, lambda p: p.reset_all())

    # --- the server: while one of these lasts, nothing else happens

    def _kill_server(self, action):
        self.house.server.kill()
        self._rest(action.seconds)
        self.house.server.start()
        return EVERYBODY, None

    def _freeze_server(self, action):
        self.house.server.pause()
        self._rest(action.seconds)
        self.house.server.resume()
        return EVERYBODY, None

    def _rest(self, seconds):
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(0.1, left))
            self.house.look_after()
            while self._ends and self._ends[0][0] <= time.monotonic():
                self._end(heapq.heappop(self._ends))

    def _admin(self, *command):
        # One that was killed just now may still read its data.
        patience = {"retry": Retry(ConstantBackoff(0.1), 600), "retry_on_error": [redis.BusyLoadingError]}
        with redis.Redis.from_url(self.house.url, socket_timeout=5, **patience) as client:
            return client.execute_command(*command)

    def _kill_clients(self, _):
        self._admin("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return EVERYBODY, None

    def _fill_memory(self, action):
        self._admin("CONFIG", "SET", "maxmemory", "1")
        self._rest(action.seconds)
        self._admin("CONFIG", "SET", "maxmemory", "0")
        return EVERYBODY, None

    def _forget_scripts(self, _):
        self._admin("SCRIPT", "FLUSH")
        return EVERYBODY, None


_DOERS = {
    "worker killed": Faults._kill,
    "worker stopped": Faults._stop_worker,
    "worker told to end": Faults._terminate,
    "worker told twice": Faults._interrupt_twice,
    "rolling restart": Faults._roll,
    "producer killed": Faults._kill_producer,
    "replies cut": Faults._cut,
    "replies halved": Faults._halve,
    "network slow": Faults._slow,
    "network thin": Faults._thin,
    "network silent": Faults._silent,
    "network refuses": Faults._refuse,
    "connections reset": Faults._reset,
    "server killed": Faults._kill_server,
    "server frozen": Faults._freeze_server,
    "clients killed": Faults._kill_clients,
    "memory full": Faults._fill_memory,
    "scripts forgotten": Faults._forget_scripts,
}
