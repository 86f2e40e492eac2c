"""Entries that did not come from our publisher: who signed, what was changed on the way, and what may be left out."""

import base64
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.places import EVERYWHERE
from tests.e2e.rig import KEYS, QUICK, SECRET
from tests.support import wait_until

pytestmark = pytest.mark.e2e

OTHER_SECRET = b"another-secret-of-32-bytes-or-so."
REVOKED = f"old:revoked:{base64.b64encode(OTHER_SECRET).decode()}"
SECOND = f"k2:accepted:{base64.b64encode(OTHER_SECRET).decode()}"


def without(fields, *names):
    return {name: value for name, value in fields.items() if name not in names}


@pytest.mark.parametrize("rig", EVERYWHERE, indirect=True)
def test_a_signature_is_made_and_checked_as_the_protocol_says(rig):
    """Each forgery is one dead letter with its reason; nothing of it runs; the honest ones around it do."""
    rig.keys = f"{KEYS},{REVOKED}"
    rig.worker()
    good = rig.entry("ok", "good")
    rig.add(good)
    signed = {**good, "signature": rig.signature(good)}
    for name, value in {
        "payload": good["payload"].replace("good", "evil"), "metadata": '{"max_retries":99}', "id": "other-id"
    }.items():  # fmt: skip
        rig.add({**signed, name: value, "id": f"tampered-{name}"}, key=None)
    rig.add({**good, "id": "cut", "signature": rig.signature({**good, "id": "cut"})[:-1]}, key=None)
    rig.add({**good, "id": "version", "signature": "v2" + rig.signature({**good, "id": "version"})[2:]}, key=None)
    rig.add({**good, "id": "wrong-secret"}, key=("k1", OTHER_SECRET))
    rig.add({**good, "id": "revoked"}, key=("old", OTHER_SECRET))
    rig.add({**good, "id": "unsigned"}, key=None)
    elsewhere = {**good, "id": "of-another-queue", "queue": "other"}
    rig.add(elsewhere)
    rig.add({**elsewhere, "id": "relabelled", "queue": "work", "signature": rig.signature(elsewhere)}, key=None)
    rig.add({**good, "id": "other-level", "priority": "1"})
    rig.add({**good, "id": "no-level", "priority": "9"})
    rig.add(rig.entry("ok", "last"))
    rig.finished("good", "last")
    rig.empty()
    assert rig.reasons() == {
        "tampered-payload": "bad_signature", "tampered-metadata": "bad_signature", "tampered-id": "bad_signature",
        "cut": "bad_signature", "version": "bad_signature", "wrong-secret": "bad_signature", "revoked": "revoked_key",
        "unsigned": "unsigned", "of-another-queue": "wrong_queue", "relabelled": "bad_signature",
        "other-level": "wrong_queue", "no-level": "malformed",
    }  # fmt: skip
    assert rig.keys_of("S") == ["good", "last"]


def test_a_stranger_may_leave_out_what_he_does_not_know(rig):
    """Where signatures are optional: no id, no priority, no metadata, no queue. A wrong signature is still wrong."""
    rig.configure({**QUICK, "signing": "optional"})
    rig.worker()
    for key, missing in {
        "bare": ("id", "priority", "metadata", "queue"),
        "no-id": ("id",),
        "no-level": ("priority",),
    }.items():
        rig.add(without(rig.entry("ok", key), *missing), key=None)
    rig.add(without(rig.entry("fail_times", "fails", payload={"times": 1}), "id"), key=None)
    rig.add(rig.entry("ok", "unknown-fields"), key=None, colour="green", retry_count="-1", deliveries="x")
    rig.add(without(rig.entry("ok", "signed-without-id"), "id"), key=None, signature="v1,k1,x")
    forged = rig.entry("ok", "forged")
    rig.add(forged, key=("k1", OTHER_SECRET))
    rig.finished("bare", "no-id", "no-level", "fails", "unknown-fields")
    rig.empty()
    assert set(rig.keys_of("F")) == {"bare", "no-id", "no-level", "fails", "unknown-fields"}
    assert sorted(rig.reasons().values()) == ["bad_signature", "malformed"]
    assert [line.attempt for line in rig.journal if line.key == "fails" and line.event == "S"] == [1, 2]


def test_a_delay_that_a_stranger_asks_for_is_kept(rig):
    """A plain XADD puts the entry where it is ready; the worker puts it where it waits."""
    rig.worker()
    due = datetime.now(UTC) + timedelta(seconds=3)
    rig.add(rig.entry("ok", "later", metadata={"delay_until": due.isoformat()}))
    rig.add(rig.entry("ok", "past", metadata={"delay_until": "2020-01-01T00:00:00Z"}))
    rig.add(rig.entry("ok", "expired", metadata={"expires_at": "2020-01-01T00:00:00Z"}))
    rig.finished("past")
    wait_until(lambda: rig.redis.zcard("{queue:work}:delayed") == 1)
    assert rig.keys_of("S") == ["past"]
    rig.finished("later")
    assert datetime.now(UTC) >= due
    rig.empty()
    assert rig.reasons() == {"foreign-expired": "expired"}


def test_an_unknown_key_waits_for_a_worker_that_has_it(rig):
    """A key is never known everywhere at once."""
    rig.configure({**QUICK, "unknown_key_timeout": "60s"})
    ignorant = rig.worker()
    rig.add(rig.entry("ok", "early"), key=("k2", OTHER_SECRET))
    wait_until(lambda: rig.ledger().get("held") == 1)
    rig.keys = f"{KEYS},{SECOND}"
    rig.worker()
    ignorant.stop()
    rig.finished("early")
    rig.empty()
    assert rig.dead() == []


def test_a_key_that_nobody_has_makes_a_dead_letter_in_the_end(rig):
    rig.configure({**QUICK, "unknown_key_timeout": "2s"})
    rig.worker()
    rig.add(rig.entry("ok", "strange"), key=("k9", OTHER_SECRET))
    rig.publish("ok", "next")
    rig.finished("next")
    rig.empty()
    assert rig.reasons() == {"foreign-strange": "unknown_key"}
    assert rig.keys_of("S") == ["next"]
    assert SECRET.decode() not in str(rig.dead())
