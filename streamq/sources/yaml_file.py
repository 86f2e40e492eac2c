"""Reads the YAML file, and remembers where in it every value stands.

Strict: a key twice, a tag, an anchor's merge or a value of the wrong form is a problem at ``FILE:LINE:COLUMN``. Plain
values are read as YAML 1.2 reads them: ``on``, ``1:30`` and ``0o10`` are text, not true, 90 and 8.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from streamq.core.config_tree import Each, Section, child, tree
from streamq.core.errors import ConfigError
from streamq.core.values import Key, show
from streamq.sources.document import Document, Place

_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_WORDS = {
    form(word): value
    for word, value in {"true": True, "false": False, "null": None, "~": None, "": None}.items()
    for form in (str.lower, str.title, str.upper)
}


def read_yaml(path: Path, shown: str) -> Document:
    """Read the configuration file.

    Args:
        path: the file.
        shown: what errors call it.

    Raises:
        ConfigError: it cannot be read, or is not YAML at all. What is wrong in it otherwise is in the document.
    """
    document = Document()
    root = _compose(path, shown)
    if root is not None:
        _Reader(shown, document).walk(root, tree(), ())
    return document


def plain(text: str) -> object:
    """Return what ``text`` means where it stands without quotes (YAML 1.2, core schema)."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


class _Reader:
    """Walks the composed file along the tree of what may stand in it."""

    def __init__(self, shown: str, document: Document) -> None:
        self._shown = shown
        self._document = document

    def walk(self, node: yaml.Node, shape: Key | Section | Each, path: tuple[str, ...]) -> None:
        place = self._place(node)
        if not node.tag.startswith("tag:yaml.org,2002:"):
            self._document.wrong(place, "a tag means nothing here, expected the value alone")
        elif isinstance(shape, Key):
            self._document.put(path, shape, _value(node), place)
        elif isinstance(node, yaml.MappingNode):
            for key, name, value in self._items(node):
                self._step(key, name, value, shape, path)
        elif _value(node) is not None:  # a section in which every line is a comment is an empty one
            name = path[-1] if path else "the file"
            self._document.wrong(place, f"{name}: {_kind(node)} is not usable, expected a mapping of keys to values")

    def _items(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, str, yaml.Node]]:
        first: dict[str, int] = {}
        for key, value in node.value:
            place = self._place(key)
            if not isinstance(key, yaml.ScalarNode):
                self._document.wrong(place, f"{_kind(key)} is no key, expected a name")
            elif key.value in first:
                wrong = f"{show(key.value)} is here twice, expected it once (it is in line {first[key.value]} already)"
                self._document.wrong(place, wrong)
            else:
                first[key.value] = place.line
                yield key, key.value, value

    def _step(self, key: yaml.Node, name: str, value: yaml.Node, shape: Section | Each, path: tuple[str, ...]) -> None:
        try:
            below = child(shape, name)
        except ConfigError as error:
            self._document.wrong(self._place(key), str(error))
            return
        if path == ("queues",):
            self._document.queues[name] = None
        self.walk(value, below, (*path, name))

    def _place(self, node: yaml.Node) -> Place:
        mark = node.start_mark
        return Place(file=self._shown, line=mark.line + 1, column=mark.column + 1)


def _value(node: yaml.Node) -> object:
    if isinstance(node, yaml.ScalarNode):
        return plain(node.value) if node.style is None else node.value
    return {} if isinstance(node, yaml.MappingNode) else []


def _kind(node: yaml.Node) -> str:
    return "a single value" if isinstance(node, yaml.ScalarNode) else show(_value(node))


def _compose(path: Path, shown: str) -> yaml.Node | None:
    text = ""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {error.strerror}, expected a YAML file") from None
    except UnicodeDecodeError as error:
        place = _at(error.object[: error.start].decode("utf-8-sig"), shown)
        raise ConfigError(f"{place}: not UTF-8, expected a YAML file in UTF-8") from None
    except yaml.reader.ReaderError as error:
        place = _at(text[: error.position], shown)
        raise ConfigError(f"{place}: a control character, expected printable text") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file=shown, line=mark.line + 1, column=mark.column + 1) if mark else Place(file=shown)
        # What YAML quotes may be a piece of a password that should have stood in quotes.
        problem = re.sub(r"'[^'<\\][^' ]{2,}'", "'...'", error.problem or "nothing readable")
        raise ConfigError(f"{place}: not YAML: {problem}; expected matching quotes, brackets, indentation") from None
    except RecursionError:
        raise ConfigError(f"{shown}: nested too deeply, expected three levels") from None


def _at(before: str, shown: str) -> Place:
    lines = before.split("\n")
    return Place(file=shown, line=len(lines), column=len(lines[-1]) + 1)
