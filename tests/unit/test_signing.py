"""Signatures, against an implementation that was written from the protocol alone (foreign_signer.py)."""

import base64
import hmac
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq.core.errors import ConfigError
from streamq.core.outcome import Reason
from streamq.core.policy import Admission, admit
from streamq.core.signing import KeyRing, SigningKey, derive, key_id_of
from tests.unit.builders import KEY, KEYS, NOW_MS, QUEUE, SECRET, deliver, entry, queue, registry, signed
from tests.unit.foreign_signer import SIGNED, sign

OTHER = bytes(range(100, 132))
ROOT = base64.b64encode(SECRET).decode()
BASE64 = string.ascii_letters + string.digits + "-_"


def ring(*keys):
    """Keys from tuples of id, state and, where they differ, secret and queue."""
    return KeyRing(tuple(SigningKey(*key[:2], *(key[2:] or (SECRET,))) for key in keys))


def admitted(fields, keys=KEYS):
    found = admit(deliver(fields), queue(signing="required"), keys, registry(), NOW_MS)
    return isinstance(found, Admission)


# --- the bytes


def test_a_known_signature():
    """Fixed bytes: neither implementation can change without breaking what is stored already."""
    fields = entry()
    assert sign(fields, "k1", SECRET) == b"v1,k1,As5zDBmjftkGtOdXKe008167zMbDt7AzcSKerGWwV4E"
    assert KEY.signature(QUEUE, fields) == sign(fields, "k1", SECRET)


@given(
    st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=300), st.text(BASE64, min_size=1, max_size=32)
)
def test_both_implementations_agree(message_id, priority, payload, key_id):
    """On whatever bytes the fields hold."""
    fields = entry(id=message_id, priority=priority, payload=payload, metadata=payload[::-1])
    assert SigningKey(key_id, "active", SECRET).signature(QUEUE, fields) == sign(fields, key_id, SECRET)


def test_what_others_sign_is_accepted():
    """A foreign producer's signature holds, with every form of key, and runs the handler."""
    fields = entry()
    assert admitted(signed(fields))
    assert admitted(signed(fields, "k-2_x", OTHER), ring(("k1", "active"), ("k-2_x", "accepted", OTHER)))


def test_the_form_of_a_signature():
    """Version, key id and 43 characters of base64url without padding."""
    version, key_id, mac = KEY.signature(QUEUE, entry()).decode().split(",")
    assert (version, key_id, len(mac)) == ("v1", "k1", 43)
    assert set(mac) <= set(BASE64)


# --- what is refused


def flips(raw):
    """All byte strings that differ from this one in a single bit."""
    for at in range(len(raw)):
        for bit in range(8):
            yield raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]


@pytest.mark.parametrize("name", [*SIGNED, "signature"])
def test_every_bit_counts(name):
    """No message survives the change of any single bit of a signed field or of its signature."""
    fields = signed(entry(payload='{"type":"pay","amount":12}', metadata='{"max_retries":5}'))
    assert admitted(fields)
    changed = list(flips(fields[name.encode()]))
    assert len(changed) == 8 * len(fields[name.encode()])
    for raw in changed:
        wrong = {**fields, name.encode(): raw}
        assert KEYS.verify(QUEUE, wrong) is not None, raw
        assert not admitted(wrong), raw


@pytest.mark.parametrize("name", [*SIGNED, "signature"])
def test_every_length_counts(name):
    """Nor a byte more or less, at any place, nor the loss of the field."""
    fields = signed(entry())
    raw = fields[name.encode()]
    shorter = [raw[:at] + raw[at + 1 :] for at in range(len(raw))]
    longer = [raw[:at] + extra + raw[at:] for at in range(len(raw) + 1) for extra in (b"\x00", b"=", b" ", b"\n", b"A")]
    for wrong in [*shorter, *longer, b""]:
        assert not admitted({**fields, name.encode(): wrong}), wrong
    assert not admitted({other: value for other, value in fields.items() if other != name.encode()})


def test_bytes_do_not_wander_between_fields():
    """The lengths are signed: moving the border between two fields breaks the signature."""
    one = signed(entry(id="ab", payload=b"{}", metadata=b"cd"))
    for moved in ({"id": b"a", "queue": b"b" + QUEUE.encode()}, {"payload": b"{}c", "metadata": b"d"}):
        wrong = {**one, **{name.encode(): value for name, value in moved.items()}}
        assert KEYS.verify(QUEUE, wrong) is Reason.BAD_SIGNATURE
    swapped = {**one, b"payload": one[b"metadata"], b"metadata": one[b"payload"]}
    assert KEYS.verify(QUEUE, swapped) is Reason.BAD_SIGNATURE


