"""Prose of the pages: line length, plain words, links that resolve, terms that are used."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "results" / "published").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    ROOT / "harness" / "demo" / "README.md",
]
EVERY_PAGE = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES]
)

MAX_COLUMNS = 100
NOT_PLAIN = {
    r"told|tells?|telling": "reported, says, is notified",
    r"mend(?:s|ed|ing)?": "fix, the command that fixes it",
    r"doors?|house|rooms|(?:the|a|this|each|every) room": "entry point, project, package",
    r"somebody|nobody": "another user, no user",
    r"parcel|slim|lining": "transfer encoding, minify, alignment",
    r"could not be asked": "invalid input or usage",
    r"under way": "in progress",
    r"wherever": "if, whenever",
    r"MOST_\w*|LEAST_\w*|LONGEST_\w*|SMALLEST_\w*": "MAX_, MIN_",
}


def text_lines(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page with their numbers, without fenced and indented code."""
    fenced = False
    before = ""
    indented = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            starts = not before.strip() or before.startswith("#") or indented
            indented = starts and line.startswith("    ")
            if not indented:
                yield number, line
        before = line


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    headings = [line.lstrip("#") for _, line in text_lines(page) if line.startswith("#")]
    return {slug(heading) for heading in headings}


def terms() -> list[str]:
    rows = [line for _, line in text_lines(GLOSSARY) if line.startswith("| ")][1:]
    return [term.strip() for row in rows for term in row.split("|")[1].split(",")]


def test_code_is_no_prose(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("one\n\n    code\n    more\n\n```\nfenced\n```\n- item\n    still the item\n")
    assert [number for number, _ in text_lines(page)] == [1, 2, 5, 9, 10]


@EVERY_PAGE
def test_prose_wraps_at_100_columns(page: Path) -> None:
    for number, line in text_lines(page):
        if not line.startswith(("|", "#", "<!--")):
            whole = re.sub(r"`[^`]*`", "code", line.strip().removeprefix("- "))
            can_break = " " in whole
            assert len(line) <= MAX_COLUMNS or not can_break, f"{page}:{number}"


@EVERY_PAGE
def test_words_are_plain(page: Path) -> None:
    for number, line in text_lines(page):
        text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)
        for pattern, better in NOT_PLAIN.items():
            found = re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE)
            assert found is None, f"{page}:{number}: {found and found.group()}; better: {better}"


@EVERY_PAGE
def test_a_relative_link_resolves(page: Path) -> None:
    for number, line in text_lines(page):
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{page}:{number}: {target}"
            if anchor:
                assert anchor in anchors(linked), f"{page}:{number}: {target}"


@EVERY_PAGE
def test_a_table_has_headings(page: Path) -> None:
    before = ""
    for number, line in text_lines(page):
        if line.startswith("|") and not before.startswith("|"):
            assert all(cell.strip() for cell in line.strip("|").split("|")), f"{page}:{number}"
        before = line


def test_the_glossary_is_sorted() -> None:
    rows = [line for _, line in text_lines(GLOSSARY) if line.startswith("| ")][1:]
    first = [row.split("|")[1].split(",")[0].strip() for row in rows]
    assert first == sorted(first)


@pytest.mark.parametrize("term", terms())
def test_a_term_of_the_glossary_is_used(term: str) -> None:
    plural = term.removesuffix("y") + "ies" if term.endswith("y") else term + "s"
    used = re.compile(rf"\b(?:{re.escape(term)}|{re.escape(plural)})\b", re.IGNORECASE)
    pages = [page for page in PAGES if page != GLOSSARY]
    assert any(used.search(" ".join(page.read_text(encoding="utf-8").split())) for page in pages)
