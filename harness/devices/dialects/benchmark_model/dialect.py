"""Measure with a program named `benchmark_model`: one process on the device per launch.

The dialect needs a POSIX shell and files on the device and no Python. Models are sent under their
digest to `blobs/`. Each launch runs the script of `scripts.LAUNCH` in a folder of its own, which is
removed afterwards, so a file of an earlier launch never counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from harness.devices import abilities
from harness.devices.by_shell.files import ShellFolder
from harness.devices.by_shell.lease import ShellLease
from harness.devices.dialects.benchmark_model import (
    bundle_checks,
    endings,
    facts,
    inference,
    programs,
    restoring,
    scripts,
    sensors,
)
from harness.devices.dialects.benchmark_model.bundle import RUNNER, RunnerBundle, by_runtime
from harness.devices.dialects.benchmark_model.endings import RunResult
from harness.devices.dialects.benchmark_model.facts import SurveyedDevice
from harness.devices.dialects.benchmark_model.inference import InferenceRun
from harness.devices.dialects.benchmark_model.options import RunnerOptions
from harness.devices.dialects.benchmark_model.programs import LaunchFiles, RunnerProgram
from harness.devices.dialects.benchmark_model.scripts import ScriptOutput
from harness.errors import (
    AgentError,
    RuntimeMissing,
    TransferFailed,
    Unreachable,
    Unsupported,
)
from harness.protocols import Capabilities, Commands, Holder, Reply, Transport
from harness.tflite.compiled import DISPATCH, stamped_chips
from harness.types import Device, DeviceFacts, Kind, Launch, LaunchOrder, Push, Samples

COARSE_CLOCK = "coarse_clock"
"""The flag of launches whose median is under 100 us: the program's clock counts microseconds."""

MAX_INFER_SAMPLES = 64
_COARSE_NS = 1e5
_MEMORY_PERIOD = 0.02
_SURVEY_SECONDS = 60.0
_COMMAND_SECONDS = 60.0
_GRACE_SECONDS = 30.0
_PRIMED = "primed"
_WITH_LIBRARIES = 'folder=$1 name=$2; shift 2; LD_LIBRARY_PATH=$folder exec "$folder/$name" "$@"'
_KINDS: frozenset[Kind] = frozenset(("timed", "memory", "cpu"))


