"""Whatever lies in a stream: each piece of rubbish is one dead letter, and the worker goes on with the next message."""

import pytest

from tests.e2e.places import EVERYWHERE
from tests.e2e.rig import NOTE, QUICK
from tests.support import wait_until

pytestmark = pytest.mark.e2e

DEEP = b'{"type":"typed","key":"deep","count":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
HUGE = b'{"type":"typed","key":"huge","count":' + b"9" * 5_000 + b"}"

PAYLOADS = {  # id: payload, reason
    "not-json": (b'{"type": "ok", "key": "' + NOTE.encode(), "malformed"),
    "empty": (b"", "malformed"),
    "null": (b"null", "malformed"),
    "list": (b'["ok"]', "malformed"),
    "no-type": (b'{"key": "k"}', "malformed"),
    "type-is-no-text": (b'{"type": 7}', "malformed"),
    "deep": (DEEP, "malformed"),
    "huge": (HUGE, "schema"),
    "65-bits": (b'{"type":"typed","key":"k","count":18446744073709551616}', "schema"),
    "nan": (b'{"type":"typed","key":"k","count":NaN}', "malformed"),
    "not-utf-8": (b'{"type":"ok","key":"\xff\xfe"}', "malformed"),
    "half-a-character": (b'{"type":"ok","key":"\\ud800"}', "malformed"),
    "wrong-types": (b'{"type":"typed","key":"k","count":"' + NOTE.encode() + b'"}', "schema"),
    "wrong-inside": (b'{"type":"typed","key":"k","count":1,"tags":[1]}', "schema"),
    "missing": (b'{"type":"typed","count":1}', "schema"),
    "too-large": (b'{"type":"ok","key":"k","pad":"' + b"x" * 1024 * 1024 + b'"}', "too_large"),
    "unknown-type": (b'{"type":"nobody-knows","key":"k"}', "unknown_type"),
    "zero-byte": (b'{"type":"ok","key":"\x00"}', "malformed"),
}


@pytest.mark.parametrize("rig", EVERYWHERE, indirect=True)
def test_each_piece_of_rubbish_is_one_dead_letter_with_its_reason(rig):
    rig.configure({**QUICK, "signing": "optional", "unknown_type_timeout": "2s"})
    worker = rig.worker()
    expected = {}
    for name, (payload, reason) in PAYLOADS.items():
        rig.add({**rig.entry("ok", name, number=name), "payload": payload}, key=None)
        rig.publish("ok", f"after-{name}")
        expected[name] = reason
    for name, metadata in {"meta-list": "[]", "meta-deep": "[" * 10_000, "meta-time": '{"expires_at": "soon"}'}.items():
        rig.add({**rig.entry("ok", name, number=name), "metadata": metadata}, key=None)
        expected[name] = "malformed"
    nothing_of_ours = rig.add({"colour": "green"}, key=None)
    expected[f"enormal-{nothing_of_ours}"] = "malformed"
    bad_id = rig.add({**rig.entry("ok", "k"), "id": "a b"}, key=None)
    expected[f"enormal-{bad_id}"] = "malformed"
    doubled = rig.redis.execute_command("XADD", "queue:work", "*", "payload", "{}", "payload", "{}").decode()
    expected[f"enormal-{doubled}"] = "malformed"
    rig.publish("ok", "last")
    rig.finished("last", *(f"after-{name}" for name in PAYLOADS))
    wait_until(lambda: rig.left() == 0)
    assert rig.reasons() == expected
    assert len(rig.dead()) == len(expected)
    assert not set(rig.keys_of("S")) - {"last", *(f"after-{name}" for name in PAYLOADS)}
    assert worker.code is None
    assert worker.stop() == 0


def test_corrupt_bodies_among_the_delayed_do_not_stop_the_others(rig):
    """They would be due for ever: a naive promote fails on the first one each time."""
    rig.worker()
    first, second, _ = rig.publish("ok", "cut", "gone", "whole", delay=1.5)
    rig.redis.hset("{queue:work}:delayed:messages", first.id, b"7:payload,9999:")
    rig.redis.hset("{queue:work}:delayed:messages", second.id, b"2:id,3:abc,")
    rig.finished("whole")
    rig.empty()
    assert rig.reasons() == {first.id: "malformed", second.id: "malformed"}
    assert rig.keys_of("F") == ["whole"]


def test_a_dead_letter_holds_what_is_needed_to_understand_it(rig):
    rig.configure({**QUICK, "max_retries": 1})
    worker = rig.worker()
    (receipt,) = rig.publish("fail_times", "fails", payload={"times": 9})
    rig.empty()
    wait_until(rig.dead)
    (letter,) = rig.dead()
    assert letter["original_id"] == letter["id"] == receipt.id
    assert letter["original_queue"] == letter["queue"] == "work"
    assert (letter["reason"], letter["retry_count"], letter["deliveries"]) == ("max_retries", "1", "0")
    assert letter["error"] == "RuntimeError: failure 2 of 9"
    assert "fail_times" in letter["traceback"]
    assert letter["fingerprint"] == "RuntimeError tests.e2e.app.fail_times"
    assert letter["worker"] == rig.consumer(worker)
    assert letter["signature"].startswith("v1,k1,")
    assert letter["failed_at"].isdigit()
