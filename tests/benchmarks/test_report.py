"""The page shows what was kept, and nothing else of it changes."""

from xml.etree import ElementTree as ET

from benchmarks.report import PAGE, PART, chart, goals, page, tables
from benchmarks.results import Result, Row, load_all
from benchmarks.scenarios import SCENARIOS, WITH_PEERS

ROWS = [
    Row("streamq / bare", "rate", "x", [0.5, 0.7, 0.6], "higher", 0.6),
    *(Row(who, "messages", "/s", [value], "higher") for who, value in (("streamq", 80_000.0), ("<bare>", 120_000.0))),
]
RESULT = Result("drain", "python -m benchmarks", "full", {"cpu": "c", "cores": 2}, {"server": "s"}, {}, {}, ROWS)


def test_parts_are_replaced_and_the_rest_stays():
    text = "before\n<!-- drain -->\nold\n<!-- end of drain -->\nafter\n"
    written = page(text, {"drain": RESULT})
    assert written.startswith("before\n<!-- drain -->\n")
    assert written.endswith("<!-- end of drain -->\nafter\n")
    assert "old" not in written
    assert "| streamq / bare | rate | 0.60 | 0.50..0.70 |" in written
    assert page(written, {"drain": RESULT}) == written


def test_what_was_not_measured_says_so():
    assert "no committed result" in page("<!-- idle -->\n<!-- end of idle -->", {})


def test_goals_come_with_their_verdict():
    assert goals([RESULT]).splitlines()[2:] == [
        "| drain | streamq / bare, rate | ≥ 0.60 |  | 0.60 | 0.50..0.70 | met |"
    ]


def test_a_contestant_has_a_line_where_all_were_measured_alike():
    assert tables(ROWS)[-2:] == ["| streamq | 80,000 (one run) |", "| <bare> | 120,000 (one run) |"]


def test_a_chart_is_an_image_with_a_bar_for_each():
    picture = ET.fromstring(chart(RESULT))
    space = {"s": "http://www.w3.org/2000/svg"}
    bars = [shape for shape in picture.findall("s:rect", space) if shape.get("class") in {"ours", "bar"}]
    assert [shape.get("class") for shape in bars] == ["ours", "bar"]
    assert float(bars[1].get("width")) == 1.5 * float(bars[0].get("width"))


def test_the_page_has_a_part_for_every_scenario():
    parts = {found["name"] for found in PART.finditer(PAGE.read_text())}
    assert parts == {"goals", *SCENARIOS, *(f"{name}-peers" for name in WITH_PEERS)}


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(PAGE.read_text(), load_all()), "run `make performance`"
