"""The program that mutates the Lua, and mistakes of the past that the model checker must catch by itself."""

import pytest

from tests.mutants.__main__ import explained, main, outdated, parse
from tests.mutants.mutate import LUA, mutants, of_script, scripts
from tests.mutants.trial import ACROSS, BENCHES, CONTRACT, FILES, by_model, compiles, replace, until_caught

# What somebody once wrote, or nearly did: script, the text that stands there, and what stood there then.
MISTAKES = {
    "no service guard": ("reclaim", "if service_guard(workers, now, lease) then", "if false then"),
    "acknowledged before it is added": (
        "release", "elseif not add(stream,", "elseif remove(stream, group, entry) or not add(stream,",
    ),
    "a retry that is not fenced": (
        "retry", "if not owned(stream, group, entry, consumer, token) then", "if false then",
    ),
    "a renewal that is not fenced": ("extend", "if not owned(stream, group, entry, consumer, token) or", "if"),
    "promoted and not taken off": ("promote", "  if member then\n", "  if false then\n"),
    "a reclaim that drops its cursor": ("reclaim", "cursors[i] = reply[1]", ""),
    "a purge of what is pending": ("purge", "if not pending then", "if true then"),
    "publishing when memory is full": ("publish", "#!lua\n", "#!lua flags=allow-oom\n"),
    "a move without its mark": ("move", "redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])", ""),
    "a replay whose mark is not looked at": ("replay_across", "if mark then", "if false then"),
}  # fmt: skip
# One of each kind of change, which the model catches within a second.
SAMPLE = (
    ("lib/fence", "return pending and pending[2] == consumer", "without what follows and"),
    ("lib/guard", "pull_beats_back(workers, now)", "not called"),
    ("lib/bury", "redis.call('HINCRBY', ledger, 'dead', 1)", "not called"),
    ("evict", "if length + wanted <= max_length then", "never"),
)


@pytest.fixture(scope="module", autouse=True)
def servers():
    yield
    for place in BENCHES.values():
        place.close()
        place.server.close()
    BENCHES.clear()


def test_every_script_has_mutants_and_each_has_a_name_of_its_own():
    found = mutants()
    assert len(found) > 400
    assert len({mutant.name for mutant in found}) == len(found)
    assert {mutant.script for mutant in found} == set(scripts())


@pytest.mark.slow
def test_every_mutant_is_lua():
    """What Redis does not even take would count as caught."""
    assert [mutant.name for mutant in mutants() if not compiles(mutant)] == []


def test_nothing_on_the_disk_changes():
    before = {path: path.read_bytes() for path in LUA.rglob("*.lua")}
    replace("ack", "#!lua\n-- nothing\n-- KEYS: ledger\nreturn 1")
    replace("", "")
    assert {path: path.read_bytes() for path in LUA.rglob("*.lua")} == before


def test_an_explanation_belongs_to_a_mutant():
    assert outdated({mutant.name for mutant in mutants()}) == []
    assert all(len(reason) > 20 for reason in explained().values())


def test_the_files_of_the_suite_are_there():
    assert [name for name in FILES if not (CONTRACT / f"test_{name}.py").exists()] == []


def test_all_are_tried_unless_somebody_says_otherwise():
    assert parse([]).sample == 0


def test_two_changes_that_leave_the_same_text_are_one_mutant():
    changes = [mutant.change for mutant in of_script("x", "if a and b and c then f() end\n")]
    assert len(changes) == 5
    assert changes.count("without what follows and") == 2


def test_conditions_operands_limits_and_calls_are_changed():
    text = "if a > 1 and f(b) then\n  redis.call('DEL', k)\nend\n"
    assert {mutant.change: mutant.text for mutant in of_script("x", text)} == {
        "always": text.replace("a > 1 and f(b)", "true"),
        "never": text.replace("a > 1 and f(b)", "false"),
        "without what precedes and": text.replace("a > 1 and", ""),
        "without what follows and": text.replace("and f(b)", ""),
        "> becomes >=": text.replace(">", ">="),
        "not called": text.replace("  redis.call('DEL', k)", ""),
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_model_catches_what_was_wrong_once(mistake):
    name, right, wrong = MISTAKES[mistake]
    text = scripts()[name]
    assert text.count(right) == 1
    replace(name, text.replace(right, wrong))
    try:
        assert until_caught(clustered=name in ACROSS, seeds=range(1, 13))
    finally:
        replace("", "")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("script", "source", "change"), SAMPLE)
def test_the_model_catches_a_mutant(script, source, change):
    mutant = next(m for m in mutants() if m.script == script and m.source.startswith(source) and m.change == change)
    assert by_model(mutant)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_contract_suite_catches_mutants(capsys):
    """The whole program on a script that the model knows nothing of."""
    assert main(["--only", "register", "--suite", "room", "--jobs", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.rsplit(None, 1)[1].partition("[")[0] for line in said[:-1]] == [
        "test_a_queue_is_registered_without_memory", "test_a_queue_is_registered_without_memory",
    ]  # fmt: skip
    assert "2 contract suite, 0 model, 0 equivalent, 0 ALIVE" in said[-1]
