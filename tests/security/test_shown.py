"""Every text that a device sends, at every place that shows it."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hostile import BITING, TEXTS, hostile_device

from harness import api
from harness.cli import main
from harness.config.farm import Farm
from harness.demo import DATA
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.farm import toml_text
from harness.measure.sessions import Session
from harness.present.report.exports import FORMATS

EVIL = f"""
BITING = {BITING!r}
TEXTS = {list(TEXTS)!r}
TEXT_FIELDS = ["identity", "hostname", "system", "kernel", "chip", "board", "libc", "python", "boot_id",
    "governor"]


def truly(inputs):
    # The model's real outputs: otherwise it is not timed.
    import base64, numpy as np
    from ai_edge_litert.interpreter import Interpreter
    model = Interpreter(model_path={str(DATA / "digits.tflite")!r})
    model.allocate_tensors()
    (entry,), (into,) = inputs, model.get_input_details()
    values = np.frombuffer(base64.b64decode(entry["data"]), entry["dtype"]).reshape(entry["shape"])
    found = {{}}
    for value in values:
        model.set_tensor(into["index"], value.reshape(into["shape"]))
        model.invoke()
        for one in model.get_output_details():
            found.setdefault(one["name"], []).append(model.get_tensor(one["index"])[0])
    return [dict(name=name, dtype=np.stack(rows).dtype.name, shape=np.stack(rows).shape,
        data=base64.b64encode(np.stack(rows).tobytes()).decode()) for name, rows in found.items()]


def evil(request, a):
    if request["verb"] == "hello":
        facts = dict(a["facts"])
        facts.update({{name: BITING for name in TEXT_FIELDS}})
        facts["runtimes"] = [{{"name": BITING, "version": text, "numpy": BITING}} for text in TEXTS]
        facts["accelerators"] = facts["sensors"] = TEXTS
        facts["extra"] = {{BITING: BITING, "usb": TEXTS, "runtime_problems": TEXTS}}
        a["facts"], a["agent"] = facts, BITING
    if request["verb"] == "infer":
        a["outputs"] = truly(request["inputs"])
    if request["verb"] == "launch":
        kind = request["order"]["kind"]
        if kind == "timed" and request["order"]["threads"] == 2:
            return [dict(id=a["id"], event="error", kind=BITING, reason=BITING)]
        if kind == "timed" and request["order"]["threads"] == 3:
            return [BITING.encode() + b"\\n"]
        launch = a["launch"]
        launch["runtime"] = BITING
        launch["flags"] = TEXTS
        for moment in ("before", "after"):
            launch[moment] = dict(launch[moment], governor=BITING, seconds_at_mhz={{BITING: 1.0}})
        delegation = dict(launch["delegation"], delegate=BITING, left=TEXTS, evidence=BITING)
        launch["delegation"] = delegation
        if request["order"]["threads"] == 4:
            launch["delegation"] = dict(delegation, delegate="xnnpack", delegated_ops=1, total_ops=9)
    return [a]
