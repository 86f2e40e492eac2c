"""Payloads: JSON bytes on the outside, the types of a handler's signature on the inside."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from streamq.core.context import Context
from streamq.core.errors import InvalidMessage, StreamqError
from streamq.core.failure import text_of
from streamq.core.message import Metadata

# What msgspec raises on hostile bytes is more than its own errors: nesting, invalid UTF-8 and huge numbers.
DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError, MemoryError)

BoundedInt = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Typed(msgspec.Struct):
    type: str


_typed = msgspec.json.Decoder(_Typed)
_metadata = msgspec.json.Decoder(Metadata)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


def decode_type(payload: bytes) -> str:
    """The ``type`` of a payload, without decoding the rest.

    Raises:
        ValueError, RecursionError, OverflowError, MemoryError: it is not a JSON object with a string ``type``.
    """
    _check_utf8(payload)
    return _typed.decode(payload).type


def decode_metadata(raw: bytes) -> Metadata:
    """The metadata of an entry.

    Raises:
        ValueError, RecursionError, OverflowError, MemoryError: as ``decode_type``.
    """
    _check_utf8(raw)
    return _metadata.decode(raw)


def encode_metadata(metadata: Metadata) -> bytes:
    """JSON bytes of metadata, checked as a worker will read them.

    Raises:
        InvalidMessage: a member has another type or size than it may have.
    """
    raw = encode(metadata)
    try:
        decode_metadata(raw)
    except DECODE_ERRORS as error:
        raise InvalidMessage(f"an option of publish cannot be used: {error}") from None
    return raw


def encode(value: object) -> bytes:
    """JSON bytes of a payload or of metadata.

    Raises:
        InvalidMessage: the value has no JSON form.
    """
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage(f"the payload cannot be written as JSON: {error}") from None


def encode_payload(payload: object) -> bytes:
    """JSON bytes of a payload, checked to be an object with a string ``type``.

    Raises:
        InvalidMessage: it is not.
    """
    raw = encode(payload)
    try:
        decode_type(raw)
    except DECODE_ERRORS as error:
        raise InvalidMessage(
            f"the payload must be a JSON object whose member `type` names the handler: {error}"
        ) from None
    return raw


@dataclass(frozen=True, slots=True)
class Binding:
    """How a payload becomes the arguments of one function.

    Args:
        decoder: from JSON bytes to the arguments.
        names: parameters that are payload fields, in their order; none when one Struct stands for the whole payload.
        whole: the name of that one Struct parameter.
        context: the name of the parameter that gets the context.
        takes_type_away: that Struct forbids unknown fields, so it must not see the payload's ``type``.
        signature: the function's own, without the context.
    """

    decoder: msgspec.json.Decoder[Any]
    names: tuple[str, ...]
    whole: str | None
    context: str | None
    takes_type_away: bool
    signature: inspect.Signature

    def arguments(self, payload: bytes) -> dict[str, Any]:
        """Decode a payload into keyword arguments.

        Raises:
            any of ``DECODE_ERRORS``: the payload does not fit the signature.
        """
        try:
            if self.takes_type_away:
                members = _members.decode(payload)
                members.pop("type", None)
                payload = _encoder.encode(members)
            value = self.decoder.decode(payload)
        except DECODE_ERRORS:
            raise
        except Exception as error:  # the user's own __post_init__: what a payload brings about must not end a worker
            raise ValueError(text_of(error)) from error
        return {name: getattr(value, name) for name in self.names} if self.whole is None else {self.whole: value}

    def payload(self, message_type: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Encode a call as a payload, and make sure that a worker will be able to decode it.

        Raises:
            TypeError: the arguments do not fit the signature.
            InvalidMessage: a value does not fit its annotation.
        """
        call = self.signature.bind(*args, **kwargs)
        members: Any = call.arguments
        if self.whole is not None:
            call.apply_defaults()
            try:
                members = msgspec.to_builtins(call.arguments[self.whole])
            except (TypeError, ValueError, RecursionError) as error:
                raise InvalidMessage(f"{message_type}: {error}") from None
            if not isinstance(members, dict):
                raise InvalidMessage(f"a payload must be an object, and {self.whole} is not")
        raw = encode({"type": message_type, **members})
        try:
            self.arguments(raw)
        except DECODE_ERRORS as error:
            raise InvalidMessage(f"{message_type}: {error}") from None
        return raw


