"""The demo: a plan with an embedded model and this machine; needs no TensorFlow and takes seconds.

`train_digits.py` beside this file trained the model, a small CNN, on scikit-learn's handwritten
digits. If OpenSSH's server is installed, a temporary one is started on loopback and measured as a
second device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import farm as farms
from harness.config import plans
from harness.demo import loopback_sshd as sshd
from harness.devices import opening
from harness.types import Device, Plan

DATA = Path(__file__).resolve().parent / "data"
RECIPES = ("float32", "float16", "dynamic", "int8", "int16x8")
LOOPBACK = "loopback-sshd"


@contextmanager
def plan_and_farm() -> Iterator[tuple[Plan, farms.Farm]]:
    """Yield the demo's plan and farm; the SSH server stops at the end of the context."""
    with ExitStack() as stack:
        farm = farms.load(None, None)
        devices = ["this-machine"]
        if sshd.available():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-demo-")))
            server = stack.enter_context(sshd.loopback_sshd(folder))
            farm = farms.with_device(farm, _device(farm, server))
            devices.append(LOOPBACK)
        yield plans.from_mapping(_plan(devices), base=DATA, name="the demo's plan"), farm


def _plan(devices: list[str]) -> dict[str, Any]:
    return {
        "model": {"name": "digits", "path": "digits.tflite"},
        "data": {
            "calibration": "digits_calibration.npz",
            "evaluation": "digits_evaluation.npz",
            "metric": "top1",
        },
        "run": {"recipes": list(RECIPES), "devices": devices},
        "dose": {"launches": 3},
    }


def _device(farm: farms.Farm, server: sshd.LoopbackSshd) -> Device:
    here = farm.devices["this-machine"]
    device = replace(here, name=LOOPBACK, address=server.uri, tags=())
    return opening.with_options(
        device, identity=str(server.identity), known_hosts=str(server.known_hosts)
    )
