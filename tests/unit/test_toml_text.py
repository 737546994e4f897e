"""Edit one table of a user's TOML file; every other line, comment and line end stays."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.farm import contact, toml_text
from harness.types import Device

ENTRY = {"profile": "pi", "address": "ssh://pi", "tags": ["a", "b"]}

NAMES = ("pi", "a", "10.0.0.8", "odd name", 'with "quotes"', "é", "", "#", "device")
KEYS = ("profile", "address", "tags", "workdir", "odd key", "é")
VALUES = (
    '"text"',
    "'literal # no comment'",
    '"""several\nlines\n[device.pi]\n"""',
    "['x', # why\n  'y']",
    "[]",
    "1_000",
    "1979-05-27T07:32:00Z",
    "{ a = 1, 'b' = [2] }",
    "true",
)

comments = st.sampled_from(["", "", " # a comment", "\t# [device.pi]"])
loose = st.sampled_from(["", "\n", "# above\n", "  # profile = 1\n", "\n\n# above\n"])


@st.composite
def bodies(draw: st.DrawFn) -> str:
    indent = draw(st.sampled_from(["", "", "  ", "\t"]))
    lines = []
    for name in draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=4)):
        equals = draw(st.sampled_from([" = ", "=", "  =  "]))
        written = draw(st.sampled_from(VALUES))
        lines.append(f"{indent}{_key(draw, name)}{equals}{written}{draw(comments)}\n{draw(loose)}")
    return "".join(lines)


def _key(draw: st.DrawFn, name: str) -> str:
    quoted = draw(st.booleans())
    return f"'{name}'" if quoted else toml_text.key(name)


@st.composite
def inline(draw: st.DrawFn) -> str:
    names = draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=3))
    one_line = st.sampled_from([item for item in VALUES if "\n" not in item])
    return "{ " + ", ".join(f"{_key(draw, name)} = {draw(one_line)}" for name in names) + " }"


@st.composite
def tables(draw: st.DrawFn, name: str) -> str:
    head = f"device.{_key(draw, name)}"
    form = draw(st.sampled_from(["table", "table", "table", "below", "only below"]))
    text = ""
    if form != "only below":
        text += f"[{head}]{draw(comments)}\n{draw(bodies())}"
    if form != "table":
        text += f"{draw(loose)}[{head}.meter_options]\nbus = 1\n{draw(loose)}"
    return text


@st.composite
def headed(draw: st.DrawFn, names: Sequence[str]) -> str:
    text = "[device]\n" + draw(loose) if draw(st.booleans()) else ""
    for name in names:
        text += draw(tables(name)) + draw(loose)
        if draw(st.integers(0, 4)) == 0:
            text += f"[other{len(text)}]\nx = 1\n"
    return text


@st.composite
def dotted(draw: st.DrawFn, names: Sequence[str]) -> str:
    text = ""
    for name in names:
        for line in draw(st.lists(st.sampled_from(KEYS), unique=True, min_size=1, max_size=3)):
            text += f"device.{_key(draw, name)}.{_key(draw, line)} = 1{draw(comments)}\n"
    return text


@st.composite
def one_line_per_device(draw: st.DrawFn, names: Sequence[str]) -> str:
    lines = [f"{_key(draw, name)} = {draw(inline())}{draw(comments)}\n" for name in names]
    return "".join(["[device]\n", *(line + draw(loose) for line in lines)])


@st.composite
def all_inline(draw: st.DrawFn, names: Sequence[str]) -> str:
    inner = ", ".join(f"{_key(draw, name)} = {draw(inline())}" for name in names)
    return f"device = {{ {inner} }}{draw(comments)}\n{draw(loose)}"


@st.composite
def farms_as_written(draw: st.DrawFn) -> str:
    """Make a farm file: tables, dotted keys, inline tables, other tables between them."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    form = draw(st.sampled_from([headed, headed, dotted, one_line_per_device, all_inline]))
    text = draw(loose) + draw(form(names))
    if draw(st.integers(0, 3)) == 0:
        text = text.removesuffix("\n")
    if draw(st.integers(0, 3)) == 0:
        text = text.replace("\n", "\r\n")
    return text


def parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assume(False)
        raise


def with_device(text: str, name: str, folder: Path) -> str:
    """Return the file after `add` of the device in ENTRY."""
    path = folder / "farm.toml"
    path.write_bytes(text.encode())
    contact.write_device(path, Device(name=name, profile="pi", address="ssh://pi", tags=("a", "b")))
    return path.read_bytes().decode()


def set_in(text: str, name: str, entries: dict[str, Any], folder: Path) -> str:
    path = folder / "farm.toml"
    path.write_bytes(text.encode())
    toml_text.update_table(path, ("device", name), entries)
    return path.read_bytes().decode()


CONTINUED = ("several", "lines", "[device.pi]", '"""', "  'y']")
"""Lines inside of values that span several lines."""


