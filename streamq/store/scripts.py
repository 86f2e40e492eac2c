"""The Lua scripts: files with a contract, loaded once, called by name.

The header of a script is not only a comment: its ``KEYS`` line decides which keys it is given, and its ``include``
line which parts of ``lua/lib`` stand in front of it.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from streamq.store.keys import QueueKeys

# What is written to Redis carries a version. Both numbers rise together only when an older worker would misread what
# this version writes; a change that both can read raises the first alone.
PROTOCOL = 1  # what this version speaks; the first line of every script says it, in SLOWLOG and MONITOR too
NEEDS = 1  # what a worker must speak to work beside this version; `ensure` leaves it at the queue

_HEADER = re.compile(r"\A#!lua(?P<flags>[^\n]*)\n(?P<comment>(?:--[^\n]*\n)+)")
_KEYS = re.compile(r"^-- KEYS: (.+)$", re.MULTILINE)
_INCLUDE = re.compile(r"^-- include: (.+)$", re.MULTILINE)


class Script:
    """A script, ready to be sent.

    Attributes:
        name: of its file.
        keys: names of the keys it wants, in order; those behind `...` are brought by the caller.
        text: the whole source for a real server.
        plain: the same without the ``#!lua`` line, which fakeredis does not know.
        sha: SHA-1 of ``text``, as EVALSHA wants it.
    """

    def __init__(self, name: str, source: str, *, allow_oom: bool = False) -> None:
        header = _HEADER.match(source)
        keys = _KEYS.search(source)
        if header is None or keys is None:
            raise ValueError(f"{name}.lua: the file must begin with `#!lua` and say its KEYS")
        included = _INCLUDE.search(header["comment"])
        library = "".join(_read(f"lib/{part}") for part in included[1].split()) if included else ""
        self.name = name
        self.keys = tuple(keys[1].partition("...")[0].split())
        self.plain = library + source[header.end() :]
        flags = " flags=allow-oom" if allow_oom else header["flags"]
        self.text = f"#!lua{flags}\n-- streamq {name}, protocol {PROTOCOL}\n{self.plain}"
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def command(
        self, keys: QueueKeys | Sequence[str], args: Sequence[Any], extra_keys: Sequence[str] = ()
    ) -> list[Any]:
        """What follows EVALSHA's digest: the number of keys, the keys, the arguments.

        Args:
            keys: the queue's keys, of which the script takes those it names; or exactly the keys.
            args: ARGV.
            extra_keys: those behind the named ones.
        """
        named = [getattr(keys, key) for key in self.keys] if isinstance(keys, QueueKeys) else list(keys)
        return [len(named) + len(extra_keys), *named, *extra_keys, *args]


@cache
def script(name: str, *, allow_oom: bool = False) -> Script:
    """The script of ``lua/NAME.lua``.

    Args:
        name: the file without its ending.
        allow_oom: run even when Redis is out of memory, whatever the file says.
    """
    return Script(name, _read(name), allow_oom=allow_oom)


def _read(name: str) -> str:
    return files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
