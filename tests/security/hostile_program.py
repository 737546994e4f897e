"""The program of a hostile device in place of the agent: it follows the protocol, with given lies.

    python hostile_program.py EVIL.py

EVIL.py defines `evil(request, usual)`: the usual answer (a dict) in, a list of what is written instead
out: dicts as JSON lines, bytes as they are. No function, no lie.
"""

import base64
import json
import runpy
import struct
import sys
import time
from typing import Any

FACTS = {
    "identity": "hostile-board",
    "hostname": "board",
    "system": "Linux",
    "kernel": "6.1",
    "machine": "x86_64",
    "chip": "chip",
    "board": "Board",
    "cores": 2,
    "memory_total_bytes": 10**9,
    "libc": "glibc 2.36",
    "python": "3.11.2",
    "runtimes": [{"name": "ai_edge_litert", "version": "2.3.0", "numpy": "1.26.4"}],
    "boot_id": "b",
    "governor": "performance",
    "temperature_c": 40.0,
    "load_1m": 0.1,
    "free_bytes": 10**9,
    "accelerators": [],
    "sensors": [],
    "extra": {},
}
COVARIATES = {"governor": "performance", "load_1m": 0.1}


def column(series: str, values: list[float]) -> dict[str, Any]:
    at = struct.pack(f"<{len(values)}q", *range(len(values)))
    value = struct.pack(f"<{len(values)}d", *values)
    return {
        "series": series,
        "n": len(values),
        "count": 1,
        "at": base64.b64encode(at).decode(),
        "value": base64.b64encode(value).decode(),
    }


def launch(order: dict[str, Any]) -> dict[str, Any]:
    named = {"memory": "pilot", "bare": "peak_rss"}.get(order["kind"], "latency")
    return {
        "runtime": "ai_edge_litert 2.3.0",
        "wall_ns": 10**9,
        "load_ns": 10**6,
        "first_ns": 10**6,
        "warmup": {"inferences": 5, "seconds": 0.1, "steady": True},
        "inferences": 20,
        "drift": 0.0,
        "cpu_share": 1.0,
        "involuntary_switches": 0,
        "before": COVARIATES,
        "after": COVARIATES,
        "flags": [],
        "delegation": {
            "delegate": "xnnpack",
            "delegated_ops": 3,
            "total_ops": 3,
            "partitions": 1,
            "left": [],
            "evidence": "graph walk",
        },
        "columns": [column(named, [1e6 + number for number in range(20)])],
    }


def usual(request: dict[str, Any]) -> dict[str, Any]:
    verb = request["verb"]
    answer = {"id": request["id"], "event": "result"}
    if verb == "hello":
        now = time.time_ns()
        answer.update(v=1, agent="a" * 64, verbs=[], facts=FACTS, received_ns=now, answered_ns=now)
    elif verb == "have":
        answer.update(have=request["digests"], unpacks=[])
    elif verb == "commit":
        answer.update(digest=request["digest"], bytes=1, arrived=1)
    elif verb == "lease":
        answer.update(epoch=1, holder=None, seconds=0.0, yours=False)
    elif verb == "launch":
        answer.update(launch=launch(request["order"]))
    elif verb == "infer":
        answer.update(outputs=[])
    return answer


def main() -> None:
    evil = runpy.run_path(sys.argv[1], {"column": column}).get("evil")
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("action") == "renew":
            continue
        answer = usual(request)
        for one in evil(request, answer) if evil else [answer]:
            data = one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n"
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        if request["verb"] == "bye":
            return


main()
