"""The example lines of docs/agent-protocol.md, sent to a real agent."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

from agent_lab import ROOT, RawAgent, digest_of

pytest_plugins = ("agent_fixtures",)

PAGE = (ROOT / "docs" / "agent-protocol.md").read_text(encoding="utf-8")


def _keys(value: Any, path: str = "") -> set[str]:
    """Every key of a JSON value with its path; the elements of a list are merged."""
    if isinstance(value, dict):
        return {
            found
            for key, one in value.items()
            for found in {f"{path}.{key}"} | _keys(one, f"{path}.{key}")
        }
    if isinstance(value, list):
        return {found for one in value for found in _keys(one, path + "[]")}
    return set()


def test_every_example_line_is_true(raw: RawAgent, kws: Path) -> None:
    digest = digest_of(kws)
    zeros = base64.b64encode(bytes(490)).decode()
    page = PAGE.replace("MODEL", digest).replace("ZEROS", zeros)
    incoming = raw.workdir / "incoming"
    shutil.copyfile(kws, incoming / f"{digest}.part")
    (incoming / f"{digest}.part.gz").write_bytes(gzip.compress(kws.read_bytes()))
    verbs = set()
    page = page.replace('"epoch": 81529', f'"epoch": {raw.epoch}')
    for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL):
        expected = []
        for line in block.splitlines():
            if line.startswith("-> "):
                verbs.add(json.loads(line[3:])["verb"])
                raw.channel.send(line[3:].encode() + b"\n")
                continue
            assert line.startswith("<- ")
            expected.append(line)
            example, answer = json.loads(line[3:]), raw.read()
            assert _keys(answer) == _keys(example), line[:60]
            assert (answer["id"], answer["event"]) == (example["id"], example["event"])
            assert answer.get("kind") == example.get("kind")
            assert answer.get("verbs") == example.get("verbs")
        last = json.loads(expected[-1][3:])
        if "verbs" in last:
            known = set(last["verbs"])
    assert known == verbs - {"no_such_verb"}
    assert known <= set(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE))
