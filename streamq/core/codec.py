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
from streamq.core.message import Metadata

# What msgspec raises on hostile bytes is more than its own errors: nesting, invalid UTF-8 and huge numbers.
DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError, MemoryError)

BoundedInt = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Typed(msgspec.Struct):
    type: str


_typed = msgspec.json.Decoder(_Typed)
_metadata = msgspec.json.Decoder(Metadata)
_encoder = msgspec.json.Encoder()


def decode_type(payload: bytes) -> str:
    """The ``type`` of a payload, without decoding the rest.

    Raises:
        ValueError, RecursionError, OverflowError, MemoryError: it is not a JSON object with a string ``type``.
    """
    if not payload.isascii():
        payload.decode()  # a skipped member is not checked for UTF-8 by the decoder
    return _typed.decode(payload).type


def decode_metadata(raw: bytes) -> Metadata:
    """The metadata of an entry.

    Raises:
        ValueError, RecursionError, OverflowError, MemoryError: as ``decode_type``.
    """
    return _metadata.decode(raw)


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
        names: parameters that are payload fields, in their order; None when one Struct stands for the whole payload.
        whole: the name of that one Struct parameter.
        context: the name of the parameter that gets the context.
        wants_type: a parameter is called ``type``.
    """

    decoder: msgspec.json.Decoder[Any]
    names: tuple[str, ...] | None
    whole: str | None
    context: str | None
    wants_type: bool
    signature: inspect.Signature

    def arguments(self, payload: bytes) -> dict[str, Any]:
        """Decode a payload into keyword arguments.

        Raises:
            any of ``DECODE_ERRORS``: the payload does not fit the signature.
        """
        value = self.decoder.decode(payload)
        if self.names is None:
            return {self.whole: value} if self.whole else {}
        return {name: getattr(value, name) for name in self.names}

    def payload(self, message_type: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Encode a call as a payload, and make sure that a worker will be able to decode it.

        Raises:
            TypeError: the arguments do not fit the signature.
            InvalidMessage: a value does not fit its annotation.
        """
        bound = self.signature.bind(*args, **kwargs).arguments
        if self.whole is not None:
            members = msgspec.to_builtins(bound[self.whole])
            if not isinstance(members, dict):
                raise InvalidMessage(f"a payload must be an object, and {self.whole} is not")
        else:
            members = bound
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
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise StreamqError(f"handler {name}: {error}; annotations must be importable from its module") from None
    context: str | None = None
    fields: list[tuple[str, Any, Any]] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise StreamqError(f"handler {name}: parameter {parameter} cannot be filled from a payload; name each field")
        if hints.get(parameter.name) is Context:
            context = parameter.name
        else:
            fields.append((parameter.name, bounded(hints.get(parameter.name, Any)), parameter.default))
    visible = signature.replace(parameters=[p for n, p in signature.parameters.items() if n != context])
    if len(fields) == 1 and _is_struct(fields[0][1]):
        only, struct, _ = fields[0]
        wants = "type" in struct.__struct_encode_fields__ or struct.__struct_config__.tag_field == "type"
        return Binding(_decoder(struct, name), None, only, context, wants, visible)
    members = [(n, t) if default is inspect.Parameter.empty else (n, t, default) for n, t, default in fields]
    try:
        arguments = msgspec.defstruct("Arguments", _with_safe_defaults(members), kw_only=True)
    except TypeError as error:
        raise StreamqError(f"handler {name}: {error}") from None
    names = tuple(n for n, _, _ in fields)
    return Binding(_decoder(arguments, name), names, None, context, "type" in names, visible)


def bounded(annotation: Any) -> Any:
    """The annotation with every ``int`` in it bounded to 64 bits: JSON knows no limit, databases do."""
    if annotation is int:
        return BoundedInt
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated or origin is typing.Literal or not args:
        return annotation
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(bounded, args))]  # noqa: UP007 - the members are known at run time only
    try:
        return origin[tuple(map(bounded, args))]
    except TypeError:
        return annotation  # a user's own generic: its fields are its own business


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
