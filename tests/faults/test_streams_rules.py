"""Faults of streams that never happen because nothing asks for them: read from every command of a whole life."""

import asyncio

import pytest

from tests.faults.recording import SCRIPTS, declared_keys, record_life, scripts_of
from tests.support import SERVERS

pytestmark = pytest.mark.faults

NO_KEY = {"TIME"}
SECOND_WORD = {"XGROUP", "XINFO"}  # their key comes after a word that says what to do


@pytest.fixture(scope="module")
def lives():
    """What a whole life sent, by kind of server."""
    return {}


@pytest.fixture(params=SERVERS)
def life(request, empty_server, lives):
    """Every command that a server got while everything was done once, by every script."""
    if request.param not in lives:
        lives[request.param] = asyncio.run(record_life(empty_server(request.param)))
    found = lives[request.param]
    assert scripts_of(found) == set(SCRIPTS)
    return found


def test_s02_no_command_trims_a_stream(life):
    """Nothing that is sent can shorten a stream: no XTRIM, no XADD with MAXLEN or MINID, exact or approximate."""
    adds = life.of("XADD")
    assert adds
    assert [sent for sent in adds if sent.words[2] != "*"] == []  # options stand between the key and the id
    assert life.of("XTRIM") == []


def test_s04_no_command_relies_on_acked_trimming(life):
    """ACKED and its kin, which trim everything where there is no group, are never sent."""
    for name in ("XADD", "XTRIM", "XDEL", "XDELEX", "XACKDEL"):
        assert [sent for sent in life.of(name) if {"ACKED", "KEEPREF", "DELREF"} & set(sent.options[1:3])] == []


def test_s05_no_read_goes_without_acknowledgement(life):
    """NOACK is never sent: what was read is pending until it is settled."""
    reads = life.of("XREADGROUP")
    assert reads
    assert [sent for sent in reads if "NOACK" in sent.options] == []


def test_s13_nothing_is_claimed_by_force(life):
    """FORCE, which brings back what was acknowledged, is never sent."""
    claims = life.of("XCLAIM")
    assert claims
    assert [sent for sent in claims if "FORCE" in sent.options] == []


def test_s15_nobody_reads_the_history_of_a_name(life):
    """Every read asks for what is new: what a name holds comes back through reclaim alone."""
    for sent in life.of("XREADGROUP"):
        ids = sent.words[sent.options.index("STREAMS") + 2 :]
        assert set(ids[len(ids) // 2 :]) == {">"}


def test_s16_reclaim_needs_no_newer_redis(life):
    """Entries are taken over by the script alone, not by a CLAIM that XREADGROUP knows from Redis 8.4 on."""
    assert [sent for sent in life.of("XREADGROUP") if "CLAIM" in sent.options] == []
    assert {sent.script is not None for name in ("XCLAIM", "XAUTOCLAIM") for sent in life.of(name)} == {True}


def test_m04_nothing_is_sent_as_a_transaction(life):
    """What belongs together is one script: there is no MULTI that memory or a lost reply could cut in two."""
    assert [sent for name in ("MULTI", "EXEC", "WATCH") for sent in life.of(name)] == []


def test_m11_scripts_touch_only_keys_that_they_declare(life):
    """Every key that a script uses was named in its call, as a Cluster demands."""
    inside = [sent for sent in life if sent.script is not None and sent.name not in NO_KEY]
    assert inside
    for sent in inside:
        key = sent.words[2 if sent.name in SECOND_WORD else 1]
        assert key in declared_keys(sent.script), sent