class BenchmarkModelDialect:
    """The dialect of one device; not thread-safe."""

    def __init__(self, transport: Transport, device: Device) -> None:
        """Send nothing yet; raises Unsupported if the transport copies no files or runs no commands."""
        self._commands: Commands = abilities.commands(transport, device, RUNNER)
        self._device = device
        self._options = RunnerOptions.of(device)
        self._folder = ShellFolder(
            abilities.files(transport, device, RUNNER),
            self._commands,
            device.name,
            self._options.workdir,
        )
        self._lease = ShellLease(self._commands, device.name, f"{self._options.workdir}/leases")
        self._is_lost = False
        self._sources: dict[str, Path] = {}
        self._survey: SurveyedDevice | None = None
        self._programs: dict[str, RunnerProgram] = {}
        self._changed = restoring.ChangedSettings(
            self._commands, device.name, self._options.workdir
        )
        self.can = Capabilities(launches=_KINDS, samples=False, caches=True)

    # --- files -----------------------------------------------------------------------------------

    def deploy(self, files: Mapping[str, Path]) -> Sequence[Push]:
        """Send these files (by sha256) to `blobs/`, except those already there; see protocols.Dialect.

        A file that is there under the name counts only if its digest is right. Raises TransferFailed
        if a file does not arrive whole, and what the transport raises.
        """
        self._sources.update(files)
        return self._folder.deploy(files) if files else ()

    def path_of(self, digest: str) -> str:
        """Return the path of a deployed file on the device; see protocols.KeepsFiles."""
        return self._folder.path_of(digest)

    def push(self, source: Path, final: str, digest: str) -> Push:
        """Copy a file to exactly `final`; see ShellFolder.push."""
        return self._folder.push(source, final, digest)

    # --- the lease -------------------------------------------------------------------------------

    def holder(self) -> Holder | None:
        """Return the user that holds the device; see protocols.Leasing."""
        return self._lease.holder()

    def hold(self) -> None:
        """Take the lease, restore what an interrupted connection left, and set what is wanted.

        Raises LeaseError while another user holds it, and what the transport raises.
        """
        if self._lease.epoch:
            return
        self._lease.hold()
        self._changed.restore_noted()
        if self._options.screen == "on":
            self._changed.keep_screen_on()

    def release(self) -> None:
        """Restore what was changed and release the lease; never raises."""
        self._changed.close()
        self._lease.release()

    def _run_held(
        self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None
    ) -> Reply:
        """Run a command that must not run once another user has the device."""
        is_held = bool(self._lease.epoch)
        try:
            guarded = self._lease.guarded(argv) if is_held else argv
            reply = self._commands.run(guarded, timeout_seconds, stdin)
        except Unreachable:
            self._is_lost = True
            raise
        if is_held:
            self._lease.check(reply)
        return reply

    # --- facts -----------------------------------------------------------------------------------

    def survey(self) -> SurveyedDevice:
        """Ask the device for its facts and bundles; raises AgentError and what the transport raises."""
        argv = ["sh", "-c", scripts.SURVEY, "sh", self._options.workdir]
        reply = self._commands.run(argv, _SURVEY_SECONDS)
        return facts.read(scripts.parse(reply.stdout), self._device.name)

    def hello(self) -> DeviceFacts:
        """Return the facts that the device reports; the runtimes are the installed bundles.

        Settings that an interrupted connection left changed are restored first, unless another
        user has the device: they may be that user's.
        """
        holder = self._lease.holder()
        if holder is None:
            self._changed.restore_noted()
        self._survey = self.survey()
        program = None
        with suppress(RuntimeMissing):
            # Without a bundle the facts are there nevertheless; a launch then says what is missing.
            program = self._program(self._bundle(None))
        self.can = Capabilities(
            launches=_KINDS,
            infers=program is not None and program.kind == "tflite",
            samples=False,
            places=self._survey.has_taskset,
            caches=True,
        )
        return self._survey.facts

    @property
    def setup_command(self) -> str:
        """The command that installs a bundle."""
        return f"{shlex.join(['edge-harness', 'setup', self._device.selector])} --runtime FOLDER"

    def _bundle(self, runtime: str | None) -> RunnerBundle:
        if self._survey is None:
            self._survey = self.survey()
        found = by_runtime(self._survey.bundles, runtime)
        if found is not None:
            return found
        known = ", ".join(one.title for one in self._survey.bundles)
        lack = f"no bundle {runtime} (it has: {known})" if known else "no benchmark_model"
        raise RuntimeMissing(
            f"{self._device.name}: the device has {lack}; `{self.setup_command}` installs one from a "
            "folder of this host (docs/phone_runner.md)"
        )

    def _folder_of(self, bundle: RunnerBundle) -> str:
        return f"{self._options.workdir}/bundles/{bundle.folder}"

    def _program(self, bundle: RunnerBundle) -> RunnerProgram:
        """Check the bundle's files on the device and return what its program is; once per session.

        Raises RuntimeMissing if a file is missing or changed, or if the program is neither of the two.
        """
        if bundle.digest in self._programs:
            return self._programs[bundle.digest]
        found = self._folder.digests(f"bundles/{bundle.folder}", [one.name for one in bundle.files])
        for one in bundle.files:
            if found.get(one.name) != one.digest:
                state = "changed" if one.name in found else "missing"
                raise RuntimeMissing(
                    f"{self._device.name}: {one.name} of the bundle {bundle.title} is {state} on the device; "
                    f"`{self.setup_command}` installs it again"
                )
        folder = self._folder_of(bundle)
        argv = ["sh", "-c", _WITH_LIBRARIES, "sh", folder, RUNNER, "--help"]
        reply = self._commands.run(argv, _COMMAND_SECONDS)
        output = (reply.stdout + b"\n" + reply.stderr).decode("utf-8", "replace")
        program = programs.recognise(reply.exit_code, output)
        if program is None:
            lines = output.strip().splitlines() or ["it printed nothing"]
            raise RuntimeMissing(
                f"{self._device.name}: {RUNNER} of the bundle {bundle.title} is neither TensorFlow Lite's nor "
                f"LiteRT's: --help ends with exit code {reply.exit_code}: {lines[-1][:300]}; "
                f"`{self.setup_command}` installs another"
            )
        self._programs[bundle.digest] = program
        return program

    def profiler(self) -> Sequence[str] | None:
        """Return the words that start TensorFlow Lite's program; see protocols.TimesOperators.

        LiteRT's prints no times of operators.
        """
        try:
            bundle = self._bundle(None)
            program = self._program(bundle)
        except RuntimeMissing:
            return None
        if program.kind != "tflite" or not program.has("enable_op_profiling"):
            return None
        return ("sh", "-c", _WITH_LIBRARIES, "sh", self._folder_of(bundle), RUNNER)

    # --- launches --------------------------------------------------------------------------------

    def launch(self, order: LaunchOrder) -> Launch:
        """Make one launch: one process of the program, whose summary is the only latency sample.

        Raises RuntimeMissing without a bundle, Unsupported for an order that the program cannot follow
        or a file for another chip, ModelRejected, OutOfMemory, Crashed, AgentSilent, FellBack,
        AgentError for an output that is not understood, and what the transport raises.
        """
        if order.kind not in _KINDS:
            raise Unsupported(f"{self._device.name}: {RUNNER} makes no {order.kind} launches")
        bundle = self._bundle(order.runtime)
        program = self._program(bundle)
        self._check_chip(order)
        cache = self._cache(order, bundle)
        if cache is not None and order.cache == "warm":
            self._prime(order, bundle, program, cache)
        output, result, _ = self._run(order, bundle, program, cache)
        return self._launch(order, bundle, output, result)

    def _run(
        self, order: LaunchOrder, bundle: RunnerBundle, program: RunnerProgram, cache: str | None
    ) -> tuple[ScriptOutput, RunResult, float]:
        folder = f"{self._options.workdir}/launches/{secrets.token_hex(8)}"
        files = LaunchFiles(
            model=self.path_of(order.variant_digest),
            result=f"{folder}/result.pb",
            runtime_info=f"{folder}/info.pb",
            libraries=self._folder_of(bundle),
            cache=cache,
        )
        try:
            line = programs.command_line(program, order, files)
        except Unsupported as error:
            raise Unsupported(f"{self._device.name}: {error}") from error
        began = time.monotonic()
        output = self._execute(order, folder, line.words(), line.environment, bundle)
        where = f"{self._device.name}: {bundle.title}"
        result = endings.read(
            endings.of_output(output, where), program, order.target, where, self.setup_command
        )
        return output, result, time.monotonic() - began

    def _execute(
        self,
        order: LaunchOrder,
        folder: str,
        words: Sequence[str],
        environment: Mapping[str, str],
        bundle: RunnerBundle,
    ) -> ScriptOutput:
        """Run the program under the launch script; return what the script printed."""
        memory = order.kind == "memory"
        period = _MEMORY_PERIOD if memory else self._options.sampler_seconds
        mask = format(sum(1 << one for one in order.processors), "x")
        places = self._survey is not None and self._survey.has_taskset
        argv = [
            *("sh", "-c", scripts.LAUNCH, "sh", folder),
            str(round(order.timeout_seconds)),
            f"{period or 1:g}",
            mask if order.processors and places else "",
            "no" if memory or not period else "yes",
            restoring.DUMPSYS,
            environment.get("LD_LIBRARY_PATH", ""),
            environment.get("ADSP_LIBRARY_PATH", ""),
            f"{self._folder_of(bundle)}/{RUNNER}",
            *words,
        ]
        reply = self._run_held(argv, order.timeout_seconds + _GRACE_SECONDS)
        output = scripts.parse(reply.stdout)
        if not output.complete:
            text = reply.stderr.decode("utf-8", "replace").strip()[-300:]
            if "failed" in output.values or "No space left" in text:
                raise TransferFailed(
                    f"{self._device.name}: {folder} cannot be written: {text or 'no reason given'}; free space there"
                )
            raise AgentError(
                f"{self._device.name}: the launch script ended early (exit code {reply.exit_code}): {text or '-'}"
            )
        return output

    def _launch(
        self, order: LaunchOrder, bundle: RunnerBundle, output: ScriptOutput, result: RunResult
    ) -> Launch:
        report = result.report
        series, peak = sensors.series(output.file("samples") or b"")
        start, end = sensors.process_times(output)
        before = sensors.covariates(output, "before")
        flags = (*result.flags, *sensors.flags(before))
        parts: list[Samples] = [] if order.kind == "cpu" else list(series)
        summary = None
        if order.kind == "memory":
            peaks = [one for one in (peak, report.peak_bytes) if one is not None]
            if not peaks:
                raise Unsupported(f"{self._device.name}: neither /proc nor {RUNNER} reports memory")
            parts = [Samples.of("peak_rss", [max(peaks)])]
        else:
            value, summary = (
                (report.avg_ns, "mean")
                if report.median_ns is None
                else (report.median_ns, "median")
            )
            if value <= 0:
                raise Unsupported(
                    f"{self._device.name}: an inference takes less than the microsecond that {RUNNER} "
                    "counts; the Python agent measures shorter ones"
                )
            if value < _COARSE_NS:
                flags = (*flags, COARSE_CLOCK)
            statistics = report.statistics().items()
            parts += [Samples.of(name, [one], count=report.runs) for name, one in statistics]
            parts.append(Samples.of("latency", [value], count=report.runs))
        return Launch.of(
            order,
            runtime=bundle.title,
            delegation=result.delegation,
            wall_ns=round((end - start) * 1e9),
            load_ns=None if report.init_ns is None else round(report.init_ns),
            first_ns=None if report.first_ns is None else round(report.first_ns),
            inferences=report.runs,
            summary=summary,
            before=before,
            after=sensors.covariates(output, "after"),
            flags=flags,
            samples=tuple(parts),
        )

    # --- caches and chips ------------------------------------------------------------------------

    def _cache(self, order: LaunchOrder, bundle: RunnerBundle) -> str | None:
        """Return the folder of the launch's caches, empty for a cold one; None if there is no cache."""
        if order.cache is None:
            return None
        key = f"{bundle.digest}\0{order.variant_digest}\0{order.target}\0{order.threads}\0{order.delegate_options}"
        name = hashlib.sha256(key.encode()).hexdigest()[:24]
        folder = f"{self._options.workdir}/caches/{order.cache}-{name}"
        script = 'umask 077; [ "$2" = warm ] || rm -rf "$1"; mkdir -p "$1"'
        self._checked(["sh", "-c", script, "sh", folder, order.cache], "the folder of caches")
        return folder

    def _prime(
        self, order: LaunchOrder, bundle: RunnerBundle, program: RunnerProgram, cache: str
    ) -> None:
        """Fill the caches by a launch that is not kept, unless an earlier launch has."""
        mark = f"{cache}/{_PRIMED}"
        if self._commands.run(["test", "-f", mark], _COMMAND_SECONDS).exit_code == 0:
            return
        dose = dataclasses.replace(
            order.dose,
            min_inferences=1,
            min_seconds=0.0,
            warmup_seconds=0.0,
            warmup_min_inferences=1,
        )
        self._run(dataclasses.replace(order, dose=dose), bundle, program, cache)
        self._checked(["sh", "-c", ': > "$1"', "sh", mark], "the mark of a filled cache")

    def _checked(self, argv: Sequence[str], what: str) -> None:
        reply = self._commands.run(argv, _COMMAND_SECONDS)
        if reply.exit_code:
            text = reply.stderr.decode("utf-8", "replace").strip()[-300:]
            raise TransferFailed(f"{self._device.name}: {what} cannot be made: {text}")

    def _check_chip(self, order: LaunchOrder) -> None:
        """Refuse a file that is compiled for another chip's NPU, before its launch."""
        source = self._sources.get(order.variant_digest)
        chip = self._survey.facts.chip if self._survey else None
        if source is None or chip is None or order.target != programs.NPU:
            return
        if DISPATCH.encode() not in source.read_bytes():
            return
        why = bundle_checks.why_not_for_chip(stamped_chips(source), chip, self._device.name)
        if why is not None:
            raise Unsupported(f"{self._device.name}: {why}")

    # --- outputs ---------------------------------------------------------------------------------

    def infer(
        self, order: LaunchOrder, inputs: Mapping[str, np.ndarray[Any, Any]]
    ) -> Mapping[str, np.ndarray[Any, Any]]:
        """Run the file on at most 64 samples, one process each; see protocols.Dialect.infer.

        Only TensorFlow Lite's program takes inputs and returns outputs: raises Unsupported for the
        other, else as `launch`.
        """
        bundle = self._bundle(order.runtime)
        program = self._program(bundle)
        if program.kind != "tflite" or not program.has("output_filepath"):
            raise Unsupported(
                f"{self._device.name}: {bundle.title} takes no inputs and returns no outputs; TensorFlow Lite's "
                'benchmark_model does, or the Python agent (dialect = "json_lines") in Termux'
            )
        source = self._sources.get(order.variant_digest)
        if source is None:
            raise AgentError(f"{self._device.name}: the file was not deployed in this session")
        edges = inference.edges_of(source)
        count = inference.samples(self._device.name, inputs, MAX_INFER_SAMPLES)
        run = InferenceRun(order=order, bundle=bundle, program=program, edges=edges)
        output = self._infer(run, inputs, count)
        where = f"{self._device.name}: {bundle.title}"
        endings.raise_if_failed(endings.of_output(output, where), where, self.setup_command)
        made = [inference.split(where, edges, data) for data in output.files.get("output", ())]
        if len(made) != count:
            raise AgentError(f"{where}: it returned the outputs of {len(made)} of {count} samples")
        return {
            tensor.name: np.concatenate([one[at] for one in made])
            for at, tensor in enumerate(edges.outputs)
        }

    def _infer(
        self, run: InferenceRun, inputs: Mapping[str, np.ndarray[Any, Any]], count: int
    ) -> ScriptOutput:
        """Send the samples of each input as one file, and run the program once per sample."""
        folder = f"{self._options.workdir}/launches/{secrets.token_hex(8)}"
        named: dict[str, tuple[str, tuple[int, ...]]] = {}
        sizes: list[str] = []
        with tempfile.TemporaryDirectory(prefix="edge-harness-") as temporary:
            for place, (name, value) in enumerate(
                inference.matched(self._device.name, run.edges, inputs)
            ):
                data = value.astype(value.dtype.newbyteorder("<")).tobytes()
                source = Path(temporary) / f"in{place}"
                source.write_bytes(data)
                self.push(source, f"{folder}/in{place}.all", hashlib.sha256(data).hexdigest())
                named[name] = (f"{folder}/in{place}", (1, *value.shape[1:]))
                sizes += [f"in{place}", str(len(data) // count)]
        files = LaunchFiles(
            model=self.path_of(run.order.variant_digest),
            result=f"{folder}/result.pb",
            runtime_info=f"{folder}/info.pb",
            libraries=self._folder_of(run.bundle),
        )
        line = programs.command_line(run.program, run.order, files)
        flags = {**line.flags, **programs.inference_flags(named, f"{folder}/output")}
        if run.edges.signature is not None:
            flags["signature_to_run_for"] = run.edges.signature
        seconds = run.order.timeout_seconds
        argv = [
            *("sh", "-c", scripts.INFER, "sh", folder, str(count), str(round(seconds))),
            *(files.libraries, *sizes, "--", f"{files.libraries}/{RUNNER}"),
            *(f"--{name}={value}" for name, value in flags.items()),
        ]
        reply = self._run_held(argv, seconds + _GRACE_SECONDS)
        output = scripts.parse(reply.stdout)
        if not output.complete:
            text = reply.stderr.decode("utf-8", "replace").strip()[-300:]
            raise AgentError(f"{self._device.name}: the inferences ended early: {text or '-'}")
        return output

    def close(self) -> None:
        """Restore what was changed on the device and end the lease; never raises.

        Over a broken connection nothing is sent: the lease ends by itself, and what was changed is
        noted on the device.
        """
        if self._is_lost:
            self._lease.close()
        else:
            self.release()


def open_benchmark_model(transport: Transport, device: Device) -> BenchmarkModelDialect:
    """Make the dialect; nothing is sent before `deploy` or `hello`.

    Raises Unsupported if the transport copies no files or runs no commands.
    """
    return BenchmarkModelDialect(transport, device)
