"""The child process of `aot`: compile a model and print the tool's statistics.

    python -P -m harness.optimize.targets.aot_call MODEL FOLDER VENDOR CHIP

It is a separate process because the vendors' libraries print, crash and hang.
"""

from __future__ import annotations

import importlib
import json
import sys

from harness.optimize.targets.aot import MARK


def main(model: str, folder: str, vendor: str, chip: str) -> None:
    """Compile; an error ends the process with its message on stderr."""
    from ai_edge_litert.aot import aot_compile

    target = importlib.import_module(f"ai_edge_litert.aot.vendors.{vendor}.target")
    result = aot_compile.aot_compile(
        model,
        output_dir=folder,
        target=target.Target(soc_model=target.SocModel(chip)),
        keep_going=False,
    )
    ((_, made),) = result.models_with_backend
    parts = [
        {
            "offloaded": part.num_ops_offloaded,
            "total": part.num_total_ops,
            "partitions": part.num_partitions_offloaded,
        }
        for part in made.partition_stats.subgraph_stats
    ]
    sys.stdout.write("\n" + MARK + json.dumps({"path": str(made.path), "parts": parts}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
