"""The catalogue of faults, and the program that writes which test shows what: `python -m tests.faults.catalogue`.

A row whose test is missing is seen: the table says so, and tests/architecture fails.
"""

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
BEGIN, END = "<!-- faults: begin -->\n", "<!-- faults: end -->"
NAME = re.compile(r"test_([smcrw]\d\d)_")

SECTIONS = {
    "S": "Streams", "M": "Scripts, memory and persistence", "C": "Clients, network and event loop",
    "R": "Replication, Sentinel and Cluster", "W": "Work, time, poison and duplicates",
}  # fmt: skip

ROWS = {
    "S01": "publishing into a full queue",
    "S02": "trimming that is only approximate",
    "S03": "somebody trims or deletes what is in flight",
    "S04": "trimming that spares only what is unacknowledged",
    "S05": "reading without a pending list",
    "S06": "publishing before there is a worker",
    "S07": "the stream is deleted, renamed, replaced, expired, or its group destroyed, while a worker waits",
    "S08": "the stream is deleted and made anew in one step while a worker waits",
    "S09": "a consumer is removed that still holds messages",
    "S10": "reclaiming that always begins at the front",
    "S11": "a pending list of 100,000",
    "S12": "what counts as a delivery",
    "S13": "claiming by force what was acknowledged",
    "S14": "one read that brings more than there are slots",
    "S15": "two workers of one name",
    "S16": "reclaiming with XREADGROUP CLAIM",
    "S17": "a stream whose ids are used up",
    "S18": "the entry id as the message's name",
    "S19": "memory of deleted entries",
    "S20": "memory of pending entries",
    "M01": "Redis is out of memory: the queue must still drain",
    "M02": "a script that only removes, refused for want of memory",
    "M03": "a script that fails half-way",
    "M04": "a transaction that is refused for want of memory",
    "M05": "a server that may evict whole queues",
    "M06": "a server that cannot save and refuses writes",
    "M07": "a server that misses its replicas and refuses writes",
    "M08": "a server that still loads its data",
    "M09": "a server that has forgotten the scripts",
    "M10": "thousands of items in one script",
    "M11": "a script that touches a key of another slot",
    "M12": "a power cut in the middle of a script",
    "M13": "a server that keeps nothing over a restart",
    "M14": "a power cut",
    "M15": "a confirmation that confirms nothing",
    "M16": "a giant message",
    "C01": "the reply of a publish is lost",
    "C02": "blocking reads that outlast the client's patience",
    "C03": "a half-open connection",
    "C04": "a command that is cancelled half-way",
    "C05": "a read that is cancelled half-way",
    "C06": "a publish that is cancelled half-way",
    "C07": "a pool that waiting readers have used up",
    "C08": "connections that are killed again and again",
    "C09": "the client stays with a master that was demoted",
    "C10": "an outcome that cannot be recorded",
    "C11": "SIGTERM at any moment",
    "C12": "tasks that nobody owns",
    "C13": "a handler that blocks the event loop",
    "C14": "a handler that never ends",
    "R01": "failover to a replica that had not got everything",
    "R02": "a master that freezes, is replaced, and thaws",
    "R03": "a server that becomes a replica while a worker waits",
    "R04": "scripts and reads over several slots",
    "R05": "a slot that moves under load",
    "R06": "a master without replica is lost",
    "R07": "a node that does not know the scripts",
    "R08": "taking over from the dead in a Cluster",
    "W01": "a handler that runs longer than any lease",
    "W02": "a crash between acknowledging and scheduling a retry",
    "W03": "a retry that races a redelivery",
    "W04": "whoever takes over from the dead dies itself",
    "W05": "a message that kills its workers",
    "W06": "a worker's death that counts as an attempt",
    "W07": "dead letters that are dropped when there are many",
    "W08": "a batch of delayed messages with an unusable one",
    "W09": "a producer whose clock is wrong",
    "W10": "the server's clock jumps",
    "W11": "an acknowledgement that a failover lost",
    "W12": "an idempotency key that is forgotten too early",
    "W13": "messages that wait inside a worker until their lease ends",
    "W14": "taking over only when a worker starts",
    "W15": "figures that stand still with the thing they measure",
    "W16": "a state beside the pending list",
    "W17": "messages that cannot be read, verified or handled",
    "W18": "a type that half of the workers do not know",
    "W19": "two versions at once",
}

# Why a row has no test of its own.
WITHOUT_TEST: dict[str, str] = {}


class Proof(NamedTuple):
    """A test of a row: where it is, its name, and what its docstring says it shows."""

    file: str
    name: str
    shows: str


def proofs() -> dict[str, list[Proof]]:
    """All tests that are named after a row, by row."""
    found: dict[str, list[Proof]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and NAME.match(node.name)
            if match:
                shows = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
                file = path.relative_to(ROOT).as_posix()
                found.setdefault(match[1].upper(), []).append(Proof(file, node.name, shows))
    return found


def table() -> str:
    """The rows and their tests, as Markdown."""
    found, lines = proofs(), []
    for letter, title in SECTIONS.items():
        lines += [f"#### {title}", "", "| row | fault | what a test has seen |", "|---|---|---|"]
        for row, fault in ROWS.items():
            if row.startswith(letter):
                shown = "<br>".join(map(_cell, found.get(row, ()))) or WITHOUT_TEST.get(row, "**no test**")
                lines.append(f"| {row} | {fault} | {shown} |")
        lines.append("")
    return "\n".join(lines)


def _cell(proof: Proof) -> str:
    text = proof.shows or proof.name.removeprefix("test_")[4:].replace("_", " ")
    return f"[{text.rstrip('.').replace('|', chr(92) + '|')}](../{proof.file})"


def page() -> str:
    """The page as it should be: the table renewed, all else as it is."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page())
    missing = ROWS.keys() - proofs().keys() - WITHOUT_TEST.keys()
    sys.exit(f"no test for {', '.join(sorted(missing))}" if missing else 0)