def bind(function: Callable[..., Any]) -> Binding:
    """Read a handler's signature.

    Raises:
        StreamqError: a parameter has a kind or an annotation that a payload cannot fill.
    """
    name = getattr(function, "__qualname__", repr(function))
    signature = inspect.signature(function)
    context, fields = _read(signature, _hints(function, name), name)
    visible = signature.replace(parameters=[p for n, p in signature.parameters.items() if n != context])
    if len(fields) == 1 and _is_struct(fields[0][1]):
        only, struct, _ = fields[0]
        config = struct.__struct_config__
        if config.array_like:
            raise StreamqError(f"handler {name}: {only} is written as an array, and a payload is an object")
        wants_type = "type" in struct.__struct_encode_fields__ or config.tag_field == "type"
        strict = config.forbid_unknown_fields and not wants_type
        return Binding(_decoder(struct, name), (), only, context, strict, visible)
    members = [(n, t) if default is inspect.Parameter.empty else (n, t, default) for n, t, default in fields]
    try:
        arguments = msgspec.defstruct("Arguments", _with_safe_defaults(members), kw_only=True)
    except TypeError as error:
        raise StreamqError(f"handler {name}: {error}") from None
    return Binding(_decoder(arguments, name), tuple(n for n, _, _ in fields), None, context, False, visible)


def bounded(annotation: Any) -> Any:
    """The annotation with every ``int`` in it bounded to 64 bits: JSON knows no limit, databases do."""
    if annotation is int:
        return BoundedInt
    if isinstance(annotation, typing.NewType):
        return bounded(annotation.__supertype__)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal or not args:
        return annotation
    if origin is Annotated:
        return _bounded_annotated(*args)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(bounded, args))]  # noqa: UP007 - the members are known at run time only
    try:
        return origin[tuple(map(bounded, args))]
    except TypeError:
        return annotation  # a user's own generic: its fields are its own business


def _bounded_annotated(base: Any, *notes: Any) -> Any:
    """Limits that the user gave stay; a side without one gets ours."""
    if base is not int:
        return Annotated[(bounded(base), *notes)]
    metas = [note for note in notes if isinstance(note, msgspec.Meta)]
    low = None if any(meta.ge is not None or meta.gt is not None for meta in metas) else -(2**63)
    high = None if any(meta.le is not None or meta.lt is not None for meta in metas) else 2**63 - 1
    return Annotated[(int, *notes, msgspec.Meta(ge=low, le=high))]


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise StreamqError(f"handler {name}: {error}; annotations must be importable from its module") from None


def _read(
    signature: inspect.Signature, hints: Mapping[str, Any], name: str
) -> tuple[str | None, list[tuple[str, Any, Any]]]:
    """The name of the context's parameter, and name, type and default of all others."""
    context: str | None = None
    fields: list[tuple[str, Any, Any]] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise StreamqError(f"handler {name}: {parameter} cannot be filled from a payload; name each field")
        if hints.get(parameter.name) is not Context:
            fields.append((parameter.name, bounded(hints.get(parameter.name, Any)), parameter.default))
        elif context is None:
            context = parameter.name
        else:
            raise StreamqError(f"handler {name}: {context} and {parameter.name} are both the Context; one is enough")
    return context, fields


def _is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _decoder(kind: Any, name: str) -> msgspec.json.Decoder[Any]:
    try:
        return msgspec.json.Decoder(kind)
    except TypeError as error:
        raise StreamqError(f"handler {name}: {error}") from None


def _with_safe_defaults(members: list[Any]) -> list[Any]:
    """Mutable defaults become factories, as the function itself would have shared them between calls."""
    safe: list[Any] = []
    for member in members:
        if len(member) == 3 and isinstance(member[2], list | dict | set):
            safe.append((*member[:2], msgspec.field(default_factory=member[2].copy)))
        else:
            safe.append(member)
    return safe


def _check_utf8(raw: bytes) -> None:
    if not raw.isascii():
        raw.decode()  # a skipped member is not checked for UTF-8 by the decoder
