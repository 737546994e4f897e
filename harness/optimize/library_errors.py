"""The text of a library's error, as a user of the command line can read it.

    library_errors.brief(error)   # "Unknown layer: 'Gate'. ... scale must be positive"

Libraries write pages: tracebacks with our own files in them, the config of a whole model, colour
codes, the arguments of a call, and advice for people who program with them. What remains is one
line; a long one keeps both ends, because many libraries put the cause last.
"""

from __future__ import annotations

import re

LIMIT = 600
"""Characters of a text that is passed on."""
_HEAD = 0.5
"""Share of a long text's characters that are from its start."""
_CUT = " [...] "
_FRAME = re.compile(
    r"^\s*(File \"|Traceback \(most recent|in user code:|\^+\s*$|~+\^*|\S+\.py:\d+)"
    r"|: note: called from$|\*$"
)
"""Lines of a traceback: Python's, AutoGraph's, and those of the converter's locations."""
_SAID = re.compile(r"^(?:\S+\.py|<unknown>):\d+(?::\d+)?: (?:error|warning): (.*)$")
_MARK = re.compile(r"^\s*\^~*\s*$")
_CODE = re.compile(r"^\s{4,}\S")
"""A source line after a traceback's `File "..."`."""
_PLACE = re.compile(
    r"\s*\(?\b(at|from|in|of) (file )?[\"'`]?/[^\s\"'`:]+\.pyc?[\"'`]?(:\d+)*(, line \d+)?\)?"
    r"|(<unknown>|/[^\s:\"']+\.pyc?)(:\d+)+:?\s*|loc\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\):?\s*"
)
"""A place in somebody's source."""
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_DUMPS = re.compile(
    r"(Arguments received by .*|Full object config: .*|Received: config=\{.*|config=\{.*"
    r"|Call arguments received by .*)",
    re.DOTALL,
)
"""Where a library starts to print the whole model or the whole call; nothing follows it."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(*])")
_FOR_PROGRAMMERS = re.compile(
    r"custom_object|register_keras_serializable|safe_mode|unsafe_deserialization|is_truthy"
    r"|\bpass(ing)? `|\bset(ting)? `|\bcall(ing)? `|\buse `|converter\.|target_spec|OpsSet"
    r"|supported_ops|allow_custom_ops|_experimental|experimental_|resource_variables"
    r"|tf\.(lite|config|compat|function|keras|saved_model)\b|keras\.(saving|config|ops|models)\."
    r"|decorator|decorated|https?://|please (file|report|open|consider|use|make|see|ensure)"
    r"|file (a|an) (bug|issue)|report (a|this) (bug|issue)|environment variable|TF_[A-Z]"
    r"|\btensorflow/lite/\S+|from the saving|in scope|imported so that",
    re.IGNORECASE,
)
"""Advice for who calls the library from a program."""


def brief(error: BaseException | str, limit: int = LIMIT) -> str:
    """Return a library's error as one line of at most `limit` characters."""
    text = plain(str(error))
    without = _DUMPS.sub("", text).strip()
    kept = [one for one in _SENTENCE.split(without) if not _FOR_PROGRAMMERS.search(one)]
    said = _PLACE.sub(" ", " ".join(kept)).strip(" ;:,") or _PLACE.sub(" ", without).strip()
    return cut(" ".join(said.split()) or "no reason given", limit)


def plain(text: str) -> str:
    """Return a text as one line without colour codes and tracebacks."""
    return " ".join(" ".join(_without_frames(_ESCAPE.sub("", text).splitlines())).split())


def cut(text: str, limit: int = LIMIT) -> str:
    """Return a text with its middle left out if it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    room = max(limit - len(_CUT), 2)
    head = int(room * _HEAD)
    start, end = text[:head], text[-(room - head) :]
    if " " in start[head // 2 :]:
        start = start[: start.rindex(" ")]
    if " " in end[: len(end) // 2]:
        end = end[end.index(" ") + 1 :]
    return f"{start}{_CUT}{end}"


def _without_frames(lines: list[str]) -> list[str]:
    """Leave out a traceback's lines: the frames, and the source lines below each.

    The converter writes the error itself in front of the first frame: `FILE:1:2: error: the cause`.
    """
    kept: list[str] = []
    inside = False
    for line, after in zip(lines, [*lines[1:], ""], strict=False):
        said = _SAID.match(line)
        if said:
            kept.append(said[1])
        if said or _FRAME.search(line):
            inside = True
        elif not (inside and _CODE.match(line)) and not _MARK.match(after):
            inside = False
            kept.append(line)
    return kept
