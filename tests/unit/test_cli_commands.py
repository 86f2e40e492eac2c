"""Every command teaches, and every option has its variable."""

import subprocess
import sys

import pytest
import typer

from streamq.cli import app

WITHOUT = {"help", "install_completion", "show_completion"}


def walk(command, path=()):
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from walk(below, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(walk(typer.main.get_command(app)))


def test_the_commands_of_the_interface_are_there():
    named = """
        worker, publish, queues, stats, workers, audit, doctor, demo, version, dlq list, dlq show, dlq replay,
        dlq purge, dlq export, delayed list, delayed cancel, config show, config check, config schema, keys generate,
        redis start, redis stop, redis url
    """
    assert {name.strip() for name in named.split(",")} == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_variable(name):
    """Its own STREAMQ_ one; the URL's are read by the settings, which say where it came from."""
    for option in COMMANDS[name].params:
        if option.param_type_name == "option" and option.name not in WITHOUT:
            if option.name == "redis_url":
                assert "STREAMQ_REDIS_URL" in option.help
            else:
                assert str(option.envvar).startswith("STREAMQ_"), option.name
            assert option.help, option.name


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"version", "demo", "worker"}))
def test_every_command_has_an_example(name):
    examples = [line for line in COMMANDS[name].help.splitlines() if line.startswith("Example: ")]
    assert any(f"streamq {name}" in line for line in examples)


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"version", "demo", "worker"}))
def test_every_command_can_be_asked_for_json(name):
    assert "output" in {option.name for option in COMMANDS[name].params}


def test_an_unknown_command_or_option_is_a_usage_error():
    for words in (["nonsense"], ["stats", "--nonsense"]):
        done = subprocess.run([sys.executable, "-m", "streamq", *words], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "nonsense" in done.stderr
