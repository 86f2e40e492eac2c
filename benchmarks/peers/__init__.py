"""Other frameworks at the same work: one adapter a file, each in an environment of its own."""
