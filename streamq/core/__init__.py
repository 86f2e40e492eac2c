"""The pure floor: what is decided without Redis, without an event loop, and with the time handed in."""
