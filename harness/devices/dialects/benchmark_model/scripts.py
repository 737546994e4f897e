"""The POSIX shell programs that run on the device; toybox, dash, mksh and bash run them.

Each prints lines `key value` and files as `file NAME SIZE` followed by the bytes. Loops read
files with `read`, which starts no process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MARK = b"edge-harness-file "
END = b"edge-harness-end\n"

_COMMON = r"""
umask 077
show() {  # NAME PATH MAX_BYTES: print the end of a file
    [ -f "$2" ] || return 0
    tail -c "$3" "$2" > "$2.part" || return 0
    size=$(wc -c < "$2.part")
    echo "edge-harness-file $1 $((size))"
    cat "$2.part"
}
"""

COVARIATES = r"""
covariates() {  # NAME: print the state of the device
    echo "$1.uptime $(cat /proc/uptime 2>/dev/null)"
    read -r load < /proc/loadavg 2>/dev/null && echo "$1.load $load"
    for one in /sys/class/thermal/thermal_zone*; do
        read -r value < "$one/temp" 2>/dev/null && read -r kind < "$one/type" 2>/dev/null &&
            echo "$1.zone $value $kind"
    done
    for one in /sys/devices/system/cpu/cpufreq/policy*; do
        read -r value < "$one/scaling_cur_freq" 2>/dev/null && echo "$1.mhz $value"
        read -r value < "$one/scaling_governor" 2>/dev/null && echo "$1.governor $value"
    done
    [ -x "$dumpsys" ] || return 0
    "$dumpsys" thermalservice > "$dir/thermal" 2>/dev/null
    show "$1.thermal" "$dir/thermal" 40000
    "$dumpsys" battery > "$dir/battery" 2>/dev/null
    show "$1.battery" "$dir/battery" 20000
    "$dumpsys" power 2>/dev/null | grep -m 2 -E 'mWakefulness=|Display Power' > "$dir/power"
    show "$1.power" "$dir/power" 1000
}
"""

SAMPLER = r"""
sample() {  # PID LIMIT_SECONDS PERIOD_SECONDS: read sensors until the process ends; kill it late
    read -r began _ < /proc/uptime
    limit=$((${began%%.*} + $2))
    count=0
    while [ -d "/proc/$1" ] && [ "$count" -lt 200000 ]; do
        read -r now _ < /proc/uptime
        while read -r key value unit; do
            case $key in
            VmHWM:) echo "$now hwm $value" ;;
            VmRSS:) echo "$now rss $value" ;;
            State:) [ "$value" = Z ] && break 2 ;;
            esac
        done < "/proc/$1/status" 2>/dev/null
        for one in $zones; do
            read -r value < "$one/temp" 2>/dev/null && echo "$now zone $value ${one##*zone}"
        done
        for one in $policies; do
            read -r value < "$one/scaling_cur_freq" 2>/dev/null && echo "$now mhz $value ${one##*policy}"
        done
        for one in current_now voltage_now; do
            read -r value < "$battery/$one" 2>/dev/null && echo "$now $one $value"
        done
        for one in $rails; do
            while read -r line; do echo "$now rail $line"; done < "$one" 2>/dev/null
        done
        if [ "${now%%.*}" -ge "$limit" ]; then
            echo late > "$dir/late"
            kill -9 "$1" 2>/dev/null
        fi
        count=$((count + 1))
        sleep "$3"
    done
    # Reading /proc has a cost: the shell's own processor time, and that of its sleeps.
    echo "cost $count"
    times
}
"""

LAUNCH = (
    _COMMON
    + COVARIATES
    + SAMPLER
    + r"""