def test_another_text_of_the_same_mac_is_refused():
    """Base64 with other spare bits decodes to the same bytes, and is not the same signature."""
    fields = signed(entry())
    text = fields[b"signature"]
    mac = base64.urlsafe_b64decode(text[-43:] + b"=")
    twins = [
        text[:-1] + last.encode()
        for last in BASE64
        if base64.urlsafe_b64decode(text[-43:-1] + last.encode() + b"=") == mac
    ]
    assert len(twins) == 4
    assert [admitted({**fields, b"signature": twin}) for twin in twins].count(True) == 1
    for other in (text + b"=", b"v1,k1," + mac.hex().encode(), text.replace(b"v1", b"V1"), text.upper(), text + b","):
        assert KEYS.verify(QUEUE, {**fields, b"signature": other}) is Reason.BAD_SIGNATURE


def test_unsigned_fields_may_change():
    """Counters and what nobody knows are not covered: a retry keeps its signature."""
    assert admitted(signed(entry()) | {b"retry_count": b"2", b"deliveries": b"1", b"held_since": b"5", b"x": b"y"})


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        (b"", "bad_signature"),
        (b"v1", "bad_signature"),
        (b"v1,", "bad_signature"),
        (b"v1,,", "bad_signature"),
        (b"v1,k1", "bad_signature"),
        (b"v1,k1,", "bad_signature"),
        (b"k1," + b"A" * 43, "bad_signature"),
        (b"v2,k1," + b"A" * 43, "bad_signature"),
        (b" v1,k1," + b"A" * 43, "bad_signature"),
        (b"v1,k1," + b"A" * 43, "bad_signature"),
        (b"v1,k1\n," + b"A" * 43, "bad_signature"),
        (b"v1,k 1," + b"A" * 43, "bad_signature"),
        (b"v1,\xff," + b"A" * 43, "bad_signature"),
        (b"v1,\xef\xbd\x8b1," + b"A" * 43, "bad_signature"),
        (b"v1,k1@orders," + b"A" * 43, "bad_signature"),
        (b"v1," + b"k" * 33 + b"," + b"A" * 43, "bad_signature"),
        (b"v1," + b"k" * 32 + b"," + b"A" * 43, "unknown_key"),
        (b"v1,k2," + b"A" * 43, "unknown_key"),
        (b"v1,K1," + b"A" * 43, "unknown_key"),
        (b"v1,k2", "unknown_key"),
        (b"v1,k9," + b"A" * 43, "revoked_key"),
        (b"v1,k9,\xff", "revoked_key"),
    ],
)
def test_why_a_signature_does_not_hold(signature, reason):
    """Bytes that are no signature, a key that nobody has, a key that is revoked: three different fates."""
    keys = ring(("k1", "active"), ("k9", "revoked"))
    assert keys.verify(QUEUE, {**entry(), b"signature": signature}) == reason


def test_signatures_are_compared_in_constant_time(monkeypatch):
    """As text, by compare_digest: how long a refusal takes tells nothing about the right signature."""
    compared = []

    def spy(one, other):
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("streamq.core.signing.hmac.compare_digest", spy)
    fields = signed(entry())
    wrong = fields[b"signature"][:-1] + b"!"
    assert KEYS.verify(QUEUE, {**fields, b"signature": wrong}) is Reason.BAD_SIGNATURE
    assert compared == [(wrong, fields[b"signature"])]


# --- which key


@pytest.mark.parametrize(("state", "reason"), [("active", None), ("accepted", None), ("revoked", "revoked_key")])
def test_states(state, reason):
    """`active` and `accepted` verify, `revoked` refuses even what was signed rightly."""
    assert ring(("k1", state)).verify(QUEUE, signed(entry())) == reason


def test_only_the_named_key_is_tried():
    """A signature of one key under the name of another does not hold, whatever other keys there are."""
    keys = ring(("k1", "active"), ("k2", "active", OTHER))
    fields = entry()
    forged = sign(fields, "k2", OTHER).replace(b"k2", b"k1")
    assert keys.verify(QUEUE, {**fields, b"signature": forged}) is Reason.BAD_SIGNATURE
    same = ring(("k1", "active"), ("k2", "active"))  # the key id itself is signed
    renamed = sign(fields, "k1", SECRET).replace(b"k1", b"k2")
    assert same.verify(QUEUE, {**fields, b"signature": renamed}) is Reason.BAD_SIGNATURE


