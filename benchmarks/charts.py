"""Bar charts as SVG, written by hand: as readable on a dark page as on a light one."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from benchmarks.results import number

WIDTH, LABEL, FIGURE = 720, 150, 150  # pixels: all, left of the bars, right of them
BAR, GAP, HEADING, MARGIN = 16, 6, 30, 12
STYLE = """
svg { font: 12px system-ui, sans-serif; }
.page { fill: #ffffff; } text { fill: #1f2328; } .faint { fill: #59636e; }
.bar { fill: #8c959f; } .ours { fill: #0969da; } .spread { stroke: #1f2328; }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117; } text { fill: #f0f6fc; } .faint { fill: #9198a1; }
.bar { fill: #656c76; } .ours { fill: #4493f8; } .spread { stroke: #f0f6fc; }
}
"""


class Bar(NamedTuple):
    """One figure.

    Attributes:
        label: who.
        median: how long the bar is.
        low: the lowest run.
        high: the highest run.
        ours: drawn in the colour of streamq.
    """

    label: str
    median: float
    low: float
    high: float
    ours: bool


class Group(NamedTuple):
    """Bars that share a scale, which begins at 0.

    Attributes:
        heading: what they show, and whether more of it is better.
        bars: from top to bottom.
    """

    heading: str
    bars: Sequence[Bar]


def draw(title: str, groups: Sequence[Group]) -> str:
    """One picture of several groups.

    Args:
        title: for who cannot see it.
        groups: from top to bottom, each with a bar at least.
    """
    height, shapes = MARGIN, []
    for group in groups:
        shapes.append(f'<text x="{MARGIN}" y="{height + 16}" font-weight="600">{escape(group.heading)}</text>')
        height += HEADING
        longest = max(bar.high for bar in group.bars) or 1.0
        for bar in group.bars:
            shapes += _bar(bar, height, (WIDTH - LABEL - FIGURE) / longest)
            height += BAR + GAP
        height += MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def _bar(bar: Bar, top: float, scale: float) -> list[str]:
    """The label, the bar, a line from the lowest to the highest run, the figure."""
    middle, base = top + BAR / 2, top + BAR - 4
    end, low, high = (LABEL + value * scale for value in (bar.median, bar.low, bar.high))
    kind, width = "ours" if bar.ours else "bar", max(end - LABEL, 1)
    shapes = [
        f'<text x="{LABEL - 8}" y="{base}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{kind}" x="{LABEL}" y="{top}" width="{width:.1f}" height="{BAR}" rx="2"/>',
        f'<text class="faint" x="{max(end, high) + 8:.1f}" y="{base}">{number(bar.median)}</text>',
    ]
    if high - low > 1:
        shapes.append(f'<path class="spread" d="M{low:.1f} {middle}H{high:.1f}"/>')
    return shapes
