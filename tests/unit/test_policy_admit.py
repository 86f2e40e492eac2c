"""Before the handler: which deliveries run, and what becomes of the others, check by check."""

import itertools
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq.core import codec
from streamq.core.codec import Binding
from streamq.core.message import COUNTERS, MOST_FIELDS
from streamq.core.outcome import DeadLetter, Reason, Retry, Wait
from streamq.core.policy import Admission, admit
from streamq.core.signing import KeyRing, SigningKey
from tests.unit.builders import (
    KEYS,
    NOW_MS,
    QUEUE,
    SECRET,
    deliver,
    entry,
    handler,
    metadata,
    pay,
    queue,
    registry,
    rfc,
    signed,
    verdict,
)

HOUR_MS = 3_600_000


def judge(fields, *, config=None, keys=KEYS, handlers=None, now_ms=NOW_MS, **where):
    delivery = deliver(fields, **where)
    return admit(delivery, config or queue(), keys, handlers or registry(), now_ms)


# --- what runs


def test_a_sound_message_runs():
    """Its handler, its arguments, and everything that the handler may ask for."""
    raw = metadata(created_by="web", headers={"a": 1})
    counters = {"retry_count": "2", "deliveries": "1"}
    found = judge(signed(entry(metadata=raw, **counters)), token=2)
    assert isinstance(found, Admission)
    assert (found.handler.function, found.arguments) == (pay, {"amount": 5})
    message = found.message
    assert (message.id, message.queue, message.priority, message.type) == ("msg_1", QUEUE, "normal", "pay")
    assert (message.payload, message.metadata.created_by) == (b'{"type":"pay","amount":5}', "web")
    assert (message.retry_count, message.deliveries, message.key_id) == (2, 2, "k1")


def test_an_entry_of_the_fewest_fields_runs():
    """A plain XADD of a payload: everything else is filled in."""
    found = judge({b"payload": b'{"type":"pay","amount":5}'}, level="low")
    assert isinstance(found, Admission)
    message = found.message
    assert (message.id, message.queue, message.priority, message.key_id) == ("elow-7-0", QUEUE, "low", None)
    assert (message.retry_count, message.deliveries, message.metadata.created_at) == (0, 0, None)


@pytest.mark.parametrize(("level", "number"), [("critical", 1), ("high", 2), ("normal", 3), ("low", 4)])
def test_every_level_takes_its_own(level, number):
    """A message lies in the stream of its level, and in no other."""
    for priority in "1234":
        for sign in (signed, dict):
            expected = "runs" if priority == str(number) else "wrong_queue"
            assert verdict(judge(sign(entry(priority=priority)), level=level)) == expected


def test_arguments_are_made_for_each_delivery():
    """A handler that changes what it got changes nothing for the next one."""

    async def collect(items: list[int]): ...

    handlers = registry(handler(collect, type="collect"))
    fields = entry(payload='{"type":"collect","items":[1]}')
    first = judge(fields, handlers=handlers)
    first.arguments["items"].append(2)
    assert judge(fields, handlers=handlers).arguments == {"items": [1]}


# --- the order of the checks: size, form, queue and level, signature, expiry, delay, decoding, type, schema


def changed(fields, **new):
    return {**fields, **{name.encode(): value for name, value in new.items()}}


def with_metadata(fields, raw):
    return changed(fields, metadata=fields[b"metadata"].rstrip(b"}") + raw + b"}")


FAULTS = {
    "too_large": lambda fields: changed(fields, x=b"x" * 2000),
    "malformed": lambda fields: changed(fields, id=b"no id"),
    "wrong_queue": lambda fields: changed(fields, queue=b"emails"),
    "signature": lambda fields: changed(fields, signature=fields[b"signature"][:-1] + b"!"),
    "expired": lambda fields: with_metadata(fields, b',"expires_at":"2020-01-01T00:00:00Z"'),
    "held": lambda fields: with_metadata(fields, b',"delay_until":"2030-01-01T00:00:00Z"'),
    "payload": lambda fields: changed(fields, payload=b'{"type":"pay",'),
    "type": lambda fields: changed(fields, payload=fields[b"payload"].replace(b'"pay"', b'"nobody"')),
    "schema": lambda fields: changed(fields, payload=fields[b"payload"].replace(b"5", b'"5"')),
}
VERDICTS = {"signature": "bad_signature", "payload": "malformed", "type": "held"}