# DIR LIMIT PERIOD MASK SENSORS DUMPSYS LIBRARY_PATH ADSP_PATH PROGRAM ARGUMENTS...
dir=$1 limit=$2 period=$3 mask=$4 sensors=$5 dumpsys=$6 libraries=$7 adsp=$8
shift 8
rm -rf "$dir"
mkdir -p "$dir" || { echo "failed mkdir"; exit 0; }
trap 'rm -rf "$dir"' EXIT
trap 'exit 129' HUP INT TERM
zones= policies= battery= rails=
if [ "$sensors" = yes ]; then
    for one in /sys/class/thermal/thermal_zone*; do [ -r "$one/temp" ] && zones="$zones $one"; done
    for one in /sys/devices/system/cpu/cpufreq/policy*; do
        [ -r "$one/scaling_cur_freq" ] && policies="$policies $one"
    done
    for one in /sys/bus/iio/devices/iio:device*; do
        [ -r "$one/energy_value" ] && rails="$rails $one/energy_value"
    done
    battery=/sys/class/power_supply/battery
fi
covariates before
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
[ -z "$adsp" ] || export ADSP_LIBRARY_PATH="$adsp"
read -r start _ < /proc/uptime
if [ -n "$mask" ]; then
    taskset "$mask" "$@" > "$dir/out" 2> "$dir/err" < /dev/null &
else
    "$@" > "$dir/out" 2> "$dir/err" < /dev/null &
fi
pid=$!
# The sampler keeps the processors that the launch does not use, if the scheduler can.
( unset LD_LIBRARY_PATH; sample "$pid" "$limit" "$period" ) > "$dir/samples" 2>/dev/null &
sampler=$!
wait "$pid"
code=$?
read -r end _ < /proc/uptime
wait "$sampler"
unset LD_LIBRARY_PATH
echo "code $code"
echo "pid $pid"
echo "process $start $end"
[ ! -f "$dir/late" ] || echo "late yes"
covariates after
show samples "$dir/samples" 3000000
show out "$dir/out" 1000000
show err "$dir/err" 1000000
show result "$dir/result.pb" 1000000
show info "$dir/info.pb" 3000000
show output "$dir/output" 100000000
printf 'edge-harness-end\n'
"""
)

INFER = (
    _COMMON
    + r"""
