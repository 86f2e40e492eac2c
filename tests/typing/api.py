"""Checked by mypy, never run: what the public names promise to a type checker."""

from typing import assert_type

from streamq import Context, Receipt, StreamQ

app = StreamQ()


@app.handler("email_queue", type="send_welcome_email")
async def send_welcome(ctx: Context, recipient: str, copies: int = 1) -> None: ...


@app.handler(["a", "b"])
def count(numbers: list[int]) -> int:
    return sum(numbers)


async def publishing() -> None:
    assert_type(await send_welcome.publish(recipient="a@b.c"), Receipt)
    assert_type(await send_welcome.publish("a@b.c", copies=2), Receipt)
    await send_welcome.options(delay=60, priority="high", queue="other").publish(recipient="a@b.c")
    await send_welcome.publish(recipient=1)  # type: ignore[arg-type]
    await send_welcome.publish()  # type: ignore[call-arg]
    send_welcome.options(priority="urgent")  # type: ignore[arg-type]
    await app.publish("email_queue", {"type": "x"}, expires=3600)
    await app.publish("email_queue", {"type": "x"}, expire=3600)  # type: ignore[call-arg]


def publishing_without_a_loop() -> None:
    assert_type(send_welcome.publish_sync(recipient="a@b.c"), Receipt)
    send_welcome.options(delay=60).publish_sync("a@b.c", copies=2)
    send_welcome.publish_sync(recipient=1)  # type: ignore[arg-type]
    assert_type(app.sync.publish("email_queue", {"type": "x"}, expires=3600), Receipt)
    assert_type(app.sync.publish_many("email_queue", [{"type": "x"}]), list[Receipt])
    app.sync.publish("email_queue", {"type": "x"}, expire=3600)  # type: ignore[call-arg]


async def calling(ctx: Context) -> None:
    assert_type(count([1, 2]), int)
    await send_welcome(ctx, "a@b.c")