def test_a_signature_is_good_for_one_queue():
    """Moved to another queue, with or without its name, a message does not verify."""
    fields = signed(entry())
    assert KEYS.verify("emails", fields) is Reason.BAD_SIGNATURE
    assert KEYS.verify("emails", {**fields, b"queue": b"emails"}) is Reason.BAD_SIGNATURE


def test_the_key_of_one_queue():
    """A producer that was given it can sign for that queue alone, and the root key verifies it."""
    derived = derive(SECRET, QUEUE)
    assert derived == hmac.digest(SECRET, b"streamq.v1.sign.orders", "sha256")
    given = ring(("k1", "active", derived, QUEUE))
    fields = signed(entry(), secret=derived, derived=True)
    assert fields == signed(entry())
    assert (KEYS.verify(QUEUE, fields), given.verify(QUEUE, fields)) == (None, None)
    assert given.verify(QUEUE, {**entry(), b"signature": given.keys[0].signature(QUEUE, entry())}) is None
    assert given.verify("emails", fields) is Reason.UNKNOWN_KEY
    assert (given.signer(QUEUE), given.signer("emails")) == (given.keys[0], None)
    assert (given.keys[0].covers(QUEUE), given.keys[0].covers("emails"), KEY.covers("emails")) == (True, False, True)


@pytest.mark.parametrize("order", [1, -1])
def test_the_key_of_a_queue_beats_the_root_of_the_same_name(order):
    """In whatever order they are configured, the nearer one is the one that is named."""
    derived = derive(OTHER, QUEUE)
    keys = ring(*[("k1", "active"), ("k1", "revoked", derived, QUEUE)][::order])
    assert keys.verify(QUEUE, signed(entry())) is Reason.REVOKED_KEY
    elsewhere = entry(queue="emails")
    assert keys.verify("emails", signed(elsewhere)) is None


def test_who_signs():
    """The first active key that covers the queue, in the order of the configuration."""
    keys = ring(
        ("k0", "accepted"), ("k1", "active", SECRET, "emails"), ("k2", "revoked"), ("k3", "active"), ("k4", "active"),
    )  # fmt: skip
    assert [keys.signer(name).key_id for name in ("emails", "orders")] == ["k1", "k3"]
    assert ring(("k0", "accepted"), ("k2", "revoked")).signer(QUEUE) is None
    assert KeyRing().signer(QUEUE) is None


def test_the_key_that_signed_can_be_named():
    """Once it holds, a signature tells whose it was."""
    assert key_id_of(KEY.signature(QUEUE, entry())) == "k1"


def test_the_key_of_a_queue_is_derived_once(monkeypatch):
    """Verifying costs one HMAC a message, not two; and each queue has its own."""
    derived = []

    def spy(secret, name):
        derived.append(name)
        return derive(secret, name)

    monkeypatch.setattr("streamq.core.signing.derive", spy)
    keys = ring(("k1", "active"))
    for name in (QUEUE, "emails", QUEUE, "emails"):
        assert keys.verify(name, signed(entry(queue=name))) is None
    assert derived == [QUEUE, "emails"]


def test_a_ring_knows_whether_it_is_empty():
    """Without a key nothing is signed, and a worker warns."""
    assert (bool(KEYS), bool(KeyRing())) == (True, False)


def test_secrets_do_not_show():
    """Neither a key nor a ring repeats its secret, also not after it was used."""
    keys = ring(("k1", "active"), ("k2", "revoked", OTHER, "emails"))
    keys.verify(QUEUE, signed(entry()))
    assert repr(keys) == "<KeyRing [<SigningKey k1 active>, <SigningKey k2@emails revoked>]>"
    assert not hasattr(keys.keys[0], "__dict__")


# --- reading keys


def parsed(text):
    return [(key.key_id, key.state, key._secret, key.queue) for key in KeyRing.parse(text).keys]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (f"k1:active:{ROOT}", [("k1", "active", SECRET, None)]),
        (f" k1:active:{ROOT} ,, ", [("k1", "active", SECRET, None)]),
        (f"k1:active:{ROOT.rstrip('=')}", [("k1", "active", SECRET, None)]),
        (f"k1:accepted:{ROOT}\r\nk2:revoked:{ROOT}\n",
         [("k1", "accepted", SECRET, None), ("k2", "revoked", SECRET, None)]),
        (f"k1@a.b-c_d:active:{ROOT}", [("k1", "active", SECRET, "a.b-c_d")]),
        (f"k1:active:{ROOT},k1@a:active:{ROOT},k1@b:active:{ROOT}",
         [("k1", "active", SECRET, name) for name in (None, "a", "b")]),
        (f"{'k' * 32}:active:{ROOT}", [("k" * 32, "active", SECRET, None)]),
        (f"A-z_9:active:{ROOT}", [("A-z_9", "active", SECRET, None)]),
        ("", []),
        (" \n, ", []),
    ],
)  # fmt: skip
def test_keys_as_they_are_written(text, keys):
    """Commas or lines, in their order; base64 with or without padding."""
    assert parsed(text) == keys


