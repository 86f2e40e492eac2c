"""The inside of a suspect's child process: the app once more, for one message."""

import asyncio
import contextlib
import time

import msgspec

from streamq.core.codec import DECODE_ERRORS
from streamq.core.message import Message
from streamq.core.policy import Admission, NoChild
from streamq.runtime.call import call
from streamq.runtime.child import Channel
from streamq.runtime.executors import Executors
from streamq.runtime.isolation import Isolation
from streamq.runtime.plan import Plan
from streamq.runtime.run import Surroundings

_decoder = msgspec.msgpack.Decoder(tuple[float, Message])


def job_of(message: Message, limit: float) -> bytes:
    """What ``run_one`` waits for.

    Args:
        message: verified.
        limit: seconds that its handler may take.
    """
    return msgspec.msgpack.encode((limit, message))


async def run_one(plan: Plan, channel: Channel) -> None:
    """Enter the app's lifespan, say so, run one message as a worker does, say how it ended, and leave.

    Args:
        plan: what a worker of this app is to do.
        channel: to the worker, which has verified the message.
    """
    executors = Executors(1)
    lifespan = plan.lifespan or contextlib.nullcontext
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(executors.aclose)
        state = await stack.enter_async_context(lifespan())
        around = Surroundings.of(plan, state, Isolation(), executors)
        channel.tell(None)
        limit, message = _decoder.decode(await asyncio.to_thread(channel.receive))
        try:
            await _run(message, time.monotonic() + limit, around)
        except BaseException as error:  # noqa: BLE001 - told to the worker
            channel.tell(error)
        else:
            channel.tell(None)


async def _run(message: Message, deadline: float, around: Surroundings) -> None:
    handler = around.registry.resolve(message.queue, message.type)
    try:
        arguments = handler.binding.arguments(message.payload) if handler is not None else None
    except DECODE_ERRORS:
        arguments = None
    if handler is None or arguments is None:
        raise NoChild(f"the app has changed since its worker started: it cannot take {message.type!r} now")
    await call(Admission(message, handler, arguments), deadline, around)
