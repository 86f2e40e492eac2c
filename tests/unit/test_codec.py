"""Payloads: hostile bytes stay errors of a message, and what fits a handler's signature reaches it."""

import datetime as dt
import decimal
import enum
import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq.core.codec import (
    DECODE_ERRORS,
    bind,
    bounded,
    decode_metadata,
    decode_type,
    encode,
    encode_metadata,
    encode_payload,
)
from streamq.core.context import Context
from streamq.core.errors import InvalidMessage, StreamqError
from streamq.core.message import Metadata

DEEP = 10_000
LOW, HIGH = -(2**63), 2**63 - 1

# Bytes that are no JSON at all, or none that may be decoded, wherever they stand.
MALFORMED = {
    "empty": b"",
    "space": b" ",
    "cut": b'{"type":"pay"',
    "cut in text": b'{"type":"pa',
    "trailing": b'{"type":"pay"} x',
    "two": b'{"type":"pay"}{"type":"pay"}',
    "trailing comma": b'{"type":"pay",}',
    "single quotes": b"{'type':'pay'}",
    "bare key": b'{type:"pay"}',
    "comment": b'{"type":"pay"/**/}',
    "byte order mark": b'\xef\xbb\xbf{"type":"pay"}',
    "UTF-16": '{"type":"pay"}'.encode("utf-16"),
    "NUL": b'{"type":"pay"}\x00',
    "control character": b'{"type":"pay","x":"\x01"}',
    "NaN": b'{"type":"pay","x":NaN}',
    "Infinity": b'{"type":"pay","x":-Infinity}',
    "leading zero": b'{"type":"pay","x":01}',
    "bad escape": b'{"type":"pay","x":"\\x41"}',
    "half a surrogate": b'{"type":"pay","x":"\\ud800"}',
    "invalid UTF-8": b'{"type":"pay","x":"\xff"}',
    "overlong UTF-8": b'{"type":"pay","x":"\xc0\xaf"}',
    "encoded surrogate": b'{"type":"pay","x":"\xed\xa0\x80"}',
    "invalid UTF-8 in a skipped name": b'{"type":"pay","\xff":1}',
    "invalid UTF-8 deep in a skipped member": b'{"type":"pay","x":[{"y":["\xc3"]}]}',
    "deep arrays": b'{"type":"pay","x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"type":"pay","x":' + b'{"x":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "unclosed arrays": b"[" * 2**20,
    "unclosed objects": b'{"x":' * (2**20 // 5),
    "a megabyte of arrays": b'{"type":"pay","x":' + b"[" * 2**19 + b"]" * 2**19 + b"}",
}
NO_TYPE = {
    "absent": b'{"typ":"pay"}',
    "null": b'{"type":null}',
    "number": b'{"type":1}',
    "array": b'{"type":["pay"]}',
    "object": b'{"type":{"type":"pay"}}',
    "other case": b'{"Type":"pay"}',
    "inside": b'{"x":{"type":"pay"}}',
    "no object": b'["type","pay"]',
    "text": b'"pay"',
    "nothing": b"null",
}


# --- the type of a payload


@pytest.mark.parametrize("raw", [*MALFORMED.values(), *NO_TYPE.values()], ids=[*MALFORMED, *NO_TYPE])
def test_what_has_no_type(raw):
    """Whatever it is, it is one of the errors that make a dead letter, never another one and never a crash."""
    with pytest.raises(DECODE_ERRORS):
        decode_type(raw)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b'{"type":"pay"}', "pay"),
        (b' \n{ "x" : [ 1 , { } ] , "type" : "pay" }\t', "pay"),
        (b'{"type":"p\\u0061y"}', "pay"),
        ('{"type":"zahlung_ä","ö":"€"}'.encode(), "zahlung_ä"),
        (b'{"type":""}', ""),
        (b'{"type":"a","type":"pay"}', "pay"),
        (b'{"x":' + b"9" * 100_000 + b',"type":"pay"}', "pay"),
        (b'{"x":1e99999,"type":"pay"}', "pay"),
        (b'{"x":' + b"[" * 500 + b"]" * 500 + b',"type":"pay"}', "pay"),
        (b'{"x":"' + b"a" * 2**20 + b'","type":"pay"}', "pay"),
    ],
    ids=["plain", "spaces", "escape", "not ASCII", "empty", "doubled", "huge", "infinite", "nested", "a megabyte"],
)
def test_the_type_is_found_without_decoding_the_rest(raw, found):
    """Members that are not wanted are only skipped, however large; of a doubled name the last one counts."""
    assert decode_type(raw) == found