def with_faults(names):
    fields = entry(metadata='{"created_by":"web"}')
    for name in reversed(names):  # what is broken in the payload is built from the inside out
        if name != "signature":
            fields = FAULTS[name](fields)
    fields = signed(fields)
    return FAULTS["signature"](fields) if "signature" in names else fields


@pytest.mark.parametrize(
    "names", [*itertools.combinations(FAULTS, 1), *itertools.combinations(FAULTS, 2)], ids="+".join
)
def test_the_first_fault_is_the_one_that_is_told(names):
    """Of two faults the one that is checked first decides, for every pair."""
    found = judge(with_faults(names), config=queue(max_size=1500, signing="required"))
    assert verdict(found) == VERDICTS.get(names[0], names[0])
    if "held" in (names[0], VERDICTS.get(names[0])):
        assert isinstance(found, Retry)
        assert ("nobody" in found.error) == (names[0] == "type")


def test_all_faults_at_once():
    """From the outermost check inwards, each shows only when those before it are mended."""
    names = list(FAULTS)
    told = [
        verdict(judge(with_faults(names[n:]), config=queue(max_size=1500, signing="required")))
        for n in range(len(names))
    ]
    assert told == [VERDICTS.get(name, name) for name in names]
    assert verdict(judge(with_faults(()), config=queue(max_size=1500, signing="required"))) == "runs"


