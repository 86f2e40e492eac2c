"""Every guard of the Lua scripts, removed or turned around: found in the text, one mutant for each.

A small lexer is enough: conditions are what stands between `if` and `then`, operands what stands between `and` and
`or`, and a statement that only calls something is a line of its own.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import streamq.store

LUA = Path(streamq.store.__file__).parent / "lua"
TOKEN = re.compile(
    r"(?P<comment>--[^\n]*)|(?P<string>'(?:\\.|[^'\\\n])*')|(?P<word>[A-Za-z_]\w*)|(?P<number>\d+(?:\.\d+)?(?:e\d+)?)"
    r"|(?P<op>\.\.|[=~<>]=|[-+*/%^#<>=(){}\[\];:,.])"
)
OPENS, CLOSES = {"(", "{", "["}, {")", "}", "]"}
EDGES = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
ENDS = {"then", "do", "end", "else", "elseif", "return", "local", "if", "while", "for", "and", "or", "not", ",", "="}
STATEMENT = re.compile(r"^\s*(?:redis\.p?call|expect|remove|bury|add|delay|vanished|pull_beats_back|from_silent|put)\(")
REFUSABLE = re.compile(r"'XADD'|'XGROUP'|\b(?:add|bury)\(")
CONSTANT = re.compile(r"^\s*local [A-Z_, ]+ = ")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one line.

    Attributes:
        script: the file below lua/, without its ending.
        line: its number there, from 1.
        source: the text of that line, stripped.
        change: what was done, in words; with `source` and `nth` its name.
        nth: which one, where a script has several of the same name.
        text: the whole script, changed.
    """

    script: str
    line: int
    source: str
    change: str
    nth: int
    text: str

    @property
    def name(self) -> tuple[str, str, str, int]:
        return self.script, self.source, self.change, self.nth


def scripts() -> dict[str, str]:
    """Name -> text of everything that is sent to Redis."""
    return {path.relative_to(LUA).with_suffix("").as_posix(): path.read_text() for path in sorted(LUA.rglob("*.lua"))}


def mutants() -> list[Mutant]:
    """All of them, in the order of the files."""
    return [mutant for name, text in scripts().items() for mutant in of_script(name, text)]


def of_script(name: str, text: str) -> Iterator[Mutant]:
    """All of one script; of two changes that leave the same text, the first."""
    seen: dict[tuple[str, str], int] = {}
    texts = set()
    changes = sorted([*flags(text), *conditions(text), *operators(text), *constants(text), *statements(text)])
    for start, end, new, change in changes:
        changed = text[:start] + new + text[end:]
        bare = "".join(changed.split())
        if bare in texts:
            continue
        texts.add(bare)
        line = text.count("\n", 0, start) + 1
        source = text.splitlines()[line - 1].strip()
        nth = seen[source, change] = seen.get((source, change), 0) + 1
        yield Mutant(name, line, source, change, nth, changed)


Change = tuple[int, int, str, str]  # from, to, the new text, in words


def flags(text: str) -> Iterator[Change]:
    """Whether a script may run when memory is full."""
    flag = re.match(r"#!lua( flags=allow-oom)?\n", text)
    if flag:
        given = flag[1] is not None
        yield 0, flag.end(), "#!lua\n" if given else "#!lua flags=allow-oom\n", f"{'no' if given else 'give'} allow-oom"


def conditions(text: str) -> Iterator[Change]:
    """What stands between `if` and `then` holds always, or never; a loop never turns."""
    tokens = lex(text)
    for n, token in enumerate(tokens):
        if token[0] not in {"if", "elseif", "while"}:
            continue
        stop = next(m for m in range(n, len(tokens)) if tokens[m][0] in {"then", "do"})
        start, end = token[2], tokens[stop][1]
        yield start, end, " false ", "never"
        if token[0] != "while":
            yield start, end, " true ", "always"


def operators(text: str) -> Iterator[Change]:
    """Comparisons moved by one, operands of `and` and `or` left out."""
    tokens = lex(text)
    for n, (token, start, end) in enumerate(tokens):
        if token in EDGES:
            yield start, end, EDGES[token], f"{token} becomes {EDGES[token]}"
        if token in {"and", "or"}:
            yield tokens[n][1], operand(tokens, n, 1), "", f"without what follows {token}"
            yield operand(tokens, n, -1), tokens[n][2], "", f"without what precedes {token}"
        if token == "not":
            yield start, end, "", "without not"


def constants(text: str) -> Iterator[Change]:
    """Limits that are one higher; how many at most, unlimited."""
    tokens = lex(text)
    for n, (token, start, end) in enumerate(tokens):
        line = text[text.rfind("\n", 0, start) + 1 : text.find("\n", end)]
        if re.fullmatch(r"\d+", token) and CONSTANT.match(line):
            yield start, end, str(int(token) + 1), f"{token} becomes {int(token) + 1}"
        if token == "'COUNT'":
            yield tokens[n - 1][1], operand(tokens, n + 1, 1), "", "without COUNT"


def statements(text: str) -> Iterator[Change]:
    """A call that is made for its effect is not made; two that follow each other change places.

    A script is one step, so the order shows only where one of the two may be refused when the other has been done: a
    stream takes no more. All else that can fail, like a key of a wrong type, fails before the first write.
    """
    tokens, calls = lex(text), []
    for line in re.finditer(r"^.*$", text, re.MULTILINE):
        if STATEMENT.match(line[0]):
            first = next(n for n, token in enumerate(tokens) if token[0] == "(" and token[1] > line.start())
            calls.append((line.start(), closing(tokens, first)))
    for n, (start, end) in enumerate(calls):
        yield start, end, "", "not called"
        after, until = calls[n + 1] if n + 1 < len(calls) else (end, end)
        if text[end:after].strip() == "" and REFUSABLE.search(text[start:until]):
            yield start, until, text[after:until] + text[end:after] + text[start:end], "changes places with the next"


def closing(tokens: list[tuple[str, int, int]], at: int) -> int:
    """Where the bracket that opens at `at` has closed."""
    depth = 0
    for token, _, end in tokens[at:]:
        depth += (token in OPENS) - (token in CLOSES)
        if depth == 0:
            return end
    raise ValueError("a bracket that never closes")


def lex(text: str) -> list[tuple[str, int, int]]:
    """Tokens with where they begin and end; comments left out."""
    return [(found[0], found.start(), found.end()) for found in TOKEN.finditer(text) if found.lastgroup != "comment"]


def operand(tokens: list[tuple[str, int, int]], at: int, step: int) -> int:
    """Where the operand on one side of `tokens[at]` ends."""
    depth, n = 0, at + step
    n += step > 0 and tokens[n][0] == "not"
    opens, closes = (OPENS, CLOSES) if step > 0 else (CLOSES, OPENS)
    while 0 <= n < len(tokens):
        token = tokens[n][0]
        if depth == 0 and (token in ENDS or token in closes or (step > 0 and statement_begins(tokens, n))):
            break
        depth += (token in opens) - (token in closes)
        n += step
    last = tokens[n - step]
    return last[2] if step > 0 else last[1]


def statement_begins(tokens: list[tuple[str, int, int]], n: int) -> bool:
    """Lua has no end of a statement: two words side by side are two of them."""
    word = re.compile(r"[A-Za-z_0-9]\w*|'.*'")
    ended = word.fullmatch(tokens[n - 1][0]) or tokens[n - 1][0] in CLOSES
    return bool(ended and tokens[n - 1][0] not in ENDS and word.fullmatch(tokens[n][0]))