"""


@dataclass(frozen=True)
class Shown:
    """A run of a hostile device, and the commands that show it."""

    folder: Path
    results: Path
    run: str
    stderr: str

    def command(self, *arguments: object) -> str:
        """Run the command line in this process and return its stdout, which must have no traceback."""
        code, stdout, stderr = run_cli([*map(str, arguments)], self.folder)
        assert code in {0, 1, 3}, (arguments, code, stderr[-2000:])
        harmless(stdout, stderr)
        return stdout


def run_cli(arguments: list[str], folder: Path) -> tuple[object, str, str]:
    """Call the command as a user would, in a folder; returns exit code, stdout and stderr."""
    out, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with (  # noqa: PT012
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["edge-harness", *arguments])
        main()
    texts = []
    for stream in (out, errors):
        stream.seek(0)
        texts.append(stream.read())
    return ended.value.code, texts[0], texts[1]


def harmless(*texts: str) -> None:
    """No control character but the end of a line, no text direction, no command to a CI system."""
    for text in texts:
        bad = {char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co"}}
        assert not bad - {"\n", "\r"}, bad
        for line in text.splitlines():
            assert not line.lstrip().startswith(("::", "##[")), line


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_HARNESS_CACHE", str(folder / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("EDGE_HARNESS_RESULTS", str(folder / "results"))
        device = hostile_device(folder / "board", EVIL)
        farm = folder / "farm.toml"
        plain = {"profile": device.profile, "address": device.address}
        keys = {**plain, **device.dialect_options}
        farm.write_text(
            "[device.bench]\n"
            + "".join(f"{key} = {toml_text.value(item)}\n" for key, item in keys.items())
        )
        shutil.copy(DATA / "digits.tflite", folder)
        plan = folder / "plan.toml"
        plan.write_text(
            '[model]\nname="digits"\npath="digits.tflite"\n'
            '[run]\nrecipes=["as_is"]\ndevices=["bench"]\nthreads=[1, 2, 3, 4]\n'
            "[dose]\nlaunches=3\nmin_inferences=5\nmin_seconds=0.01\nwarmup_seconds=0.0\n"
        )
        code, stdout, stderr = run_cli(["run", "plan.toml", "--json"], folder)
        assert code == 1, stderr
        harmless(stdout, stderr)
        yield Shown(folder, folder / "results", json.loads(stdout)["run"], stderr)


def test_the_run_has_all_kinds_of_rows(shown: Shown) -> None:
    rows = json.loads(shown.command("show", shown.run, "--format", "json"))["rows"]
    assert len(rows) == 4
    assert len({row["status"] for row in rows}) >= 2
    assert any(row["latency_p50_ms"] for row in rows)
    assert any("owned" in (row["reason"] or "") for row in rows)
    assert sorted(path.name for path in shown.folder.iterdir()) == sorted(
        ["board", "cache", "digits.tflite", "farm.toml", "plan.toml", "results"]
    )


@pytest.mark.parametrize("form", ["table", "markdown", "csv", "json"])
def test_show(form: str, shown: Shown) -> None:
    text = shown.command("show", shown.run, "--format", form)
    if form == "csv":
        safe_cells(text)
    if form == "markdown":
        safe_markdown(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["devices"],
        ["devices", "--json"],
        ["doctor"],
        ["doctor", "--json"],
        ["runs"],
        ["runs", "--json"],
        ["compare", "latest", "latest"],
        ["pick", "latest", "--minimize", "latency_p50_ms"],
        ["pick", "latest", "--minimize", "latency_p50_ms", "--json"],
        ["add", "local:", "--name", "met", "--farm", "met.toml"],
        ["setup", "bench", "--dry-run"],
        ["run", "plan.toml", "--device", "bench", "--dry-run"],
    ],
    ids=" ".join,
)
def test_every_command_that_shows_a_device(arguments: list[str], shown: Shown) -> None:
    shown.command(*arguments)


def test_debug_shows_it_no_rawer(shown: Shown, tmp_path: Path) -> None:
    liar = hostile_device(tmp_path / "liar", "def evil(request, a):\n return [%r]" % (b"{}" * 9))
    script = Path(AgentOptions.of(liar).python)
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.stderr.write({BITING!r})\nsys.exit(3)\n"
    )
    farm = tmp_path / "farm.toml"
    farm.write_text(
        f'[device.liar]\nprofile="linux_x86_64"\naddress="local:"\npython="{script}"\n'
        f'workdir="{AgentOptions.of(liar).workdir}"\n'
    )
    for more in ([], ["--debug"]):
        code, _, stderr = run_cli(["setup", "liar", "--farm", str(farm), *more], tmp_path)
        assert code == 3
        assert "owned" in stderr
        assert ("Traceback" in stderr) is bool(more)
        harmless(stderr)


class Elements(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in {"href", "src", "action", "style"}:
                self.links.append(value or "")


def test_the_page(shown: Shown) -> None:
    shown.command("report", shown.run, "-o", "page.html")
    page = shown.folder / "page.html"
    text = page.read_text(encoding="utf-8")
    page.unlink()
    found = Elements(text)
    assert "owned" in text
    assert not found.tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form"}
    assert not [name for name in found.attributes if name.startswith("on")]
    assert not [link for link in found.links if "javascript" in link or "//" in link]
    assert "49" not in re.findall(r"\{\{.*?\}\}", text)
    assert "default-src 'none'" in text
    harmless(text)


@pytest.mark.parametrize("form", list(FORMATS))
def test_every_export(form: str, shown: Shown) -> None:
    text = shown.command("export", shown.run, "--format", form)
    if form in {"bmf", "github", "pyperf", "gbench"}:
        json.loads(text)
    elif form == "junit":
        root = ET.fromstring(text)
        allowed = {"testsuites", "testsuite", "testcase", "properties", "property"}
        allowed |= {"failure", "error", "skipped", "system-out"}
        assert {element.tag for element in root.iter()} <= allowed
        assert len(list(root.iter("testcase"))) == 4
    elif form == "csv":
        safe_cells(text)
    else:
        safe_markdown(text)


def safe_cells(text: str) -> None:
    rows = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in rows}) == 1
    for row in rows[1:]:
        for cell in row:
            assert not cell.startswith(("=", "+", "@", "\t", "\r"))
            assert not re.match(r"-[^0-9.]", cell) or cell == "-"


def safe_markdown(text: str) -> None:
    """Every row of a table has the same number of cells; no raw HTML, no link, no picture."""
    bare = re.sub(r"\\[\\`*_{}\[\]<>|~#&$@!]", "", text)
    assert "<script" not in bare
    assert not re.search(r"<(?!/?(details|summary|br)\b)[a-z/]", bare)
    assert "](" not in bare
    tables = [line.count("|") for line in bare.splitlines() if line.startswith("|")]
    assert len(set(tables)) <= 1


def test_the_journals_of_the_run_can_be_read(shown: Shown) -> None:
    folder = shown.results / shown.run
    for path in (folder / "launches.jsonl", folder / "outcomes.jsonl", folder / "log.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            json.loads(line)
    assert not [p for p in shown.folder.rglob("*") if p.is_symlink() and p.parent != folder]
    with pytest.MonkeyPatch.context():
        frame = api.load(shown.run, results=shown.results)
    assert len(frame) == 4


def test_what_a_person_is_told_while_it_runs(shown: Shown) -> None:
    harmless(shown.stderr)
    assert "owned" in shown.stderr


def test_a_farm_entry_of_a_device_that_bites_is_toml(tmp_path: Path) -> None:
    import tomllib

    from harness.config import profiles
    from harness.farm import contact

    session = Session(hostile_device(tmp_path / "board", EVIL))
    session.close()
    made = contact.new_profile(session.facts)
    assert re.fullmatch(r"[a-z0-9_]{1,60}", made.name)
    path = contact.write_profile(tmp_path / "profiles", made)
    assert path.parent == tmp_path / "profiles"
    assert tomllib.loads(path.read_text(encoding="utf-8"))["title"] == (BITING[:300])
    assert profiles.load(path).title == BITING[:300]
    assert Farm(devices={})