@pytest.mark.parametrize("name", ["too_large", "malformed", "wrong_queue", "signature"])
def test_nothing_is_decoded_before_the_signature_holds(name, monkeypatch):
    """Neither metadata nor payload: whoever has no key reaches no decoder."""

    def decoder(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(codec, "decode_metadata", decoder)
    monkeypatch.setattr(codec, "decode_type", decoder)
    monkeypatch.setattr(Binding, "arguments", decoder)
    config = queue(max_size=1500, signing="required")
    assert isinstance(judge(with_faults([name]), config=config), DeadLetter)
    for fields in (entry(), signed(entry(), "k9")):
        judge(fields, config=config)
    with pytest.raises(AssertionError, match="decoded"):
        judge(signed(entry()), config=config)


# --- size


def sized(size):
    fields = entry(x="")
    return changed(fields, x=b"x" * (size - deliver(fields).size))


@pytest.mark.parametrize(
    ("max_size", "size", "expected"),
    [
        (1000, 1000, "runs"),
        (1000, 1001, "too_large"),
        (2**20, 2**20, "runs"),
        (2**20, 2**20 + 1, "too_large"),
        (2**30, 2**20, "runs"),
        (2**30, 2**20 + 1, "too_large"),  # whatever the queue says
        (256 * 1024, 256 * 1024 + 1, "too_large"),
    ],
)
def test_size(max_size, size, expected):
    """All fields together, also those that nobody knows, up to the queue's limit and never above a MiB."""
    assert verdict(judge(sized(size), config=queue(max_size=max_size))) == expected


def test_a_retried_message_is_as_small_as_it_was():
    """Accepted at the limit, it runs again after a failure, a loss and a hold, with our counters beside it."""
    counters = dict.fromkeys(COUNTERS, b"1")
    assert verdict(judge(sized(1000) | counters, config=queue(max_size=1000))) == "runs"
    assert verdict(judge(sized(1001) | counters, config=queue(max_size=1000))) == "too_large"


# --- form


UNFORMED = {
    "no field": {},
    "no payload": entry(without=("payload",)),
    "empty id": entry(id=""),
    "id with a space": entry(id="a b"),
    "id with a line end": entry(id="a\n"),
    "id that is no text": entry(id=b"\xff"),
    "long id": entry(id="x" * 129),
    **{f"priority {text!r}": entry(priority=text) for text in ("", "0", "5", "03", "3 ", "3\n", "normal")},
    "doubled payload": [b"payload", b"{}", b"payload", b"{}"],
    "doubled unknown field": [b"payload", b'{"type":"pay","amount":5}', b"x", b"1", b"x", b"1"],
    "too many fields": {**entry(), **{b"%d" % n: b"" for n in range(MOST_FIELDS)}},
}


@pytest.mark.parametrize("fields", UNFORMED.values(), ids=UNFORMED)
@pytest.mark.parametrize("signing", ["optional", "required"])
def test_malformed(fields, signing):
    """A field that is missing, unusable or doubled, or more fields than can be carried on."""
    assert verdict(judge(fields, config=queue(signing=signing))) == "malformed"


def test_as_many_fields_as_can_be_carried_on():
    """The limit of the scripts that rewrite entries."""
    fields = {**entry(), **{b"%d" % n: b"" for n in range(MOST_FIELDS - 5)}}
    assert len(fields) == 3500
    assert verdict(judge(fields)) == "runs"


@pytest.mark.parametrize("name", ["id", "queue", "priority"])
def test_what_is_signed_cannot_be_filled_in(name):
    """Without a signature an absent field has a meaning; with one the entry is malformed."""
    assert verdict(judge(entry(without=(name,)))) == "runs"
    partial = {key: value for key, value in signed(entry()).items() if key != name.encode()}
    assert verdict(judge(partial)) == "malformed"


# --- queue


@pytest.mark.parametrize("name", [b"", b"emails", b"Orders", b"orders ", b"order", b"\xff"])
def test_another_queues_message(name):
    """What names another queue is not run here, signed or not."""
    assert verdict(judge(entry(queue=name))) == "wrong_queue"
    assert verdict(judge(signed(entry(queue=name)))) == "wrong_queue"


# --- signature

ALL_KEYS = KeyRing((SigningKey("k1", "active", SECRET), SigningKey("k9", "revoked", SECRET)))


@pytest.mark.parametrize(
    ("fields", "keys", "optional", "required"),
    [
        (entry(), ALL_KEYS, "runs", "unsigned"),
        (entry(), KeyRing(), "runs", "unsigned"),
        (signed(entry()), ALL_KEYS, "runs", "runs"),
        (entry(signature=""), ALL_KEYS, "bad_signature", "bad_signature"),
        (entry(signature="v1,k1,x"), ALL_KEYS, "bad_signature", "bad_signature"),
        (signed(entry(), "k1", bytes(32)), ALL_KEYS, "bad_signature", "bad_signature"),
        (signed(entry(), "k9"), ALL_KEYS, "revoked_key", "revoked_key"),
        (signed(entry(), "k2"), ALL_KEYS, "held", "held"),
        (signed(entry()), KeyRing(), "held", "held"),
        (entry(signature="?"), KeyRing(), "bad_signature", "bad_signature"),
    ],
)
def test_signing_modes(fields, keys, optional, required):
    """`required` refuses unsigned messages; a signature that is there must hold in either mode."""
    assert verdict(judge(fields, keys=keys)) == optional
    assert verdict(judge(fields, keys=keys, config=queue(signing="required"))) == required


# --- expiry


@pytest.mark.parametrize(
    ("members", "max_age", "expected"),
    [
        ({}, None, "runs"),
        ({}, 60.0, "runs"),
        ({"expires_at": rfc(NOW_MS + 1)}, None, "runs"),
        ({"expires_at": rfc(NOW_MS)}, None, "expired"),
        ({"expires_at": rfc(NOW_MS - 1)}, None, "expired"),
        ({"expires_at": "2027-01-15T09:00:00.001+01:00"}, None, "runs"),
        ({"expires_at": "2027-01-15T09:00:00+01:00"}, None, "expired"),
        ({"expires_at": "2027-01-15T08:00:00.001"}, None, "runs"),  # without a zone: UTC, wherever the worker stands
        ({"expires_at": "2027-01-15T08:00:00"}, None, "expired"),
        ({"expires_at": "0001-01-01T00:00:00+23:59"}, None, "expired"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, None, "runs"),
        ({"created_at": rfc(0)}, None, "runs"),
        ({"created_at": rfc(NOW_MS - 60_000)}, 60.0, "runs"),
        ({"created_at": rfc(NOW_MS - 60_001)}, 60.0, "expired"),
        ({"created_at": rfc(NOW_MS + 60_000)}, 60.0, "runs"),
        ({"created_at": rfc(NOW_MS - 60_001), "expires_at": rfc(NOW_MS + 1)}, 60.0, "expired"),
        ({"created_at": rfc(NOW_MS), "expires_at": rfc(NOW_MS)}, 60.0, "expired"),
    ],
)
def test_expiry(members, max_age, expected):
    """Not after `expires_at`, and not when it is older than the queue's `max_age`."""
    found = judge(entry(metadata=metadata(**members)), config=queue(max_age=max_age))
    assert verdict(found) == expected


def test_a_worker_in_another_time_zone(monkeypatch):
    """A time without a zone means the same on every machine."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        found = [judge(entry(metadata=metadata(expires_at=f"2027-01-15T08:00:00{ms}"))) for ms in (".001", "")]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert [verdict(one) for one in found] == ["runs", "expired"]


def test_expired_says_when():
    """The dead letter tells what was too late."""
    found = judge(entry(metadata=metadata(expires_at=rfc(NOW_MS - 1))))
    assert found.error == "expired at 2027-01-15T07:59:59.999000+00:00"
    found = judge(entry(metadata=metadata(created_at=rfc(NOW_MS - 90_000))), config=queue(max_age=60.0))
    assert found.error == "90 s old, max_age is 60 s"


# --- a delay that a plain XADD asked for


@pytest.mark.parametrize(
    ("ahead_ms", "extra", "wait_ms"),
    [
        (1, {}, 1),
        (60_000, {}, 60_000),
        (0, {}, None),
        (-1, {}, None),
        (60_000, {"deliveries": "0"}, None),  # it has waited: only the clocks differ
        (60_000, {"deliveries": "3"}, None),
        (60_000, {"retry_count": "3"}, 60_000),
        (60_000, {"held_since": "5"}, 60_000),
    ],
)
@pytest.mark.parametrize("sign", [signed, dict])
def test_a_foreign_delay(ahead_ms, extra, wait_ms, sign):
    """An entry whose time lies ahead goes to the delayed ones, once, and without the clock of a hold."""
    found = judge(sign(entry(metadata=metadata(delay_until=rfc(NOW_MS + ahead_ms)), **extra)), token=2)
    if wait_ms is None:
        assert verdict(found) == "runs"
    else:
        assert found == Retry(Wait.HELD, wait_ms, int(extra.get("retry_count", 0)), deliveries=1, held_since=0)


# --- decoding


@pytest.mark.parametrize(
    "fields",
    [
        entry(payload=""),
        entry(payload="[]"),
        entry(payload='{"amount":5}'),
        entry(payload='{"type":5}'),
        entry(payload=b'{"type":"pay","amount":5,"x":"\xff"}'),
        entry(payload=b'{"type":"pay","amount":5,"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
        entry(metadata=""),
        entry(metadata="null"),
        entry(metadata='{"timeout":"5s"}'),
        entry(metadata=b'{"x":"\xff"}'),
        entry(metadata=b'{"headers":{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}}"),
    ],
    ids=lambda fields: ascii(fields[b"payload"])[:40] + ascii(fields[b"metadata"])[:40],
)
@pytest.mark.parametrize("sign", [signed, dict])
def test_what_cannot_be_decoded_is_malformed(fields, sign):
    """Signed or not; the dead letter says what was wrong."""
    found = judge(sign(fields))
    assert verdict(found) == "malformed"
    assert found.error


class Picky(msgspec.Struct):
    """Its own code raises what msgspec does not know."""

    amount: int

    def __post_init__(self):
        raise KeyError(self.amount)


def test_what_the_users_own_type_raises_is_a_schema_error():
    """A payload that brings it about does not end the worker."""

    async def picky(order: Picky): ...

    found = judge(entry(), handlers=registry(handler(picky)))
    assert (verdict(found), found.error) == ("schema", "ValueError: KeyError: 5")


@pytest.mark.parametrize(
    "payload",
    ['{"type":"pay"}', '{"type":"pay","amount":"5"}', '{"type":"pay","amount":null}', '{"type":"pay","amount":1e400}',
     '{"type":"pay","amount":9223372036854775808}', '{"type":"pay","amount":' + "9" * 5000 + "}"],
    ids=lambda payload: payload[:50],
)  # fmt: skip
def test_what_does_not_fit_the_handler_is_a_schema_error(payload):
    """The dead letter says what was expected; the handler is not called."""
    found = judge(entry(payload=payload, retry_count="2"))
    assert (verdict(found), found.retry_count) == ("schema", 2)
    assert found.error.startswith("ValidationError: ")


def test_dead_letters_of_admit_carry_the_retries():
    """Also a message that is refused later than its first run says how often it was retried."""
    for fields in (sized(3000), entry(id=""), entry(queue="x"), entry(payload="")):
        assert judge({**fields, b"retry_count": b"2"}, config=queue(max_size=2000)).retry_count == 2


# --- holding back


def held(age_ms, *, reason, **values):
    since = {} if age_ms is None else {"held_since": str(NOW_MS - age_ms)}
    fields = {
        "unknown_type": entry(payload='{"type":"new"}', **since, **values),
        "unknown_key": signed(entry(**since, **values), "k2"),
    }[reason]
    return judge(fields, config=queue(unknown_type_timeout=3600.0, unknown_key_timeout=600.0), token=3)


@pytest.mark.parametrize("reason", ["unknown_type", "unknown_key"])
@pytest.mark.parametrize(
    ("age_ms", "delay_ms"),
    [(None, 5000), (0, 5000), (1, 5000), (10_000, 5000), (10_002, 5001), (60_000, 30_000), (119_998, 59_999),
     (120_000, 60_000), (500_000, 60_000), (540_000, 60_000)],
)  # fmt: skip
def test_the_waits_of_a_hold(reason, age_ms, delay_ms):
    """Half of its age, at least 5 s and at most a minute, and nothing else about the message changes."""
    found = held(age_ms, reason=reason, retry_count="2", deliveries="1", alone="1")
    since = NOW_MS - (age_ms or 0)
    assert found == Retry(Wait.HELD, delay_ms, 2, deliveries=3, held_since=since, alone=1, error=found.error)


@pytest.mark.parametrize(("reason", "limit_ms"), [("unknown_type", HOUR_MS), ("unknown_key", 600_000)])
def test_the_end_of_a_hold(reason, limit_ms):
    """The last wait ends with the limit; at the limit it is a dead letter with the reason of its own limit."""
    assert [held(limit_ms - left, reason=reason).delay_ms for left in (60_000, 59_999, 5000, 1)] == [
        60_000, 59_999, 5000, 1,
    ]  # fmt: skip
    for age in (limit_ms, limit_ms + 1, 10 * limit_ms):
        found = held(age, reason=reason, retry_count="2")
        assert (found.reason, found.retry_count) == (Reason(reason), 2)
        assert found.error


def test_a_hold_can_be_switched_off():
    """A limit of 0 makes a dead letter at once."""
    config = queue(unknown_type_timeout=0.0, unknown_key_timeout=0.0)
    assert verdict(judge(entry(payload='{"type":"new"}'), config=config)) == "unknown_type"
    assert verdict(judge(signed(entry(), "k2"), config=config)) == "unknown_key"


@pytest.mark.parametrize("since", [str(NOW_MS + 1), "9999999999999999", "x", "", "-5", "0"])
def test_a_hold_that_began_in_the_future_begins_now(since):
    """Nobody can write a time that keeps a message circling for ever."""
    found = judge(entry(payload='{"type":"new"}', held_since=since))
    assert (found.held_since, found.delay_ms) == (NOW_MS, 5000)


def test_a_hold_says_what_is_missing():
    """The log and the dead letter name the type, and no more of a message whose key is unknown."""
    assert held(0, reason="unknown_type").error == "no handler for type 'new'"
    assert held(HOUR_MS, reason="unknown_type").error == "no handler for type 'new'"
    assert "key" in held(0, reason="unknown_key").error
    assert "key" in held(HOUR_MS, reason="unknown_key").error


def test_a_type_of_another_queue_is_unknown():
    """A handler serves the queues that it names."""
    handlers = registry(handler(queues=("emails",)))
    assert verdict(judge(entry(), handlers=handlers)) == "held"


# --- whatever bytes there are

VALUES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"{}", b'{"type":"pay","amount":5}', b"3", b"1", b"orders", b"v1,k1,x", b"9" * 16, b"null"]),
)
NAMES = st.sampled_from(
    ["id", "queue", "priority", "payload", "metadata", "signature", *(n.decode() for n in COUNTERS)]
)


@given(st.dictionaries(NAMES, VALUES), st.sampled_from(["required", "optional"]), st.integers(1, 2000))
def test_any_entry_gets_a_verdict(fields, signing, token):
    """Whatever stands in an entry, it runs or becomes an outcome; unsigned it never runs where signing is required."""
    config = queue(signing=signing, max_age=60.0)
    found = judge({name.encode(): value for name, value in fields.items()}, config=config, token=token)
    assert isinstance(found, Admission | DeadLetter | Retry)
    if signing == "required" or "signature" in fields:
        assert not isinstance(found, Admission)
    if isinstance(found, Retry):
        assert found.delay_ms > 0
        assert min(found.retry_count, found.deliveries, found.held_since, found.alone) >= 0
