"""The only package that imports redis: every key name, every script."""
