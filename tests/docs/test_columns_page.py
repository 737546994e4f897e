"""docs/columns.md has the registry's own table."""

from pathlib import Path

from harness import columns

PAGE = (Path(__file__).parents[2] / "docs" / "columns.md").read_text(encoding="utf-8")


def test_the_table_on_the_page_is_the_registrys() -> None:
    # `python -m harness.columns` prints it.
    assert columns.markdown() in PAGE


def test_every_heading_of_the_table_is_explained_or_plain() -> None:
    heads = [cell.strip() for cell in columns.markdown().splitlines()[0].strip("|").split("|")]
    explained = ("Better", "Noise")
    assert set(explained) <= set(heads)
    assert all(f"**{head}**" in PAGE for head in explained)
