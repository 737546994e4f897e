"""The command text for a login shell that may be any: sh, bash, zsh, ksh, csh, tcsh, fish.

Each of these has its own rules for quotes, and csh has more: no newline within quotes, `!` is history
even within single quotes, a word has at most 1,023 bytes. So a script travels encoded, in words of
letters, digits and plain punctuation between single quotes, which all of them pass on unchanged. Only
the `sh` that they start decodes it, with its own printf. A short script without any letter in doubt
travels as it is, which saves the board a process.
"""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Sequence

MARK = b"edge-harness-pid "
"""Starts the line that the script prints first, on stdout and stderr, with its process number."""

START = b"edge-harness-start\n"
"""The line of stdin after which the process's own input begins."""

POSIX_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "busybox"})
"""Login shells that read the same command text as sh."""

_PLAIN = frozenset(f"{string.ascii_letters}{string.digits} #&()*+,-./:;<=>?@[]^_{{|}}~".encode())
# No word ends within an escape: to fish, a backslash before the closing quote is more than itself.
_WORDS = re.compile(r"(?:\\\d{3}|[^\\]){1,200}")
_DECODE = 'IFS=; set -- "$(printf "$*")"; unset IFS; eval "$1"'
# These have the same meaning between single quotes in every shell.
_UNCHANGED = re.compile(r"[ -~]{1,800}")
_CHANGED = frozenset("'!\\")
# The lead newline ends a prompt that a start-up file printed without one.
_PRINT_MARK = 'echo; echo "{0}$$"; {{ echo; echo "{0}$$"; }} >&2; '.format(MARK.decode())
# Until the start line everything is dropped: it was meant for a start-up file that reads.
_DROP_LEAD = f'while IFS= read -r x; do [ "$x" = "{START.decode().strip()}" ] && break; done; '


def encoded(script: str) -> str:
    """Return the command that runs a script of sh, whatever shell reads the command."""
    if _UNCHANGED.fullmatch(script) and not _CHANGED & set(script):
        return f"exec sh -c '{script}'"
    text = "".join(
        chr(byte) if byte in _PLAIN else f"\\{byte:03o}"
        for byte in script.encode(errors="surrogateescape")
    )
    quoted = " ".join(f"'{word}'" for word in _WORDS.findall(text))
    return f"exec sh -c '{_DECODE}' sh {quoted}"


def started(argv: Sequence[str], *, reads: bool, keeps_shell: bool) -> str:
    """Return the command that prints the mark and runs `argv`.

    A process that `reads` gets its stdin after the line START; any other has an empty one. If the
    shell is kept, a signal becomes an exit code (128+N): SSH libraries do not report signals.
    """
    run = '"$@"' if reads else '"$@" </dev/null'
    run = f"{run}; exit $?" if keeps_shell else f"exec {run}"
    lead = _PRINT_MARK + _DROP_LEAD * reads
    return encoded(f"{lead}set -- {shlex.join(argv)}; {run}")
