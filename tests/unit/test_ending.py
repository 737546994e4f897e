"""The process ends with one exit code per way, and never by chance with that of a verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, ctypes, errno, os, signal, sys, threading, time
from harness.cli import ending
def program():
    {body}
    return {code}
{before}
raise SystemExit(ending.run(program, owns_process=True))
"""


def ended(
    body: str, *, code: int = 0, before: str = "", redirected: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a program through a shell with these redirections."""
    text = PROGRAM.format(body=body, code=code, before=before)
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirected}', sys.executable, text],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise MemoryError", 3, "not enough memory"),
        ("raise OSError(errno.ENOSPC, 'full', 'file')", 3, "file: cannot be written: full"),
        ("raise OSError(errno.EDQUOT, 'quota')", 3, "cannot be written: quota"),
        ("raise RuntimeError('oh')", 70, "internal error: RuntimeError: oh"),
        ("raise ImportError('no library')", 70, "internal error: ImportError: no library"),
        ("raise SyntaxError('bad')", 70, "internal error: SyntaxError"),
        ("program()", 70, "internal error: RecursionError"),
        ("raise BrokenPipeError(errno.EPIPE, 'pipe')", 70, "internal error: BrokenPipeError"),
        ("raise BaseException('strange')", 70, "internal error: BaseException: strange"),
        ("sys.exit(1)", 70, "internal error: SystemExit"),
        ("sys.exit(0)", 0, ""),
        ("raise KeyboardInterrupt", 130, "interrupted"),
    ],
)
def test_what_a_program_raises_is_a_line_and_no_verdict(body: str, code: int, said: str) -> None:
    done = ended(body, code=1)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("code", [0, 1, 2, 4])
@pytest.mark.parametrize(
    "body",
    [
        "atexit.register(lambda: 1 / 0)",
        "threading.Thread(target=lambda: 1 / 0).start()",
        "ending.guard_exit()",
    ],
)
def test_the_code_of_the_program_stays(body: str, code: int) -> None:
    assert ended(body, code=code).returncode == code


def test_a_library_that_calls_exit_gives_no_verdict() -> None:
    assert ended("ending.guard_exit(); ctypes.CDLL(None).exit(1)").returncode == 70


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize(
    ("body", "redirected"),
    [
        ("print('x' * {size})", ""),
        ("sys.stdout.buffer.write(b'x' * {size})", ""),
        ("atexit.register(print, 'late'); print('x' * {size})", ""),
        ("print('x' * {size}, file=sys.stderr)", ">/dev/null"),
        ("print('x' * {size}); print('x', file=sys.stderr)", "2>&1"),
    ],
)
@pytest.mark.parametrize("trap", ["", "trap '' PIPE;"])
def test_a_closed_pipe_is_141_without_a_word(
    body: str, redirected: str, size: int, trap: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    to_stderr = "stderr" in body and not redirected.startswith("2")
    done = subprocess.run(
        [
            *("sh", "-c", f'{trap} exec "$0" -c "$1" {redirected}', sys.executable),
            PROGRAM.format(body=body.format(size=size), code=1, before=""),
        ],
        stdout=subprocess.PIPE if to_stderr else writer,
        stderr=writer if to_stderr else subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert done.returncode == 141
    assert not done.stdout
    assert not done.stderr


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        (">&-", 3, "stdout cannot be written: it is closed; nothing was done"),
        ("1</dev/null", 3, "stdout cannot be written: it is not open for writing"),
        (">/dev/full", 3, "stdout cannot be written: No space left on device; nothing was done"),
        (">&- 2>&-", 3, ""),
        (">&- <&-", 3, "closed"),
        ("2>&-", 1, ""),
        ("2>/dev/full", 1, ""),
        ("<&-", 1, "said"),
    ],
)
def test_a_stream_that_cannot_be_used_is_noticed_first(
    redirected: str, code: int, said: str, tmp_path: Path
) -> None:
    sign = tmp_path / "begun"
    body = (
        f"open({str(sign)!r}, 'w').close(); sys.stdin.isatty(); print('said', file=sys.stderr); "
        "print('result')"
    )
    done = ended(body, code=1, redirected=redirected)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert sign.exists() == (code == 1)
    assert done.stdout == ("result\n" if code == 1 else "")


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    body = f"f = open({str(tmp_path / 'record')!r}, 'w'); os.write(2, b'noise'); f.close()"
    assert ended(body, redirected="<&- 2>&-").returncode == 0
    assert (tmp_path / "record").read_text() == ""


def test_a_disk_that_is_full_later_is_3() -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    done = ended("print('x')", before=limit, redirected='>"$(mktemp)"')
    assert done.returncode == 3
    assert done.stderr == "edge-harness: stdout cannot be written: File too large\n"


def test_a_pipe_that_does_not_block_gets_everything() -> None:
    text = PROGRAM.format(body="print('x' * 1_000_000)", code=0, before="os.set_blocking(1, False)")
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert len(process.stdout.read()) == 1_000_001
    assert process.returncode == 0


SIGNALS = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
@pytest.mark.parametrize(
    "body",
    [
        "os.kill(os.getpid(), {0}); time.sleep(9)",
        "os.kill(os.getpid(), {0}); os.kill(os.getpid(), {0}); time.sleep(9)",
        "os.kill(os.getpid(), {0})\n    raise ImportError('half an import')",
        "try: os.kill(os.getpid(), {0}); time.sleep(9)\n    except KeyboardInterrupt: return 1",
        "threading.Timer(0.1, os.kill, (os.getpid(), {0})).start(); threading.Event().wait(9)",
    ],
)
def test_a_signal_has_its_code(number: signal.Signals, code: int, body: str) -> None:
    # Of a job in the background, Ctrl-C is ignored: the program inherits that.
    reset = f"signal.signal({number:d}, signal.SIG_DFL)"
    done = ended(body.format(int(number)), code=1, before=reset)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("edge-harness: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_the_parent_ignores_is_ignored(number: signal.Signals) -> None:
    ignored = f"signal.signal({number:d}, signal.SIG_IGN)"
    assert ended(f"os.kill(os.getpid(), {number:d})", code=4, before=ignored).returncode == 4


@pytest.mark.parametrize(
    "wait",
    [
        "[time.sleep(9) for _ in range(9)]",
        "threading.Lock().acquire() or 1; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    ],
)
def test_whoever_does_not_end_is_ended_in_time(wait: str) -> None:
    body = f"""ending.advise('`command` continues')
    try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)
    finally: {wait}"""
    done = ended(body, before="ending.GRACE_SECONDS = 0.3")
    assert done.returncode == 143
    assert "a part had not ended 0.3 s after the signal\n`command` continues\n" in done.stderr


def test_a_reader_that_does_not_read_does_not_keep_the_process() -> None:
    before = "ending.GRACE_SECONDS = 0.3"
    body = "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()\n    print('x' * 10**6)"
    text = PROGRAM.format(body=body, code=1, before=before)
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as process:
        assert process.wait(timeout=30) == 143


def test_notes_say_how_to_go_on() -> None:
    body = """try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)
    except BaseException as error: error.add_note('`command` continues'); raise"""
    done = ended(body)
    assert done.stderr == "edge-harness: stopped by SIGTERM\n`command` continues\n"
