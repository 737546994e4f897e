"""The command as a user types it, with folders of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CLI = [sys.executable, "-m", "harness.cli"]
_SECONDS = 240


def edge(
    home: Path, *words: object, code: int | None = 0, cwd: Path | None = None, **more: str
) -> Any:
    """Run the command and check its exit code (None: any).

    Returns the parsed JSON of stdout where it is asked for, else stdout and stderr. `more` are variables of
    the environment; results and configuration lie in `home`.
    """
    environment = {
        **os.environ,
        "EDGE_HARNESS_RESULTS": str(home / "results"),
        "XDG_CONFIG_HOME": str(home / "config"),
        **more,
    }
    done = subprocess.run(
        [*CLI, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd or home,
        timeout=_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stderr, done.stderr
    if code is not None:
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    if "--json" in words and done.stdout:
        return json.loads(done.stdout)
    return done.stdout + done.stderr