def test_a_doubled_member_means_the_same_to_all_who_look():
    """What chose the handler is what the handler sees."""

    async def handler(type: str, x: int): ...

    raw = b'{"type":"a","x":1,"type":"b","x":2}'
    assert decode_type(raw) == bind(handler).arguments(raw)["type"] == "b"
    assert bind(handler).arguments(raw)["x"] == 2


@given(st.binary(max_size=200))
def test_any_bytes(raw):
    """Decoding ends with a text or with one of the errors that are expected."""
    for decode in (decode_type, decode_metadata):
        try:
            decode(raw)
        except DECODE_ERRORS:
            continue


# --- metadata


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_malformed_metadata(raw):
    """The same bytes are refused there."""
    with pytest.raises(DECODE_ERRORS):
        decode_metadata(raw.replace(b'"type":"pay"', b'"created_by":"x"'))


@pytest.mark.parametrize(
    "raw",
    [
        b"[]", b"null", b'"x"',
        b'{"created_at":"yesterday"}', b'{"created_at":1800000000}', b'{"created_at":"2026-02-30T00:00:00Z"}',
        b'{"created_at":"2026-01-01"}', b'{"expires_at":"2026-01-01T00:00:00+99:00"}', b'{"delay_until":true}',
        b'{"max_retries":-1}', b'{"max_retries":"3"}', b'{"max_retries":1.5}', b'{"max_retries":9007199254740993}',
        b'{"max_retries":true}', b'{"timeout":-1}', b'{"timeout":1e3}', b'{"timeout":' + b"9" * 5000 + b"}",
        b'{"headers":[]}', b'{"headers":"x"}', b'{"created_by":7}', b'{"correlation_id":{}}',
    ],
)  # fmt: skip
def test_metadata_of_wrong_types(raw):
    """Known members have their types and limits."""
    with pytest.raises(DECODE_ERRORS):
        decode_metadata(raw)


def test_absent_null_and_unknown_members():
    """All three are nothing."""
    names = Metadata.__struct_fields__
    assert decode_metadata(b"{}") == Metadata()
    assert decode_metadata(msgspec.json.encode(dict.fromkeys(names))) == Metadata()
    assert decode_metadata(b'{"retry_count":"x","Timeout":5,"":[{}]}') == Metadata()


def test_metadata_in_full():
    """Every member is read, and written back in the same words."""
    raw = (
        b'{"created_at":"2026-01-01T00:00:00.5Z","created_by":"web","correlation_id":"c","max_retries":0,'
        b'"delay_until":"2026-01-01T01:00:00+01:00","timeout":9007199254740992,'
        b'"expires_at":"2026-01-02T00:00:00Z","headers":{"traceparent":"00-a","x":[1]}}'
    )
    found = decode_metadata(raw)
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert found.created_at == moment + dt.timedelta(milliseconds=500)
    assert found.delay_until == moment
    assert found.expires_at == moment + dt.timedelta(days=1)
    assert (found.created_by, found.correlation_id, found.max_retries, found.timeout) == ("web", "c", 0, 2**53)
    assert found.headers == {"traceparent": "00-a", "x": [1]}
    assert decode_metadata(encode_metadata(found)) == found


@pytest.mark.parametrize(
    "members",
    [{"max_retries": 2.5}, {"max_retries": "3"}, {"timeout": -1}, {"created_by": 5}, {"correlation_id": b"\xff"[0]},
     {"headers": {"x": 1j}}, {"headers": [1]}, {"created_at": "x"}],
    ids=str,
)  # fmt: skip
def test_metadata_that_a_worker_could_not_read(members):
    """It is refused at publish: the worker would make a dead letter of it."""
    with pytest.raises(InvalidMessage):
        encode_metadata(Metadata(**members))


def test_metadata_is_written_as_it_is_read():
    """Only what is there, in the words of the protocol."""
    when = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert encode_metadata(Metadata()) == b"{}"
    raw = encode_metadata(Metadata(created_at=when, max_retries=0, timeout=5, headers={"a": None}))
    assert raw == b'{"created_at":"2026-01-01T00:00:00Z","max_retries":0,"timeout":5,"headers":{"a":null}}'


# --- encoding


