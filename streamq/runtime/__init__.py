"""Getting messages done: one role a file, put together in ``worker``."""
