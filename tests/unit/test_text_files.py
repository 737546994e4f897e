"""Text files of the user's: in the encodings of editors, or refused by name, and never a wait."""

import os
import re
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import text_files
from harness.config import farm, plans, profiles
from harness.errors import ConfigError
from harness.farm import toml_text

PLAN = '[model]\npath = "a.tflite"\n[run]\nrecipes = ["as_is"]\n'
FARM = '[device.pi]\nprofile = "raspberry_pi_5"\naddress = "ssh://pi@10.0.0.7"\n'
PROFILE = 'title = "Board"\narch = "aarch64"\n'


def plan_of(path: Path) -> object:
    return plans.load(path).models[0].source.name


def farm_of(path: Path) -> object:
    return farm.load(path).devices["pi"].profile


def profile_of(path: Path) -> object:
    return profiles.load(path).arch


READERS = {
    "plan": (PLAN, plan_of, "a"),
    "farm": (FARM, farm_of, "raspberry_pi_5"),
    "profile": (PROFILE, profile_of, "aarch64"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.tflite").touch()
    return tmp_path


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace(" = ", "\t=\t").encode(),
        lambda text: b"\xff\xfe" + text.replace("\n", "\r\n").encode("utf-16-le"),  # PowerShell's >
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: b"\xff\xfe\0\0" + text.encode("utf-32-le"),
        lambda text: b"\0\0\xfe\xff" + text.encode("utf-32-be"),
    ],
    ids=["mark", "crlf", "cr", "tab", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"],
)
def test_what_editors_write_is_read(folder: Path, kind: str, encode: object) -> None:
    text, read, expected = READERS[kind]
    path = folder / "file.toml"
    path.write_bytes(encode(text))  # type: ignore[operator]
    assert read(path) == expected


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x00", "ends with NUL bytes: it was not written completely"),
        ("# a\n".encode("utf-16-le") * 40, "is UTF-16 without a byte order mark; save it as UTF-8"),
        (b"# a\x00b\n", "has a NUL byte in line"),
        (b"# \xe9\n", "not UTF-8 text (byte "),
    ],
)
def test_other_bytes_are_refused_by_name(
    folder: Path, kind: str, data: bytes, message: str
) -> None:
    text, read, _ = READERS[kind]
    path = folder / "file.toml"
    before = b"" if b"U" in message.encode()[:6] else text.encode()
    path.write_bytes(before + data)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {message}")) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_mark_without_its_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.toml"
    path.write_bytes(b"\xff\xfea")
    with pytest.raises(ConfigError, match="not UTF-16 text"):
        text_files.read(path)


@pytest.mark.parametrize("kind", READERS)
def test_what_is_not_a_file_is_refused_at_once(folder: Path, kind: str) -> None:
    _, read, _ = READERS[kind]
    (folder / "folder.toml").mkdir()
    os.mkfifo(folder / "pipe.toml")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.toml"))
        places = {
            folder / "folder.toml": "cannot be read: Is a directory",
            folder / "pipe.toml": "is a pipe, not a file",
            folder / "socket.toml": "cannot be read",
            Path("/dev/zero"): "is a device, not a file",
            folder / "none.toml": "there is no such file",
            folder / ("n" * 300): "cannot be read: File name too long",
        }
        for path, message in places.items():
            with pytest.raises(ConfigError, match=re.escape(message)):
                read(path)
    with (folder / "huge.toml").open("wb") as file:
        file.truncate(10**12)  # sparse
    with pytest.raises(ConfigError, match="larger than 500,000 bytes"):
        read(folder / "huge.toml")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused = threading.Event()

    def read() -> None:
        with pytest.raises(ConfigError):
            text_files.read(tmp_path / "pipe")
        refused.set()

    threading.Thread(target=read, daemon=True).start()
    assert refused.wait(30)


def test_a_farm_with_a_mark_keeps_it_when_add_writes(tmp_path: Path) -> None:
    path = tmp_path / "farm.toml"
    path.write_bytes(b"\xef\xbb\xbf" + FARM.replace("\n", "\r\n").encode())
    entry = {"profile": "raspberry_pi_4", "address": "local:"}
    toml_text.update_table(path, ("device", "new"), entry)
    written = path.read_bytes()
    assert written.startswith(b"\xef\xbb\xbf[device.pi]\r\n")
    assert written.count(b"\n") == written.count(b"\r\n")
    assert farm_of(path) == "raspberry_pi_5"


@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_refused(data: bytes) -> None:
    try:
        text = text_files.decoded(data, "file")
    except ConfigError as error:
        assert str(error).startswith("file: ")
        assert "\n" not in str(error)
    else:
        assert "\0" not in text
        assert not text.startswith("\ufeff") or data.count(b"\xef\xbb\xbf") != 1