@pytest.mark.parametrize(
    "value", [object(), {"x": object()}, "\ud800", 10**5000, {1, object()}, 1j], ids=lambda value: type(value).__name__
)
def test_what_has_no_json_form(value):
    """It is refused before anything is written."""
    with pytest.raises(InvalidMessage, match="cannot be written as JSON"):
        encode(value)


def test_what_contains_itself_has_no_json_form():
    """A cycle is an error of the message, not of the process."""
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(InvalidMessage):
        encode(cycle)


class Event(msgspec.Struct):
    type: str


@dataclass
class Plain:
    type: str


@pytest.mark.parametrize("payload", [{"type": "pay"}, Event("pay"), Plain("pay")], ids=["dict", "Struct", "dataclass"])
def test_payloads_by_name(payload):
    """Whatever writes as a JSON object with a type."""
    assert encode_payload(payload) == b'{"type":"pay"}'


@pytest.mark.parametrize("payload", [{}, {"type": 1}, {"type": None}, [], "pay", None, {"Type": "pay"}], ids=repr)
def test_payloads_that_name_no_handler(payload):
    """They are refused at publish."""
    with pytest.raises(InvalidMessage, match="`type`"):
        encode_payload(payload)


# --- handlers: from a payload to arguments


class Color(enum.Enum):
    RED = "red"


UserId = NewType("UserId", int)


async def every(  # noqa: PLR0917 - called with keywords only
    text: str, number: int, ratio: float, flag: bool, when: dt.datetime, price: decimal.Decimal, color: Color,
    data: dict[str, str], note: str | None = None, tags: list[str] = [], anything: Any = 7, loose="x",  # noqa: B006
): ...  # fmt: skip


EVERY = {
    "text": "ä", "number": 5, "ratio": 0.5, "flag": True, "when": "2026-01-01T00:00:00Z", "price": "9.90",
    "color": "red", "data": {"a": "b"},
}  # fmt: skip


def test_fields_become_arguments():
    """Each parameter gets its field, converted to its annotation, or its default."""
    found = bind(every).arguments(msgspec.json.encode({"type": "every", **EVERY, "unknown": 1}))
    assert found == {
        "text": "ä", "number": 5, "ratio": 0.5, "flag": True,
        "when": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "price": decimal.Decimal("9.90"),
        "color": Color.RED, "data": {"a": "b"}, "note": None, "tags": [], "anything": 7, "loose": "x",
    }  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("wrong", ["absent", "null", "other type"])
def test_fields_that_do_not_fit(name, wrong):
    """Strict: nothing is guessed from a field that is missing, null or of another type."""
    fields = dict(EVERY)
    if wrong == "absent":
        del fields[name]
    else:
        fields[name] = None if wrong == "null" else [fields[name]]
    with pytest.raises(DECODE_ERRORS):
        bind(every).arguments(msgspec.json.encode(fields))


@pytest.mark.parametrize(
    ("name", "value"), [("number", "5"), ("number", 5.0), ("number", True), ("text", 5), ("flag", 1)]
)
def test_nothing_is_coerced(name, value):
    """A number in quotes is a text."""
    with pytest.raises(DECODE_ERRORS):
        bind(every).arguments(msgspec.json.encode({**EVERY, name: value}))


def test_mutable_defaults_are_not_shared():
    """A handler that changes its default changes nothing for the next message."""

    async def handler(a: list[int] = [1], b: dict[str, int] = {"x": 1}, c: set[int] = {1}): ...  # noqa: B006

    binding = bind(handler)
    first = binding.arguments(b"{}")
    first["a"].append(2)
    first["b"]["y"] = 2
    first["c"].add(2)
    assert binding.arguments(b"{}") == {"a": [1], "b": {"x": 1}, "c": {1}}
    assert handler.__defaults__ == ([1], {"x": 1}, {1})


def test_parameters_in_any_order():
    """Keyword-only parameters may have their defaults first."""

    async def handler(*, a: int = 1, b: int, ctx: Context, c: int = 3): ...

    assert bind(handler).arguments(b'{"b":2}') == {"a": 1, "b": 2, "c": 3}
    assert bind(handler).payload("t", (), {"b": 2}) == b'{"type":"t","b":2}'


def test_a_handler_without_parameters():
    """It takes any payload and needs none of it."""

    async def handler(): ...

    async def with_context(ctx: Context): ...

    assert bind(handler).arguments(b'{"type":"x","y":1}') == {}
    assert (bind(with_context).arguments(b'{"type":"x"}'), bind(with_context).context) == ({}, "ctx")


