"""The onion around a handler."""

import pytest

from streamq.core.middleware import wrap

CONTEXT = object()


def layer(name, told):
    async def around(context, call_next):
        assert context is CONTEXT
        told.append(f"{name} in")
        result = await call_next()
        told.append(f"{name} out")
        return [*result, name]

    return around


async def test_the_first_layer_is_the_outermost():
    """Layers are entered in their order, left in reverse, and hand the result outward."""
    told = []

    async def handler():
        told.append("handler")
        return []

    result = await wrap([layer(name, told) for name in "abc"], CONTEXT, handler)()
    assert told == ["a in", "b in", "c in", "handler", "c out", "b out", "a out"]
    assert result == ["c", "b", "a"]


async def test_no_layer_is_the_handler_itself():
    """Without middleware nothing is put between."""

    async def handler():
        return 1

    assert wrap([], CONTEXT, handler) is handler


async def test_a_layer_decides_whether_and_how_often():
    """A layer may answer itself, or call what is inside again."""
    calls = []

    async def handler():
        calls.append("handler")
        return len(calls)

    async def never(context, call_next):
        return "mine"

    async def twice(context, call_next):
        return [await call_next(), await call_next()]

    assert await wrap([never, twice], CONTEXT, handler)() == "mine"
    assert calls == []
    assert await wrap([twice, twice], CONTEXT, handler)() == [[1, 2], [3, 4]]


async def test_errors_pass_through_the_layers():
    """What the handler raises reaches each layer, and the outermost call."""
    seen = []

    async def handler():
        raise ValueError("boom")

    async def watch(context, call_next):
        try:
            return await call_next()
        except ValueError as error:
            seen.append(error)
            raise

    with pytest.raises(ValueError, match="boom") as caught:
        await wrap([watch, watch], CONTEXT, handler)()
    assert seen == [caught.value, caught.value]
