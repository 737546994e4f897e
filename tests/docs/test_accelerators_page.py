"""The examples of docs/accelerators.md load through the real doors, and its words are the program's."""

from __future__ import annotations

import re
from pathlib import Path

from harness.config import farm, plans, profiles, recipes, toml_reading
from harness.devices.delegation import KINDS, SHOWN
from harness.errors import FellBack, Inaccurate, Unproven
from harness.optimize import build, catalog
from harness.optimize.targets import aot
from harness.records.table import COLUMNS
from harness.records.table.display import FLAGS
from harness.types import ModelSource

PAGE = (Path(__file__).parents[2] / "docs" / "accelerators.md").read_text(encoding="utf-8")
NOWHERE = ModelSource(name="m", path=Path("absent.tflite"))
BLOCKS = re.findall(r"^```toml\n# (\w+)\.toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_every_block_of_toml_loads(tmp_path: Path) -> None:
    assert PAGE.count("```toml\n") == len(BLOCKS)
    for kind, text in BLOCKS:
        path = tmp_path / f"{kind}.toml"
        path.write_text(text, encoding="utf-8")
        if kind == "profile":
            found = profiles.load(path)
            assert all(one.external_delegate for one in found.accelerators)
        elif kind == "farm":
            assert farm.load(path).devices["bench-pi"].delegate_options
        else:
            for name in ("net.keras", "net.tflite", "net_edgetpu.tflite", "calibration.npz"):
                (tmp_path / name).touch()
            plan = plans.from_mapping(toml_reading.parse(text, str(path)), tmp_path, "plan.toml")
            for model in plan.models:
                for recipe in model.recipes:
                    catalog.check(recipe)
    assert {kind for kind, _ in BLOCKS} == {"profile", "farm", "plan"}


def test_the_page_names_what_there_is() -> None:
    for kind in KINDS:
        assert f"| `{kind}` |" in PAGE
    for column in ("verdict", "verdict_reason", "adapter", "delegated_ops", "evidence"):
        assert column in COLUMNS
        assert f"`{column}`" in PAGE
    for flag in ("suspect", "off_chip", "no_xnnpack", "emulated", "outputs_drifted"):
        assert flag in FLAGS
        assert f"`{flag}`" in PAGE
    for status in ("partial", "fell_back", "invalid", "inaccurate"):
        assert status in {*SHOWN, FellBack.kind, Unproven.kind, Inaccurate.kind}
        assert f"`{status}`" in PAGE
    for step in ("edgetpu", "aot"):
        for parameter in catalog.known_steps()[step].parameters:
            assert parameter.name in PAGE
    for vendor, package in aot.PACKAGES.items():
        assert f"`{vendor}`" in PAGE
        assert package is None or package in PAGE
    assert build.resolve_target(recipes.parse('aot(soc="SM8750")'), NOWHERE) == "npu"
    assert (
        build.with_target_step(recipes.parse("int8@edgetpu"), "edgetpu").chain == "int8 > edgetpu"
    )