def test_the_context_is_no_field():
    """Whatever it is called and wherever it stands; a payload cannot fill it."""

    async def handler(a: int, where: Context, b: int = 2): ...

    binding = bind(handler)
    assert (binding.context, binding.names) == ("where", ("a", "b"))
    assert binding.arguments(b'{"a":1,"where":"evil"}') == {"a": 1, "b": 2}
    assert list(binding.signature.parameters) == ["a", "b"]


def test_annotations_as_text():
    """`from __future__ import annotations` changes nothing."""

    async def handler(a: "int", ctx: "Context"): ...

    binding = bind(handler)
    assert (binding.context, binding.arguments(b'{"a":1}')) == ("ctx", {"a": 1})
    with pytest.raises(DECODE_ERRORS):
        binding.arguments(b'{"a":9223372036854775808}')


def test_a_parameter_called_type():
    """It gets the payload's type; without such a parameter nobody sees it."""

    async def handler(type: str, a: int): ...

    assert bind(handler).arguments(b'{"type":"x","a":1}') == {"type": "x", "a": 1}
    with pytest.raises(DECODE_ERRORS):
        bind(handler).arguments(b'{"a":1}')


# --- integers

T = TypeVar("T")


class Box(msgspec.Struct, Generic[T]):
    value: T


def one_field(annotation):
    async def handler(x): ...

    handler.__annotations__["x"] = annotation
    return bind(handler)


@pytest.mark.parametrize(
    ("annotation", "around"),
    [
        (int, "{}"), (int | None, "{}"), (None | int | str, "{}"), (int | float, "{}"), (list[int], "[1,{}]"),
        (tuple[int, ...], "[{}]"), (tuple[str, int], '["a",{}]'), (set[int], "[{}]"), (frozenset[int], "[{}]"),
        (dict[str, int], '{{"a":{}}}'), (dict[int, str], '{{"{}":"a"}}'), (dict[str, list[int | None]], '{{"a":[{}]}}'),
        (UserId, "{}"), (list[UserId], "[{}]"), (Annotated[int, "note"], "{}"), (Annotated[list[int], "note"], "[{}]"),
        (Annotated[list[int], msgspec.Meta(max_length=3)], "[{}]"), (Annotated[UserId, "note"], "{}"),
        (Annotated[int, msgspec.Meta(description="x")], "{}"),
    ],
    ids=str,
)  # fmt: skip
def test_integers_fit_64_bits(annotation, around):
    """At any place inside an annotation: the limits are taken, one more is refused."""
    binding = one_field(annotation)
    for value, fits in ((LOW, True), (HIGH, True), (LOW - 1, False), (HIGH + 1, False), (10**4000, False)):
        raw = f'{{"x":{around.format(value)}}}'.encode()
        if fits:
            assert str(value) in repr(binding.arguments(raw)["x"])
        else:
            with pytest.raises(DECODE_ERRORS):
                binding.arguments(raw)


@pytest.mark.parametrize(
    ("meta", "smallest", "largest"),
    [
        (msgspec.Meta(ge=0), 0, HIGH), (msgspec.Meta(gt=0), 1, HIGH), (msgspec.Meta(le=5), LOW, 5),
        (msgspec.Meta(lt=5), LOW, 4), (msgspec.Meta(ge=-2, le=2), -2, 2), (msgspec.Meta(gt=0, lt=9), 1, 8),
    ],
)  # fmt: skip
def test_limits_of_the_user_stay(meta, smallest, largest):
    """Who gives one limit gets the other from us."""
    binding = one_field(Annotated[int, meta])
    for value, fits in ((smallest, True), (largest, True), (smallest - 1, False), (largest + 1, False)):
        raw = f'{{"x":{value}}}'.encode()
        if fits:
            assert binding.arguments(raw) == {"x": value}
        else:
            with pytest.raises(DECODE_ERRORS):
                binding.arguments(raw)


@pytest.mark.parametrize(
    ("annotation", "raw", "value"),
    [
        (Literal[1, 2], b"2", 2),
        (bool, b"true", True),
        (bytes, b'"AAE="', b"\x00\x01"),
        (Any, b"[1]", [1]),
        (Box[int], b'{"value":3}', Box(3)),
        (list, b"[1]", [1]),
    ],
    ids=str,
)
def test_other_annotations_stay_as_they_are(annotation, raw, value):
    """Only integers get limits."""
    found = one_field(annotation)
    raw = raw if found.whole else b'{"x":%b}' % raw
    assert found.arguments(raw) == {"x": value}


