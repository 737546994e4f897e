"""The same four variants by us: `python four_builds.py SAVED_MODEL CALIBRATION.npz CACHE`.

Host checks are left out, as the script it is compared with makes none. Prints the variants' sizes
as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.config.recipes import parse
from harness.errors import HarnessError
from harness.optimize import build
from harness.types import DataSource, ModelSource


def main(saved_model: Path, calibration: Path, cache: Path) -> None:
    data = DataSource(calibration=str(calibration))
    model = ModelSource(name="mobilenet_v2", path=saved_model, data=data)
    requests = [
        build.BuildRequest(model=model, recipe=parse(name), target="xnnpack")
        for name in ("float32", "float16", "dynamic", "int8")
    ]
    sizes = {}
    for request, result in build.build_all(requests, cache=cache, check=False):
        if isinstance(result, HarnessError):
            raise result
        sizes[request.recipe.name] = result.size_bytes
    print(json.dumps(sizes))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