def may_change(line: str, name: str) -> bool:
    """Whether a line is part of an entry that is replaced."""
    if line.startswith(CONTINUED):
        return True
    begin, bare = (re.sub(r"""["'\\]""", "", text) for text in (line.strip(), name))
    return begin.startswith((*ENTRY, f"device.{bare}.", "device = {", bare))


@given(text=farms_as_written(), name=st.sampled_from(NAMES))
def test_any_file_keeps_its_data_and_its_lines(
    text: str, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = parsed(text)
    changed = with_device(text, name, tmp_path_factory.mktemp("farm"))

    devices = before.get("device", {})
    known = devices.get(name, {})
    assert tomllib.loads(changed) == {
        **before,
        "device": {**devices, name: {**known, **ENTRY}},
    }
    difference = difflib.ndiff(text.splitlines(), changed.splitlines())
    gone = [line[2:] for line in difference if line[:2] == "- "]
    replaced = set(known) & set(ENTRY) or "{" in text
    assert all(may_change(line, name) for line in gone) if replaced else not gone
    if "\r\n" in text:
        assert changed.count("\n") == changed.count("\r\n")
    else:
        assert "\r" not in changed


@given(text=farms_as_written(), name=st.sampled_from(NAMES))
def test_the_second_time_changes_nothing(
    text: str, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parsed(text)
    folder = tmp_path_factory.mktemp("farm")
    once = with_device(text, name, folder)

    assert with_device(once, name, folder) == once


def test_comments_stay_with_their_entries(tmp_path: Path) -> None:
    text = """\
# my lab

[device.pi]        # the one on the bench
  # moved in spring
  profile = "raspberry_pi_4"   # was a 4

# the other one
[device.other]
profile = "x"
"""
    changed = set_in(
        text, "pi", {"profile": "raspberry_pi_5", "python": "/usr/bin/python3"}, tmp_path
    )
    assert changed == text.replace('"raspberry_pi_4"   # was a 4\n', '"raspberry_pi_5"   # was a 4\npython = "/usr/bin/python3"\n')  # fmt: skip


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("", '[device.pi]\nx = "1"\n'),
        ("# only text", '# only text\n\n[device.pi]\nx = "1"\n'),
        ("[device.a]\n\n", '[device.a]\n\n[device.pi]\nx = "1"\n'),
        ("[device.a]\r\n", '[device.a]\r\n\r\n[device.pi]\r\nx = "1"\r\n'),
        ("[device.pi]", '[device.pi]\nx = "1"'),
        ("[device.pi]\r\ny = 2 # y\r\n\r\n# b\r\n[b]\r\n", '[device.pi]\r\ny = 2 # y\r\nx = "1"\r\n\r\n# b\r\n[b]\r\n'),
        ("[device.pi]\n\n# sub\n[device.pi.sub]\n", '[device.pi]\nx = "1"\n\n# sub\n[device.pi.sub]\n'),
        ("[device]\npi = {y = 2} # c\n", '[device]\npi = {y = 2, x = "1"} # c\n'),
        ("device = {a = {y = 2}}\n", 'device = {a = {y = 2}, pi = {x = "1"}}\n'),
        ("device.pi.y = 2\n[b]\n", 'device.pi.y = 2\ndevice.pi.x = "1"\n[b]\n'),
    ],
)  # fmt: skip
def test_an_entry_is_added_in_the_form_of_the_file(tmp_path: Path, text: str, changed: str) -> None:
    assert set_in(text, "pi", {"x": "1"}, tmp_path) == changed


@pytest.mark.parametrize("text", ["device = 3\n", "[[device]]\n", "device.pi = 3\n[device.b]\n"])
def test_a_value_that_is_not_a_table_is_not_changed(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"only a person.*table \[device.pi\] with x = 1"):
        set_in(text, "pi", {"x": 1}, tmp_path)
    assert (tmp_path / "farm.toml").read_text() == text


@pytest.mark.parametrize("now", [b"[device.b]\n", None])
def test_a_file_that_changed_meanwhile_is_not_overwritten(
    tmp_path: Path, now: bytes | None
) -> None:
    path = tmp_path / "farm.toml"
    if now is not None:
        path.write_bytes(now)
    with pytest.raises(ConfigError, match=r"farm\.toml: changed while it was being written"):
        toml_text.write_whole(path, "x = 1\n", before=b"[device.a]\n")
    assert [one.read_bytes() for one in tmp_path.iterdir()] == ([] if now is None else [now])


@pytest.mark.parametrize(
    "text", [b"[device", b"\xff", b"[device.a]\n[device.a]\n", b"x = 1\rx = 2"]
)
def test_invalid_toml_is_named_and_not_changed(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "farm.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=r"farm\.toml: cannot be read"):
        toml_text.update_table(path, ("device", "pi"), ENTRY)
    assert path.read_bytes() == text


def test_tomlkit_is_imported_only_to_write_a_file() -> None:
    script = (
        "import sys, harness.api, harness.cli, harness.farm.contact, harness.farm.toml_text as t\n"
        "before = 'tomlkit' in sys.modules; t.value('x'); print(before, 'tomlkit' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"False True\n"
