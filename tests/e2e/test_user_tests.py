"""The fixtures that users get for the tests of their own apps."""

from streamq import StreamQ


async def test_a_users_test_runs_a_message_through_a_private_server(streamq_app):
    """Publishing and a burst are all a user's test needs; nothing leans on a server that happens to run."""
    app, seen = StreamQ(), []

    @app.handler("email_queue")
    async def greet(name: str) -> None:
        seen.append(name)

    async with streamq_app(app):
        await greet.publish(name="Ada")
        assert await app.worker(burst=True).run() == 0

    assert seen == ["Ada"]


async def test_every_test_finds_an_empty_server(streamq_app):
    """What another test left is gone: the one above left the name of its queue."""
    app = streamq_app(StreamQ())

    async with app:
        assert await app.session.inspector.names() == []
