"""What commands print."""

import json

import pytest

from streamq.cli.output import Format, JsonWriter, moment, show, show_stream, shown

ROWS = [{"name": "a", "n": 1, "ok": True, "many": ["x", "y"], "none": None}, {"name": "b\x1b[2J", "n": 2}]


def test_json_is_always_an_array(capfd):
    show(ROWS, Format.JSON)
    assert json.loads(capfd.readouterr().out) == ROWS
    show([], Format.JSON)
    assert json.loads(capfd.readouterr().out) == []


def test_jsonl_is_a_row_a_line(capfd):
    show(ROWS, Format.JSONL)
    assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == ROWS
    show([], Format.JSONL)
    assert capfd.readouterr().out == ""


def test_json_is_utf8_whatever_the_locale(tmp_path):
    with (tmp_path / "rows").open("wb") as file:
        writer = JsonWriter(Format.JSON, file)
        writer.write({"x": "\N{SNOWMAN}"})
        writer.close()
    assert json.loads((tmp_path / "rows").read_bytes()) == [{"x": "\N{SNOWMAN}"}]


def test_a_table_shows_columns_and_no_control_characters(capfd):
    """Numbers to the right, lists with commas, and nothing that a terminal would obey."""
    show(ROWS, Format.TABLE, ("name", "n", "ok", "many"))
    said = capfd.readouterr().out
    assert "x, y" in said
    assert "yes" in said
    assert "\x1b" not in said
    assert r"b\x1b[2J" in said
    assert "none" not in said


def test_an_empty_table_is_a_word_on_stderr(capfd):
    show([], Format.TABLE, empty="no queue")
    assert capfd.readouterr() == ("", "no queue\n")


def test_wide_cells_are_not_cut_when_piped(capfd):
    show([{"x": "y" * 500}], Format.TABLE)
    assert "y" * 500 in capfd.readouterr().out


async def stream(count):
    for n in range(count):
        yield {"n": n, "hidden": 1}


@pytest.mark.parametrize(("count", "told"), [(3, ""), (4, "only the first 3")])
async def test_a_long_stream_of_rows_ends_a_table_with_a_word(capfd, count, told):
    await show_stream(stream(count), Format.TABLE, ("n",), most=3)
    out, err = capfd.readouterr()
    assert "2" in out
    assert told in err


async def test_a_long_stream_of_rows_is_whole_in_json(capfd):
    await show_stream(stream(5), Format.JSON, ("n",), most=3)
    assert len(json.loads(capfd.readouterr().out)) == 5


def test_times_are_rfc3339():
    assert moment(1763807000) == "2025-11-22T10:23:20Z"
    assert moment(1e300) == "1e+300"


def test_what_turns_a_line_round_is_shown():
    assert shown("a\u202eb\x7f\tc\n") == "a\\u202eb\\x7f\tc\n"