@given(st.binary(min_size=32, max_size=100), st.booleans(), st.booleans())
def test_secrets_in_either_alphabet(secret, url, padded):
    """Both alphabets of base64, padded or not, give the bytes back."""
    text = (base64.urlsafe_b64encode if url else base64.b64encode)(secret).decode()
    assert parsed(f"k1:active:{text if padded else text.rstrip('=')}") == [("k1", "active", secret, None)]


SHORT = base64.b64encode(bytes(31)).decode()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("k1", "entry 1: expected KEYID:STATE:BASE64"),
        (f"k1:{ROOT}", "entry 1: expected KEYID:STATE:BASE64"),
        (f"k1:active:{ROOT}:x", "entry 1: expected KEYID:STATE:BASE64"),
        (f"k1:active:{ROOT},k2", "entry 2: expected KEYID:STATE:BASE64"),
        (f"k1:active:{ROOT},,\nk2:x:{ROOT}", "entry 2: the state should be one of active, accepted, revoked"),
        (f"k1:ACTIVE:{ROOT}", "entry 1: the state should be"),
        (f"k1::{ROOT}", "entry 1: the state should be"),
        (f":active:{ROOT}", "entry 1: a key id has 1 to 32 characters"),
        (f"k 1:active:{ROOT}", "entry 1: a key id has"),
        (f"k,1:active:{ROOT}", "entry 1: expected"),
        (f"{'k' * 33}:active:{ROOT}", "entry 1: a key id has"),
        (f"ä:active:{ROOT}", "entry 1: a key id has"),
        (f"@orders:active:{ROOT}", "entry 1: a key id has"),
        (f"k1@:active:{ROOT}", "entry 1: what follows the @ should be the name of a queue"),
        (f"k1@Orders:active:{ROOT}", "entry 1: what follows the @"),
        (f"k1@a@b:active:{ROOT}", "entry 1: what follows the @"),
        ("k1:active:", "entry 1: the secret has 0 bytes; at least 32 are needed"),
        (f"k1:active:{SHORT}", "entry 1: the secret has 31 bytes"),
        ("k1:active:hunter2!hunter2!", "entry 1: the secret is not base64"),
        ("k1:active:ä" + ROOT, "entry 1: the secret is not base64"),
        ("k1:active:A" + "AAAA" * 11, "entry 1: the secret is not base64"),
        *(
            (f"k1:active:{ROOT[:20]}{gap}{ROOT[20:]}", "entry 1: the secret is not base64")
            for gap in (" ", "    ", "!!!!", "====")
        ),
        (f"k1:active:{ROOT},k1:revoked:{ROOT}", "the id 'k1' is given twice"),
        (f"k1@a:active:{ROOT},k1@a:active:{ROOT}", "the id 'k1' is given twice"),
    ],
)
def test_keys_that_cannot_be_read(text, complaint):
    """The complaint says which entry and what is wrong with it."""
    with pytest.raises(ConfigError, match=complaint):
        KeyRing.parse(text)


@pytest.mark.parametrize(
    "text", ["{0}", "{0}:active:k1", "k1:{0}:active", "active:k1:{0}!", "k1@{0}:active:{0}", "k1:active:{0}:{0}"]
)
def test_a_complaint_never_repeats_a_secret(text):
    """Whatever is mixed up, the secret does not get into the log."""
    secret = base64.urlsafe_b64encode(bytes(range(200, 240))).decode().rstrip("=")
    with pytest.raises(ConfigError) as caught:
        KeyRing.parse(text.format(secret))
    assert secret[:8] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_for_one_queue_is_written_as_it_is_read_and_signs_for_that_queue_alone():
    """What `keys generate --queue` prints signs what the root secret verifies, and nothing for another queue."""
    root = SigningKey("k1", "accepted", b"s" * 32)

    derived = KeyRing.parse(root.for_queue("email_queue").export())
    fields = {b"id": b"m1", b"queue": b"email_queue", b"priority": b"3", b"payload": b"{}", b"metadata": b"{}"}
    signed = {**fields, b"signature": derived.signer("email_queue").signature("email_queue", fields)}

    assert KeyRing((root,)).verify("email_queue", signed) is None
    assert derived.signer("sms_queue") is None
    assert KeyRing.parse(root.export()).verify("email_queue", signed) is None
