from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_screen import terminal

from harness.present.screen import grid


def lines(columns: list[grid.Column], width: int | None = None) -> list[str]:
    stream = io.StringIO()
    grid.write(columns, stream, width)
    return stream.getvalue().splitlines()


NAMES = grid.Column(title="name", texts=["a", "a longer name of two"])
NUMBERS = grid.Column(title="n", texts=["1.5", "22.25"], numeric=True)


def test_texts_stand_left_and_numbers_right_under_a_rule() -> None:
    assert lines([NAMES, NUMBERS]) == [
        "name                      n",
        "───────────────────────────",
        "a                       1.5",
        "a longer name of two  22.25",
    ]


def test_texts_are_folded_at_blanks_before_numbers_are_cut() -> None:
    assert lines([NAMES, NUMBERS], 15) == [
        "name          n",
        "───────────────",
        "a           1.5",
        "a longer  22.25",
        "name of",
        "two",
    ]


@pytest.mark.parametrize("width", [3, 8, 20, 27, 200])
def test_no_line_is_wider_than_there_is_room(width: int) -> None:
    printed = lines([NAMES, NUMBERS], width)
    assert max(map(grid.cells, printed)) <= max(width, 4)


def test_wide_characters_and_accents_take_their_cells() -> None:
    assert [grid.cells(text) for text in ("ab", "±─…", "模型", "e\u0301")] == [2, 3, 4, 1]
    first, _, second, third = lines(
        [grid.Column(title="x", texts=["模型", "ab"]), grid.Column(title="y", texts=["1", "2"])]
    )
    assert (first, second, third) == ("x     y", "模型  1", "ab    2")


@given(st.text(), st.integers(2, 40))
def test_folded_text_is_whole_and_fits(text: str, width: int) -> None:
    parts = grid.folded(text, width)
    assert all(grid.cells(part) <= width for part in parts)
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("variables", "styled"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ],
)
def test_styles_are_for_terminals_that_know_them(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, styled: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status = grid.Column(title="status", texts=["ok"], style=lambda _: "green")
    with terminal() as (stream, got):
        grid.write([status], stream)
    assert ("\x1b[32mok\x1b[0m" in got.tobytes().decode()) is styled


def test_a_terminal_says_how_wide_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with terminal() as (stream, _):
        assert grid.terminal_width(stream) == 80  # this one does not say
        monkeypatch.setenv("COLUMNS", "33")
        assert grid.terminal_width(stream) == 33
    assert grid.terminal_width(io.StringIO()) is None


def test_an_empty_table_is_a_heading() -> None:
    empty: list[Any] = []
    assert lines([grid.Column(title="name", texts=empty)]) == ["name", "────"]
