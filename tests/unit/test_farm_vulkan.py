"""Parse the list of a device's Vulkan drivers from arbitrary bytes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from harness.farm.vulkan import VulkanDriver, read


def test_a_driver_is_read() -> None:
    line = json.dumps(["/etc/vulkan/icd.d/x.json", "libx.so", "libz.so: none"]).encode()
    assert read(line) == VulkanDriver(
        manifest="/etc/vulkan/icd.d/x.json", library="libx.so", fault="libz.so: none"
    )


def test_long_text_is_cut() -> None:
    found = read(json.dumps(["a", "b", "c" * 10_000]).encode())
    assert found is not None
    assert len(found.fault) == 400


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode))
def test_any_bytes_are_a_driver_or_none(line: bytes) -> None:
    found = read(line)
    assert found is None or isinstance(found, VulkanDriver)
