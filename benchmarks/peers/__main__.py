"""``python -m benchmarks.peers``: which peers there are, make their environments, say which Python runs one."""

import argparse
import subprocess
import sys

from benchmarks.peers import environments


def main() -> int:
    """Do what the command line says."""
    options = _options()
    try:
        if options.command == "list":
            for name in environments.names():
                print(f"{name:12}  {_state(name)}")
        elif options.command == "python":
            environments.requirements(options.name)
            print(environments.python_of(options.name))
        else:
            return _install(options.names or environments.names(), options.python)
    except LookupError as error:
        return _complain(error)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all peers, and whether their environments are up to date")
    install = commands.add_parser("install", help="make environments below benchmarks/.environments")
    install.add_argument("names", metavar="NAME", nargs="*", help="of a peer; without any: all of them")
    install.add_argument("--python", default=sys.executable, help="the interpreter to make them with; %(default)s")
    python = commands.add_parser("python", help="print the path of a peer's Python")
    python.add_argument("name", metavar="NAME")
    return parser.parse_args()


def _state(name: str) -> str:
    needed = environments.requirements(name).python
    if environments.installed(name):
        return "installed"
    if sys.version_info < needed:
        return f"not installed: needs Python {'.'.join(map(str, needed))} or newer"
    return "not installed"


def _install(names: list[str], python: str) -> int:
    """Install one after the other; who fails does not keep the rest from it."""
    failures = 0
    for name in names:
        print(f"{name} ...", file=sys.stderr)
        try:
            environments.install(name, python)
        except (environments.Unsupported, subprocess.CalledProcessError) as error:
            failures += _complain(error)
    return min(failures, 1)


def _complain(error: Exception) -> int:
    print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
