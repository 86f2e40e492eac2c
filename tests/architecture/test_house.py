"""The house stands as drawn: floors, sizes, scripts, packages. What a reviewer would otherwise have to remember."""

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# What is longer is named here with its own bound and the reason why it is not two things. Bounds only come down.
MAX_FILE_LINES = 300
LONG_FILES: dict[str, tuple[int, str]] = {}
MAX_FUNCTION_LINES = 40
LONG_FUNCTIONS: dict[str, tuple[int, str]] = {}

# Tests do not wait for time. Where there is no event to wait for, the file is named here with its reason.
MAY_SLEEP: dict[str, str] = {
    "tests/support.py": "wait_until, for what other processes do",
    "tests/e2e/app/__init__.py": "handlers that take a while, in processes of their own",
    "tests/faults/app_of_versions.py": "the same",
    "tests/chaos/app.py": "the same",
    "tests/chaos/faults.py": "faults that last, on other processes",
    "tests/chaos/naive.py": "a worker as one should not write it",
    "tests/chaos/run.py": "looks after other processes",
    "tests/servers/proxy.py": "a network that is slow",
}

# One place reads the environment, so that one page can list what it means.
# Handing it on to a child, `{**os.environ, ...}`, is not reading it.
MAY_READ_ENVIRONMENT: dict[str, str] = {
    "streamq/settings.py": "the one reader",
    "streamq/cli/worker.py": "the mark that a supervising parent leaves for its child",
    "streamq/cli/demo/story.py": "cleans what it hands to its children",
}


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


# --- floors


def test_the_floors_hold():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_settings_read_the_environment():
    readers = {name(path) for path in sources("streamq") if any(environment_reads(parse(path)))}
    assert readers - MAY_READ_ENVIRONMENT.keys() == set()


def environment_reads(tree: ast.Module) -> Iterator[ast.AST]:
    handed_on = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if key is None
    }
    for node in ast.walk(tree):
        match node:
            case ast.AST() if id(node) in handed_on:
                continue
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb" | "getenv"):
                yield node
            case ast.ImportFrom(module="os", names=names) if any(n.name in {"environ", "getenv"} for n in names):
                yield node


def test_help_loads_typer_alone():
    command = "import sys; from streamq.cli import main; sys.argv[1:] = ['--help']; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "worker" in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert loaded & {"redis", "hiredis", "msgspec", "structlog", "anyio", "yaml", "uvloop"} == set()


# --- sizes


def test_files_stay_on_a_few_screens():
    sizes = {name(path): len(path.read_text().splitlines()) for path in sources("streamq")}
    within_bounds(sizes, MAX_FILE_LINES, LONG_FILES)


def test_functions_stay_on_one_screen():
    sizes = {}
    for path in sources("streamq"):
        for where, function in functions(parse(path)):
            sizes[f"{name(path)}:{where}"] = code_lines(function)
    within_bounds(sizes, MAX_FUNCTION_LINES, LONG_FUNCTIONS)


def within_bounds(sizes: dict[str, int], limit: int, exceptions: dict[str, tuple[int, str]]) -> None:
    too_long = {key: size for key, size in sizes.items() if size > exceptions.get(key, (limit, ""))[0]}
    assert too_long == {}
    needless = {key for key in exceptions if sizes.get(key, 0) <= limit}
    assert needless == set(), "these are short enough now: take them out"


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from functions(child, f"{prefix}{child.name}.")
        else:
            yield from functions(child, prefix)


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From ``def`` to the end, without the docstring: what is well explained is not too long for it."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


# --- tests


def test_tests_do_not_wait_for_time():
    """``sleep(0)`` is a turn of the loop, not a wait."""
    sleepers = {name(path) for path in sources("tests") if any(sleeps(parse(path)))}
    assert sleepers - MAY_SLEEP.keys() == set(), "wait for an event, or turn the virtual clock"
    assert MAY_SLEEP.keys() - sleepers == set(), "these sleep no longer: take them out"


def sleeps(tree: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="sleep") | ast.Name(id="sleep"), args=[ast.Constant(value=0)]):
                continue
            case ast.Call(func=ast.Attribute(attr="sleep") | ast.Name(id="sleep")):
                yield node


# --- scripts

SCRIPTS = sorted((ROOT / "streamq/store/lua").glob("*.lua"))
SCRIPT_PARTS = sorted((ROOT / "streamq/store/lua/lib").glob("*.lua"))


def test_there_are_scripts():
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_says_what_it_takes_and_returns(script):
    first, *rest = script.read_text().splitlines()
    assert re.fullmatch(r"#!lua( flags=[a-z,-]+)?", first)
    header = []
    for line in rest:
        if not line.startswith("--"):
            break
        header.append(line)
    assert header, "the contract follows the first line"
    assert not header[0].startswith(("-- KEYS:", "-- ARGV:", "-- Returns:")), "first of all, what it does"
    for part in ("-- KEYS: ", "-- ARGV: ", "-- Returns: "):
        assert any(line.startswith(part) for line in header), f"no {part!r} in the header"


@pytest.mark.parametrize("part", SCRIPT_PARTS, ids=lambda part: part.stem)
def test_what_scripts_share_says_what_it_is_for(part):
    assert part.read_text().startswith("-- ")


# --- packages


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source distribution, made from this tree without a network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_holds_the_package_and_the_handlers(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {file for file in archive.namelist() if ".dist-info/" not in file}
    ours = {
        name(path)
        for folder in ("streamq", "workers")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files == ours
    assert "streamq/py.typed" in files
    assert {f"streamq/store/lua/{script.name}" for script in SCRIPTS} <= files
    assert any(file.startswith("workers/templates/") for file in files)


def test_the_source_distribution_holds_what_it_names(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {member.name.split("/")[1] for member in archive.getmembers()}
    named = set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"])
    always = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
    assert named <= tops
    assert tops <= named | always


# --- the locked set


def locked(file: str) -> dict[str, str]:
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "requirements" / file).read_text(), flags=re.MULTILINE)
    return {canonicalize_name(package): version for package, version in pins}


def wanted(*groups: str) -> Iterator[Requirement]:
    for group in groups:
        for item in PYPROJECT["dependency-groups"][group]:
            if isinstance(item, dict):
                yield from wanted(item["include-group"])
            else:
                yield Requirement(item)


def test_the_locked_set_fits_what_the_project_asks_for():
    extras = [item for items in PYPROJECT["project"]["optional-dependencies"].values() for item in items]
    required = [*map(Requirement, PYPROJECT["project"]["dependencies"] + extras), *wanted("dev")]
    versions = locked("dev.txt")
    stale = {
        str(requirement)
        for requirement in required
        if requirement.name != "streamq"
        and not requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), "0"))
    }
    assert stale == set(), "run `make lock`"


@pytest.mark.parametrize("file", ["runtime.txt", "build.txt"])
def test_what_ships_is_what_was_tested(file):
    assert locked(file).items() <= locked("dev.txt").items()


@pytest.mark.parametrize("file", ["dev.txt", "runtime.txt", "build.txt"])
def test_the_locked_set_names_no_host(file):
    text = (ROOT / "requirements" / file).read_text()
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text
