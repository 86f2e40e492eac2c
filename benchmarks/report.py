"""Write the kept results into docs/performance.md, and the charts beside it: ``make performance``.

The page is written by hand but for what stands between ``<!-- NAME -->`` and ``<!-- end of NAME -->``. NAME is that
of a file in benchmarks/results, or ``goals``.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.charts import Bar, Group, draw
from benchmarks.contest import US
from benchmarks.results import Result, Row, load_all, number
from benchmarks.scenarios import SCENARIOS

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
CHARTS = "charts"  # the folder beside the page
PART = re.compile(r"(?P<begin><!-- (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end of (?P=name) -->)", re.DOTALL)


def page(text: str, results: Mapping[str, Result]) -> str:
    """The page with every part written anew.

    Args:
        text: the page as it is.
        results: by the stem of their files.
    """

    def part(found: re.Match[str]) -> str:
        name = found["name"]
        body = goals(results.values()) if name == "goals" else section(name, results.get(name))
        return f"{found['begin']}\n{body}\n\n{found['end']}"

    return PART.sub(part, text)


def section(name: str, result: Result | None) -> str:
    """What was measured in one scenario, how, and what it does not say."""
    scenario = SCENARIOS[name.removesuffix("-peers")]
    summary, more = scenario.about
    lines = [f"{summary} {more}", ""]
    if result is None:
        return "\n".join([*lines, "There is no committed result yet."])
    if chart(result) is not None:
        lines += [f"![{summary}]({CHARTS}/{name}.svg)", ""]
    lines += tables(ranked(result))
    if result.with_peers:
        lines += ["", "How each of them was set up:", "", *_settings(result)]
    lines += [f"\n{who} took no part to the end: {why}" for who, why in result.failed.items()]
    return "\n".join(
        [*lines, "", f"`{result.command}`, on {_place(result)}", "", f"**Not said:** {scenario.silent_on}"]
    )


def _place(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items() if name != "server")
    return f"{result.machine['cores']} cores of {result.machine['cpu']}; {result.versions['server']}; {versions}."


def _settings(result: Result) -> Iterable[str]:
    yield from ["| | versions | settings | delivery |", "|---|---|---|---|"]
    for name, about in result.contestants.items():
        versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
        yield f"| {name} | {versions} | {about['settings']} | {about['delivery']} |"


def goals(results: Iterable[Result]) -> str:
    """Every row that has a goal. What a run with peers measures once more is left out."""
    lines = ["| | | goal | stretch | measured | spread | |", "|---|---|---|---|---|---|---|"]
    told = set()
    for result in sorted(results, key=lambda result: result.with_peers):
        for row in result.rows:
            if row.goal is None or (result.scenario, row.key) in told:
                continue
            told.add((result.scenario, row.key))
            sign = "≥" if row.better == "higher" else "≤"
            stretch = "" if row.stretch is None else _figure(row.stretch, row.unit)
            lines.append(
                f"| {result.scenario.replace('_', ' ')} | {row.who}, {row.what} | {sign} {_figure(row.goal, row.unit)} "
                f"| {stretch} | {_figure(row.median, row.unit)} | {_spread(row)} | {row.verdict} |"
            )
    return "\n".join(lines) if told else "There is no committed result yet."


def ranked(result: Result) -> list[Row]:
    """The rows; beside peers those come first who do best in the figure that is told first."""
    if not result.with_peers:
        return result.rows
    figures = [row for row in result.rows if not _is_ratio(row)]
    first = [row for row in figures if row.what == figures[0].what]
    best = sorted(first, key=lambda row: row.median, reverse=first[0].better == "higher")
    places = {row.who: place for place, row in enumerate(best)}
    whats = list(dict.fromkeys(row.what for row in figures))
    figures.sort(key=lambda row: (whats.index(row.what), places.get(row.who, len(places))))
    return [*filter(_is_ratio, result.rows), *figures]


def tables(rows: Sequence[Row]) -> list[str]:
    """Ratios, then the figures: where several were measured alike, a line for each and a column for each figure."""
    ratios = [row for row in rows if _is_ratio(row)]
    figures = [row for row in rows if not _is_ratio(row)]
    lines = []
    if ratios:
        lines = ["| ratio, pair by pair | | median | spread |", "|---|---|---|---|"]
        lines += [f"| {row.who} | {row.what} | {number(row.median)} | {_spread(row)} |" for row in ratios]
        lines += [""] if figures else []
    if not figures:
        return lines
    whos, whats = (list(dict.fromkeys(names)) for names in zip(*(row.key for row in figures), strict=True))
    if len(whats) < len(figures):
        return lines + _matrix(figures, whos, whats)
    lines += ["| | | median | spread |", "|---|---|---|---|"]
    return lines + [f"| {row.who} | {row.what} | {_figure(row.median, row.unit)} | {_spread(row)} |" for row in figures]


def _matrix(figures: Sequence[Row], whos: Sequence[str], whats: Sequence[str]) -> list[str]:
    by_key = {row.key: row for row in figures}
    units = {row.what: row.unit for row in figures}
    lines = ["| | " + " | ".join(f"{what}, {units[what]}" for what in whats) + " |", "|---|" + "---|" * len(whats)]
    for who in whos:
        found = (by_key.get((who, what)) for what in whats)
        cells = ["-" if row is None else f"{number(row.median)} ({_spread(row)})" for row in found]
        lines.append(f"| {who} | " + " | ".join(cells) + " |")
    return lines


def chart(result: Result) -> str | None:
    """The picture of a scenario that has one: a group of bars for each figure that it wants drawn."""
    groups = []
    for what in SCENARIOS[result.scenario].charted:
        rows = [row for row in ranked(result) if row.what == what and not _is_ratio(row)]
        if rows:
            better = "more is better" if rows[0].better == "higher" else "less is better"
            bars = [Bar(row.who, row.median, *row.spread, ours=row.who.startswith(US)) for row in rows]
            unit = {"/s": " a second", "x": ""}.get(rows[0].unit, f", {rows[0].unit}")
            groups.append(Group(f"{what}{unit} ({better})", bars))
    return draw(result.scenario.replace("_", " "), groups) if groups else None


def _figure(value: float, unit: str) -> str:
    return number(value) + {"x": "", "/s": "/s"}.get(unit, f" {unit}")


def _is_ratio(row: Row) -> bool:
    return "/" in row.who


def _spread(row: Row) -> str:
    low, high = row.spread
    return f"{number(low)}..{number(high)}" if len(row.values) > 1 else "one run"


def main() -> None:
    """Write the page and the charts."""
    results = load_all()
    PAGE.write_text(page(PAGE.read_text(), results))
    folder = PAGE.parent / CHARTS
    folder.mkdir(exist_ok=True)
    for name, result in results.items():
        if (picture := chart(result)) is not None:
            (folder / f"{name}.svg").write_text(picture)
    print(f"{PAGE.name}: {len(results)} results", file=sys.stderr)


if __name__ == "__main__":
    main()
