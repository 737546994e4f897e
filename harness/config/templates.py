"""The commented plan.toml and farm.toml that `init` writes."""

from __future__ import annotations

from pathlib import Path

from harness.errors import ConfigError

TEMPLATE_PLAN = """\
# A plan: the models, the recipes that make their variants, and the devices.
# `edge-harness run plan.toml` runs it. Paths are relative to this file; docs/plans.md has every key.

[[model]]                                # one or more
name = "my-model"
path = "model.tflite"                    # .keras, .h5, a SavedModel folder, a float .tflite, or a glob of them
# shape = [1, 224, 224, 3]               # if the model has dynamic dimensions
# trust = true                           # if the file has code (a Lambda layer) and you trust its maker

# [data]
# calibration = "calibration.npz"        # "x": (n, ...) float32 as the model takes it; int8 and int16x8 need it
# evaluation = "evaluation.npz"          # "x", and "y": (n,) classes; accuracy needs it

# [recipe.small]                         # your own name for a chain of steps
# steps = 'int8(io="float")'

[run]
recipes = ["as_is"]                      # also "float32", "float16", "dynamic", "int8", "int16x8"; `edge-harness recipes`
devices = ["this-machine"]               # names in farm.toml, "profile:raspberry_pi_5", "tag:lab-a", "any:2 of tag:lab-a"
threads = [1]
seed = 0
# pin = true                             # pin the governor, use the fastest processors
# thermal = "cool"                       # before each launch; "none", or "soak": heat the device first
# patience_seconds = 120                 # how long to wait for a device that went away, as for a reboot

# [dose]                                 # how much to measure; these are the defaults
# launches = 5                           # fresh processes per cell
# min_inferences = 100
# min_seconds = 0.15
# max_seconds = 10
# scenario = "single"                    # or "stream" (with period_ms), "offline", "sustained": docs/measurement.md

# [accept]                               # limits of a row
# max_accuracy_drop = 0.02               # absolute, on the host, against the source model
# min_agreement = 0.95                   # device against host, same file

# [host]                                 # limits of work on this machine: docs/security.md
# seconds = 120                          # without progress
# memory_mb = 4096
"""

TEMPLATE_FARM = """\
# A farm: your devices. `edge-harness add ssh://pi@10.0.0.7` writes an entry for you, and
# `edge-harness doctor` checks them. docs/plans.md#farms has every key; `edge-harness profiles` the profiles.
# `this-machine` exists without an entry.

# [device.bench-pi]
# profile = "raspberry_pi_5"
# address = "ssh://pi@10.0.0.7:22"
# identity = "~/.ssh/id_ed25519"         # ssh_config, agents and jump hosts work as in OpenSSH
# known_hosts = "~/.ssh/known_hosts"     # must have the device's key; an unknown key is refused
# python = "/usr/bin/python3"            # on the device
# workdir = "/srv/edge-harness"          # on the device; else /var/tmp/edge-harness-ACCOUNT
# tags = ["lab-a"]
# dialect = "json_lines"                 # the protocol of its agent, if neither profile nor address has it
"""


def init(folder: Path) -> list[Path]:
    """Write both files into `folder`, which is created; return their paths.

    Raises ConfigError if one exists (then nothing is written) or the folder cannot be written.
    """
    texts = {folder / "plan.toml": TEMPLATE_PLAN, folder / "farm.toml": TEMPLATE_FARM}
    for path in texts:
        if path.exists():
            raise ConfigError(f"{path} exists already; remove it or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: cannot be written: {error.strerror or error}"
        ) from error
    return list(texts)
