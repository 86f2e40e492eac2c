"""The adapters of this folder and the environments that they run in.

An adapter is a file with a block of inline script metadata (PEP 723): the Pythons it runs on, the pinned packages it
needs, and, for node, ``[tool.npm]``. Its environment is made from that by the standard library's venv, by pip and npm.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
ENVIRONMENTS = FOLDER.parent / ".environments"
NEWEST = 15  # minor version of the newest Python to look for
METADATA = re.compile(r"^# /// script\n(?P<lines>(?:#(?: .*)?\n)+?)# ///$", re.MULTILINE)


class Unsupported(Exception):
    """No Python here is as new as the peer needs it."""


class Requirements(NamedTuple):
    """What an adapter says that it needs.

    Attributes:
        python: the oldest Python, as in ``(3, 12)``.
        packages: pinned, for pip.
        npm: pinned packages of node.
    """

    python: tuple[int, ...]
    packages: list[str]
    npm: list[str]


def script(name: str) -> Path:
    """Where the adapter of a peer stands."""
    return FOLDER / f"{name}.py"


def names() -> list[str]:
    """All peers, by the names of their files."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if METADATA.search(path.read_text()))


def requirements(name: str) -> Requirements:
    """Read the metadata of an adapter.

    Args:
        name: of the peer.

    Raises:
        LookupError: there is no such peer.
    """
    found = METADATA.search(script(name).read_text()) if script(name).exists() else None
    if found is None:
        raise LookupError(f"no peer {name!r}; there are: {', '.join(names())}")
    table = tomllib.loads(re.sub(r"^# ?", "", found["lines"], flags=re.MULTILINE))
    oldest = table["requires-python"].removeprefix(">=").split(".")
    npm = table.get("tool", {}).get("npm", {}).get("dependencies", [])
    return Requirements(tuple(map(int, oldest)), table["dependencies"], npm)


def python_of(name: str) -> Path:
    """The Python of a peer's environment, be it installed or not."""
    return ENVIRONMENTS / name / "bin" / "python"


def installed(name: str) -> bool:
    """Whether everything that the adapter names has been installed, in the versions that it names."""
    receipt = _receipt(name)
    return receipt.exists() and receipt.read_text() == repr(requirements(name))


def install(name: str, python: str = sys.executable) -> None:
    """Make the environment of a peer anew, unless it has what the adapter names.

    Args:
        name: of the peer.
        python: the interpreter to make it with; if it is too old, one is looked for on the path.

    Raises:
        LookupError: there is no such peer.
        Unsupported: there is none that is new enough.
        subprocess.CalledProcessError: venv, pip or npm failed, and said why on standard error.
    """
    if installed(name):
        return
    wanted, folder = requirements(name), ENVIRONMENTS / name
    others = filter(None, (shutil.which(f"python3.{minor}") for minor in range(wanted.python[1], NEWEST + 1)))
    able = next((each for each in (python, *others) if _version(each) >= wanted.python), None)
    if able is None:
        raise Unsupported(f"{name} needs Python {'.'.join(map(str, wanted.python))} or newer: name one with --python")
    _run(able, "-m", "venv", "--clear", folder)
    if wanted.packages:
        _run(python_of(name), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted.packages)
    if wanted.npm:
        _run("npm", "install", "--silent", "--no-audit", "--no-fund", "--save-exact", "--prefix", folder, *wanted.npm)
    _receipt(name).write_text(repr(wanted))
    (ENVIRONMENTS / ".gitignore").write_text("*\n")


def _receipt(name: str) -> Path:
    return ENVIRONMENTS / name / "installed"


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


def _version(python: str) -> tuple[int, ...]:
    """What an interpreter is; less than everything if it does not run, as the shims of version managers do not."""
    told = subprocess.run(
        [python, "-c", "import sys; print(*sys.version_info[:3])"], check=False, capture_output=True, text=True
    )
    return tuple(map(int, told.stdout.split()))