# DIR COUNT LIMIT LIBRARY_PATH NAME SIZE ... -- PROGRAM ARGUMENTS...: one process per sample
dir=$1 count=$2 limit=$3 libraries=$4
shift 4
trap 'rm -rf "$dir"' EXIT
trap 'exit 129' HUP INT TERM
watch() {  # PID: kill a process that is late; mksh acts on a signal only while it waits
    trap - EXIT
    sleep "$limit" &
    trap 'kill "$!"; exit' HUP INT TERM
    wait "$!"
    echo late > "$dir/late"
    kill -9 "$1"
}
inputs=
while [ "$1" != -- ]; do inputs="$inputs $1:$2"; shift 2; done
shift
sample=0
while [ "$sample" -lt "$count" ]; do
    for one in $inputs; do
        size=${one#*:}
        tail -c "+$((sample * size + 1))" "$dir/${one%%:*}.all" | head -c "$size" > "$dir/${one%%:*}"
    done
    rm -f "$dir/output"
    LD_LIBRARY_PATH="$libraries" "$@" > "$dir/out" 2> "$dir/err" < /dev/null &
    pid=$!
    watch "$pid" < /dev/null > /dev/null 2>&1 &
    watch=$!
    wait "$pid"
    code=$?
    kill "$watch" 2>/dev/null
    echo "code $code"
    show output "$dir/output" 100000000
    [ "$code" = 0 ] || break
    sample=$((sample + 1))
done
[ ! -f "$dir/late" ] || echo "late yes"
show out "$dir/out" 1000000
show err "$dir/err" 1000000
printf 'edge-harness-end\n'
"""
)

SURVEY = r"""
say() { echo "$1 $2"; }
say system "$(uname -s)"
say kernel "$(uname -r)"
say machine "$(uname -m)"
say hostname "$(uname -n)"
say page_size "$(getconf PAGE_SIZE 2>/dev/null || getconf PAGESIZE 2>/dev/null)"
[ -x /system/bin/getprop ] && for one in ro.serialno ro.boot.serialno ro.soc.model \
    ro.soc.manufacturer ro.board.platform ro.product.model ro.product.manufacturer \
    ro.build.version.sdk ro.build.version.release ro.build.fingerprint ro.product.cpu.abilist; do
    say "prop.$one" "$(/system/bin/getprop "$one")"
done
[ -r /proc/device-tree/serial-number ] &&
    say serial-number "$(tr -d '\000' < /proc/device-tree/serial-number)"
for one in /var/lib/dbus/machine-id /etc/machine-id /proc/sys/kernel/random/boot_id /proc/uptime /proc/loadavg; do
    read -r value < "$one" 2>/dev/null && say "${one##*/}" "$value"
done
while read -r key value _; do [ "$key" = MemTotal: ] && say memory_kb "$value"; done < /proc/meminfo
for one in /sys/devices/system/cpu/cpu[0-9]*; do
    [ -d "$one" ] || continue
    read -r mhz < "$one/cpufreq/cpuinfo_max_freq" 2>/dev/null || mhz=-
    read -r capacity < "$one/cpu_capacity" 2>/dev/null || capacity=-
    say cpu "${one##*cpu} $mhz $capacity"
done
while read -r key value; do
    [ "$key" = Cpus_allowed_list: ] && say allowed "$value"
done < /proc/self/status
read -r governor < /sys/devices/system/cpu/cpufreq/policy0/scaling_governor 2>/dev/null &&
    say governor "$governor"
command -v taskset >/dev/null 2>&1 && taskset 1 true 2>/dev/null && say taskset yes
mkdir -p "$1" 2>/dev/null
say free_kb "$(df -k "$1" 2>/dev/null | tail -n 1)"
say now "$(date +%s 2>/dev/null)"
for one in "$1"/bundles/*/bundle.json; do
    [ -f "$one" ] || continue
    echo "edge-harness-file bundle $(($(wc -c < "$one")))"
    cat "$one"
done
read -r default < "$1/bundles/default" 2>/dev/null && say default "$default"
printf 'edge-harness-end\n'
"""


@dataclass(slots=True)
class ScriptOutput:
    """What a script printed: lines by key, and files by name."""

    values: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)
    complete: bool = False

    def text(self, key: str) -> str | None:
        """Return the last value of a key; None if it is absent or empty."""
        found = self.values.get(key)
        return (found[-1] or None) if found else None

    def file(self, name: str) -> bytes | None:
        """Return a file; None if the script printed none."""
        found = self.files.get(name)
        return found[-1] if found else None


_MAX_KEYS = 100_000
_SIZE = re.compile(r"[0-9]{1,9}")
_INTEGER = re.compile(r"-?[0-9]{1,18}")


def parse(data: bytes) -> ScriptOutput:
    """Read a script's output; never raises. Without its last line it is not `complete`."""
    found = ScriptOutput()
    place = 0
    for _ in range(_MAX_KEYS):
        end = data.find(b"\n", place)
        if end < 0:
            break
        line, place = data[place : end + 1], end + 1
        if line == END:
            found.complete = True
            break
        if line.startswith(MARK):
            name, _, size = line[len(MARK) :].decode("ascii", "replace").strip().rpartition(" ")
            if not _SIZE.fullmatch(size) or place + int(size) > len(data):
                break
            found.files.setdefault(name, []).append(data[place : place + int(size)])
            place += int(size)
            continue
        key, _, value = line.decode("utf-8", "replace").strip().partition(" ")
        found.values.setdefault(key, []).append(value.strip())
    return found


def integers(values: Mapping[str, list[str]], key: str) -> list[int]:
    """Return the first number of each line of a key; a line without one is left out."""
    words = [value.split() for value in values.get(key, [])]
    return [int(one[0]) for one in words if one and _INTEGER.fullmatch(one[0])]