def test_a_generic_of_the_users_keeps_its_arguments():
    """One that cannot be made anew stays whole; its fields are its own business."""

    class Odd(Generic[T]):
        def __class_getitem__(cls, item):
            if item is int:
                return super().__class_getitem__(item)
            raise TypeError("only int")

    assert bounded(Odd[int]) is Odd[int]
    assert bounded(list[Odd[int]]) == list[Odd[int]]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "-1e999"])
def test_numbers_that_are_none(value):
    """Neither NaN nor infinity gets into a float."""
    with pytest.raises(DECODE_ERRORS):
        one_field(float).arguments(f'{{"x":{value}}}'.encode())


# --- one Struct for the whole payload


class Order(msgspec.Struct, rename="camel"):
    order_id: int
    note: str = ""


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    a: int


class StrictWithType(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    a: int


class Tagged(msgspec.Struct, forbid_unknown_fields=True, tag="order"):
    a: int


class Row(msgspec.Struct, array_like=True):
    a: int


class Picky(msgspec.Struct):
    items: list[int]

    def __post_init__(self):
        if not self.items:
            raise ValueError("no items")
        if self.items[0] > 9:
            raise KeyError("too many")


async def takes_order(order: Order, ctx: Context): ...


async def takes_default(order: Order = Order(1)): ...  # noqa: B008


async def takes_strict(x: Strict): ...


async def takes_strict_with_type(x: StrictWithType): ...


async def takes_tagged(x: Tagged): ...


async def takes_picky(x: Picky): ...


async def takes_two(a: Order, b: Order): ...


@pytest.mark.parametrize(
    ("function", "raw", "arguments"),
    [
        (takes_order, b'{"type":"x","orderId":5,"y":1}', {"order": Order(5)}),
        (takes_strict, b'{"type":"x","a":5}', {"x": Strict(5)}),
        (takes_strict, b'{"a":5}', {"x": Strict(5)}),
        (takes_strict_with_type, b'{"type":"x","a":5}', {"x": StrictWithType("x", 5)}),
        (takes_picky, b'{"type":"x","items":[9]}', {"x": Picky([9])}),
        (takes_two, b'{"type":"x","a":{"orderId":1},"b":{"orderId":2}}', {"a": Order(1), "b": Order(2)}),
    ],
)
def test_one_struct_stands_for_the_payload(function, raw, arguments):
    """With its own rules, but the payload's type is taken away unless it wants one; two Structs are two fields."""
    assert bind(function).arguments(raw) == arguments


def test_only_a_strict_struct_costs_a_second_look():
    """The type is taken out of the payload where it would be refused, and nowhere else."""
    functions = [takes_strict, takes_order, takes_strict_with_type, takes_tagged, takes_two, every]
    assert [bind(function).takes_type_away for function in functions] == [True] + [False] * 5


def test_a_tagged_struct_sees_its_tag():
    """Its tag is the payload's type."""
    assert bind(takes_tagged).arguments(b'{"type":"order","a":5}')["x"].a == 5
    with pytest.raises(DECODE_ERRORS):
        bind(takes_tagged).arguments(b'{"type":"other","a":5}')


@pytest.mark.parametrize(
    ("function", "raw"),
    [
        (takes_order, b'{"type":"x"}'),
        (takes_order, b'{"order":{"orderId":5}}'),
        (takes_order, b'{"order_id":5}'),
        (takes_strict, b'{"type":"x","a":5,"b":6}'),
        (takes_strict, b'[{"a":5}]'),
        (takes_strict_with_type, b'{"a":5}'),
        (takes_picky, b'{"items":[]}'),
        (takes_picky, b'{"items":[10]}'),  # a KeyError of the user's __post_init__
    ],
)
def test_payloads_that_a_struct_refuses(function, raw):
    """Whatever it raises is an error of the message."""
    with pytest.raises(DECODE_ERRORS):
        bind(function).arguments(raw)


def test_an_error_of_the_users_own_code_is_named():
    """Its type is in the text, so that the dead letter tells what happened."""
    with pytest.raises(ValueError, match="KeyError: 'too many'"):
        bind(takes_picky).arguments(b'{"items":[10]}')


# --- handlers: from a call to a payload


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "payload"),
    [
        (takes_two, (Order(1),), {"b": Order(2)},
         {"type": "t", "a": {"orderId": 1, "note": ""}, "b": {"orderId": 2, "note": ""}}),
        (takes_order, (Order(5, "x"),), {}, {"type": "t", "orderId": 5, "note": "x"}),
        (takes_order, (), {"order": {"orderId": 5}}, {"type": "t", "orderId": 5}),
        (takes_default, (), {}, {"type": "t", "orderId": 1, "note": ""}),
        (takes_strict, (Strict(1),), {}, {"type": "t", "a": 1}),
        (takes_strict_with_type, (StrictWithType("own", 1),), {}, {"type": "own", "a": 1}),
        (takes_tagged, (Tagged(1),), {}, {"type": "order", "a": 1}),
    ],
)  # fmt: skip
def test_a_call_becomes_a_payload(function, args, kwargs, payload):
    """Arguments by position or name; a type of its own beats the handler's; the context is not asked for."""
    raw = bind(function).payload("t", args, kwargs)
    assert msgspec.json.decode(raw) == payload
    assert decode_type(raw) == payload["type"]


