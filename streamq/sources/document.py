"""What a user wrote, and where: the common form of the file and the environment."""

from typing import Any

from msgspec import Struct, field

from streamq.core.errors import ConfigError
from streamq.core.values import Key, parse_value

Path = tuple[str, ...]


class Place(Struct, frozen=True, order=True):
    """Where somebody wrote something: a spot in the file, or the name of a variable."""

    variable: str = ""  # first: the problems of the file are told before those of the environment
    line: int = 0
    column: int = 0
    file: str = ""

    def __str__(self) -> str:
        return self.variable or f"{self.file}:{self.line}:{self.column}"

    @property
    def origin(self) -> str:
        """The place as ``config show --origin`` names it."""
        return self.variable or f"{self.file}:{self.line}"


class Document(Struct):
    """What was written, flat: the value and the place of every key, and everything that is wrong."""

    values: dict[Path, Any] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)
    queues: dict[str, None] = field(default_factory=dict)  # in order; a queue without a key of its own is one too
    problems: list[tuple[Place, str]] = field(default_factory=list)

    def put(self, path: Path, key: Key, raw: object, place: Place) -> None:
        """Note what ``raw`` means for the key at ``path``, or that it means nothing."""
        self.places[path] = place
        try:
            self.values[path] = parse_value(key, raw)
        except ValueError as error:
            self.wrong(place, f"{path[-1]}: {error}")

    def wrong(self, place: Place, text: str) -> None:
        """Note a problem."""
        self.problems.append((place, text))

    def under(self, *path: str) -> dict[str, Any]:
        """Return the values of the keys right under ``path``, by name."""
        return {found[-1]: value for found, value in self.values.items() if found[:-1] == path}

    def names(self, path: Path) -> set[str]:
        """Return the names that somebody used right under ``path``."""
        used = {found[len(path)] for found in self.places if found[: len(path)] == path}
        return used | self.queues.keys() if path == ("queues",) else used

    def check(self) -> None:
        """Raise ConfigError with every problem, a line each, if there are any."""
        if self.problems:
            raise ConfigError("\n".join(dict.fromkeys(f"{place}: {text}" for place, text in sorted(self.problems))))
