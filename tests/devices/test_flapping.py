"""A link that breaks several times within one launch: a real sshd behind a proxy that cuts."""

from __future__ import annotations

import hashlib
import sys
import threading
from pathlib import Path

import pytest
from shared_data import shared_file
from standins.slow_link import SlowLink

from harness.demo.loopback_sshd import LoopbackSshd
from harness.events import Event, Reconnected
from harness.measure import recovery
from harness.measure.bench import Bench
from harness.measure.sessions import Session
from harness.types import Device, Dose, LaunchOrder


def test_launches_are_made_while_and_after_the_link_is_cut_again_and_again(
    sshd: LoopbackSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "CALM_SECONDS", 1.0)
    model = shared_file("kws/kws_ref_model.tflite")
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    order = LaunchOrder(
        cell_id="cell",
        kind="timed",
        block=0,
        position=0,
        variant_digest=digest,
        target="xnnpack",
        threads=1,
        dose=Dose(min_inferences=20, min_seconds=0.5, max_seconds=0.5, warmup_seconds=0.01),
        seed=7,
        timeout_seconds=60.0,
    )
    known_hosts = tmp_path / "known_hosts"
    events: list[Event] = []
    with SlowLink(sshd.port, bytes_per_second=1e8) as link:
        known_hosts.write_text(f"[127.0.0.1]:{link.port} {sshd.host_key_public}\n")
        device = Device(
            name="far",
            profile="linux_x86_64",
            address=f"ssh://{sshd.user}@127.0.0.1:{link.port}",
            transport_options={"identity": str(sshd.identity), "known_hosts": str(known_hosts)},
            dialect_options={"python": sys.executable, "workdir": str(tmp_path / "work")},
        )
        session = Session(device)
        cuts = [threading.Timer(0.3 + 0.7 * number, link.cut) for number in range(5)]
        try:
            with Bench(session=session, emit=events.append) as bench:
                bench.bring({digest: model})
                for cut in cuts:
                    cut.start()
                for _ in range(2):
                    bench.recovering(lambda: bench.trial(order), "a launch")
        finally:
            for cut in cuts:
                cut.cancel()
            session.close()
    again = [event for event in events if isinstance(event, Reconnected)]
    assert [event.times for event in again] == list(range(1, len(again) + 1))
    assert again