def test_defaults_are_left_to_the_worker():
    """Only what was given is written."""

    async def handler(a: int, b: int = 2): ...

    assert bind(handler).payload("t", (1,), {}) == b'{"type":"t","a":1}'
    assert bind(handler).payload("t", (), {"b": 3, "a": 1}) == b'{"type":"t","a":1,"b":3}'


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2), {}), ((1,), {"a": 1}), ((1,), {"c": 1}), ((1,), {"ctx": None})]
)
def test_a_call_that_does_not_fit(args, kwargs):
    """The same TypeError as calling the function, and the context is not the publisher's to give."""

    async def handler(a: int, ctx: Context): ...

    with pytest.raises(TypeError):
        bind(handler).payload("t", args, kwargs)


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (takes_order, 5),
        (takes_order, "x"),
        (takes_order, object()),
        (takes_order, {"orderId": "5"}),
        (takes_order, {"orderId": 5, 7: object()}),
        (takes_order, Order("5")),
        (takes_strict, {"a": 1, "b": 2}),
        (takes_picky, {"items": []}),
        (takes_picky, {"items": [10]}),
        (one_field, 5),
    ],
    ids=lambda value: getattr(value, "__name__", ascii(value)[:20]),
)
def test_a_call_whose_worker_would_refuse_it(function, value):
    """It is refused at publish, before anything is written."""
    binding = one_field(str) if function is one_field else bind(function)
    with pytest.raises(InvalidMessage):
        binding.payload("t", (value,), {})


@pytest.mark.parametrize(
    ("annotation", "value"), [(int, HIGH + 1), (float, math.nan), (float, math.inf), (str, "\ud800"), (int, 10**5000)],
    ids=["64 bits", "NaN", "infinity", "surrogate", "huge"],
)  # fmt: skip
def test_values_that_json_cannot_carry(annotation, value):
    """Neither silently changed nor a surprise for the worker."""
    with pytest.raises(InvalidMessage):
        one_field(annotation).payload("t", (value,), {})


# --- signatures that a payload cannot fill


def positional(a: int, /): ...


def args(*a: int): ...


def kwargs(**a: int): ...


def two_contexts(a: Context, b: Context): ...


def unknown_name(a: "Nowhere"): ...  # noqa: F821


def unknown_attribute(a: "sys.nowhere"): ...


def no_annotation(a: "1 +"): ...  # noqa: F722


def a_row(a: Row): ...


def two_structs(a: Order | Strict): ...


def bad_limits(a: Annotated[str, msgspec.Meta(ge=1)]): ...


def bad_default(a: bytearray = bytearray(b"x")): ...  # noqa: B008


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (positional, "handler positional: .*name each field"),
        (args, r"handler args: \*a: int cannot be filled"),
        (kwargs, r"handler kwargs: \*\*a: int cannot be filled"),
        (two_contexts, "handler two_contexts: a and b are both the Context"),
        (unknown_name, "handler unknown_name: .*Nowhere.*importable"),
        (unknown_attribute, "handler unknown_attribute: .*nowhere"),
        (no_annotation, "handler no_annotation: "),
        (a_row, "handler a_row: a is written as an array"),
        (two_structs, "handler two_structs: "),
        (bad_limits, "handler bad_limits: "),
        (bad_default, "handler bad_default: "),
    ],
)
def test_signatures_that_a_payload_cannot_fill(function, text):
    """Said at import, with the name of the handler."""
    with pytest.raises(StreamqError, match=text):
        bind(function)
