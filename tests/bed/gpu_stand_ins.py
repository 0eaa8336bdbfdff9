"""Scripts for stand-ins of nvidia-smi, amd-smi, rocm-smi and of engines on a machine that has no GPU."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

# The figures of one GPU after one another; the last ones stay.
MEMORY_MIB = (4, 128, 268, 200)
UTILIZATION = (0, 50, 100, 90)
POWER_W = (100.5, 300.5, 500.5, 400.5)
TEMPERATURE_C = (30, 50, 70, 60)
# Idle, then held down by its power cap, then two times by nothing.
REASONS = (0x1, 0x4, 0x0, 0x0)

_HELP = """List of valid properties to query for the switch "--query-gpu":

"timestamp"
"index"
"uuid" or "gpu_uuid"
"pci.bus_id" or "gpu_bus_id"
"memory.used"
"utilization.gpu"
"power.draw"
"power.draw.instant"
"temperature.gpu"
"clocks_event_reasons.active" or "clocks_throttle_reasons.active"
"""
WATCH = (
    "--query-gpu=timestamp,index,uuid,pci.bus_id,memory.used,utilization.gpu,power.draw,power.draw.instant,"
    "temperature.gpu,clocks_event_reasons.active --format=csv,noheader,nounits -lms"
)
LISTED = "--query-compute-apps=pid,gpu_uuid,used_memory,process_name --format=csv,noheader,nounits"
HANGS = "exec sleep 60"


def without_gpu_flags(program: str) -> str:
    """An engine that takes the flags of GPUs, which it hands to nobody, and then becomes the real `program`."""
    return f"""
left=$#
while [ "$left" -gt 0 ]; do
  word=$1
  shift
  left=$((left - 1))
  case $word in
    --gpus) shift && left=$((left - 1)) ;;
    --gpus=* | --device=* | --group-add=*) ;;
    *) set -- "$@" "$word" ;;
  esac
done
exec {program} "$@"
"""


def answering(answers: Mapping[str, str], otherwise: str = 'echo "unknown option: $*" >&2; exit 2') -> str:
    """A tool that runs a script for each command line that it knows; `*` in one stands for anything."""
    cases = "".join(f"  {_pattern(words)})\n{script}\n;;\n" for words, script in answers.items())
    return f'case "$*" in\n{cases}  *) {otherwise} ;;\nesac'


def printed(text: str) -> str:
    """The script that prints a text."""
    return f"cat <<'END_OF_ANSWER'\n{text}\nEND_OF_ANSWER"


def _pattern(words: str) -> str:
    return "*".join(f"'{part}'" if part else "" for part in words.split("*"))


@dataclass(frozen=True)
class NvidiaNode:
    """A machine with NVIDIA GPUs of its own, as nvidia-smi tells of them; `processes` are (pid, GPU) pairs."""

    count: int = 8
    product: str = "NVIDIA H100 80GB HBM3"
    processes: Sequence[tuple[int, int]] = ()
    uuids: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        # No two machines have the same: tests that run side by side would wait for each other's GPUs.
        object.__setattr__(self, "uuids", tuple(f"GPU-{uuid4()}" for _ in range(self.count)))

    @property
    def lock_names(self) -> list[str]:
        """The names of the files that hold the locks of these GPUs."""
        return [f"nvidia-{uuid}.lock" for uuid in self.uuids]

    def nvidia_smi(self, **replaced: str) -> str:
        """The script of the tool; `query`, `watch`, `help`, `processes` or `now` replace the script of that answer."""
        answers = {
            "query": printed(self._xml()),
            "list": printed("\n".join(f"GPU {i}: {self.product} (UUID: {uuid})" for i, uuid in enumerate(self.uuids))),
            "help": printed(_HELP),
            "watch": self._watch(),
            "processes": printed(self._processes()),
            "now": self._lines(-1),
        }
        words = ("-q -x", "-L", "--help-query-gpu", f"{WATCH} *", LISTED, WATCH.removesuffix(" -lms"))
        return answering(dict(zip(words, {**answers, **replaced}.values(), strict=True)))

    def _xml(self) -> str:
        cards = "".join(self._card(index, uuid) for index, uuid in enumerate(self.uuids))
        return (
            '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v13.dtd">\n<nvidia_smi_log>'
            "<timestamp>Mon Jan  5 10:20:30 2026</timestamp><driver_version>580.65.06</driver_version>"
            f"<cuda_version>13.0</cuda_version><attached_gpus>{self.count}</attached_gpus>{cards}</nvidia_smi_log>"
        )

    def _card(self, index: int, uuid: str) -> str:
        return (
            f'<gpu id="{_address(index)}"><product_name>{self.product}</product_name>'
            "<mig_mode><current_mig>Disabled</current_mig></mig_mode><mig_devices>None</mig_devices>"
            f"<uuid>{uuid}</uuid><fb_memory_usage><total>81559 MiB</total><used>4 MiB</used></fb_memory_usage></gpu>"
        )

    def frames(self) -> str:
        """A script that prints a group of lines for every set of figures, at the interval that `-lms` asks for."""
        pause = 'for last; do :; done\npause=$(awk "BEGIN {print $last / 1000}")\n'
        return pause + "\n".join(self._frame(number) for number in range(len(MEMORY_MIB)))

    def _watch(self) -> str:
        """All groups, then the last one for ever; the time is the tool's own."""
        return f"{self.frames()}\nwhile :; do\n{self._frame(-1)}\ndone"

    def _frame(self, number: int) -> str:
        return f'{self._lines(number)}\nsleep "$pause"'

    def _lines(self, number: int) -> str:
        figures = f"{MEMORY_MIB[number]}, {UTILIZATION[number]}, {POWER_W[number]}, {POWER_W[number] + 7}, "
        figures += f"{TEMPERATURE_C[number]}, 0x{REASONS[number]:016x}"
        lines = "\n".join(
            f'echo "$now, {index}, {uuid}, {_address(index)}, {figures}"' for index, uuid in enumerate(self.uuids)
        )
        return f"now=$(date '+%Y/%m/%d %H:%M:%S.%3N')\n{lines}"

    def _processes(self) -> str:
        return "\n".join(f"{pid}, {self.uuids[gpu]}, 512, /usr/bin/python3" for pid, gpu in self.processes)


@dataclass(frozen=True)
class AmdNode:
    """A machine with MI300X of its own, as amd-smi and rocm-smi tell of them; `processes` are (pid, GPU) pairs."""

    count: int = 8
    processes: Sequence[tuple[int, int]] = ()
    serials: tuple[str, ...] = field(init=False)
    # Not numbered as the GPUs are: a machine in SPX mode leaves room for each GPU's parts.
    render_nodes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "serials", tuple(f"0x{uuid4().hex[:16].upper()}" for _ in range(self.count)))
        first = random.randrange(10_000, 10_000_000)
        object.__setattr__(
            self, "render_nodes", tuple(f"/dev/dri/renderD{first + 8 * gpu}" for gpu in range(self.count))
        )

    @property
    def lock_names(self) -> list[str]:
        """The names of the files that may hold the locks of these GPUs."""
        names = [*self.render_nodes, *(f"GPU-{serial.lower().removeprefix('0x')}" for serial in self.serials)]
        return [f"amd-{name.replace('/', '-')}.lock" for name in names]

    def amd_smi(self, **replaced: str) -> str:
        """The script of amd-smi; `static`, `list`, `metric` or `process` replace the script of that answer."""
        answers = {
            "static": printed(json.dumps({"gpu_data": [self._static(index) for index in range(self.count)]})),
            "list": printed(json.dumps([self._listed(index) for index in range(self.count)])),
            "metric": self._metrics(),
            "process": printed(json.dumps([self._process_list(index) for index in range(self.count)])),
        }
        words = (
            "static --json",
            "list -e --json",
            "metric --usage --power --temperature --mem-usage --json",
            "process --json",
        )
        return answering(dict(zip(words, {**answers, **replaced}.values(), strict=True)))

    def rocm_smi(self) -> str:
        """The script of rocm-smi, which answers every question with all that it knows, after a warning."""
        cards = {f"card{index}": self._rocm_card(index) for index in range(self.count)}
        everything = json.dumps({**cards, "system": {"Driver version": "6.12.12"}})
        return printed(f"WARNING: AMD GPU device(s) is/are in a low-power state.\n\n{everything}")

    def _static(self, index: int) -> dict[str, Any]:
        return {
            "gpu": index,
            "asic": {
                "market_name": "AMD Instinct MI300X",
                "asic_serial": self.serials[index],
                "target_graphics_version": "gfx942",
            },
            "bus": {"bdf": _amd_address(index)},
            "driver": {"name": "amdgpu", "version": "6.12.12"},
            "vram": {"size": {"value": 196592, "unit": "MB"}},
            "partition": {"compute_partition": "SPX", "memory_partition": "NPS1"},
        }

    def _listed(self, index: int) -> dict[str, Any]:
        render = self.render_nodes[index].rpartition("/")[2]
        return {"gpu": index, "bdf": _amd_address(index), "card": f"card{index}", "render": render}

    def _metrics(self) -> str:
        """Idle when first asked, then the largest figures."""
        first, later = (json.dumps({"gpu_data": [_metric(gpu, at) for gpu in range(self.count)]}) for at in (0, 2))
        return f'if mkdir "$0.asked" 2>/dev/null; then\n{printed(first)}\nelse\n{printed(later)}\nfi'

    def _process_list(self, index: int) -> dict[str, Any]:
        mine = [{"process_info": {"name": "python3", "pid": pid}} for pid, gpu in self.processes if gpu == index]
        return {"gpu": index, "process_list": mine or [{"process_info": "No running processes detected"}]}

    def _rocm_card(self, index: int) -> dict[str, str]:
        return {
            "Card Series": "AMD Instinct MI300X",
            "GFX Version": "gfx942",
            "Unique ID": self.serials[index],
            "PCI Bus": _amd_address(index),
            "VRAM Total Memory (B)": str(196592 * 2**20),
            "VRAM Total Used Memory (B)": str(MEMORY_MIB[2] * 2**20),
            "GPU use (%)": str(UTILIZATION[2]),
            "Current Socket Graphics Package Power (W)": str(POWER_W[2]),
            "Temperature (Sensor junction) (C)": str(TEMPERATURE_C[2]),
        }


def _metric(gpu: int, at: int) -> dict[str, Any]:
    def of(value: float, unit: str) -> dict[str, Any]:
        return {"value": value, "unit": unit}

    return {
        "gpu": gpu,
        "usage": {"gfx_activity": of(UTILIZATION[at], "%")},
        "power": {"socket_power": of(POWER_W[at], "W"), "throttle_status": "UNTHROTTLED"},
        "temperature": {"edge": "N/A", "hotspot": of(TEMPERATURE_C[at], "C")},
        "mem_usage": {"total_vram": of(196592, "MB"), "used_vram": of(MEMORY_MIB[at], "MB")},
    }


def _address(index: int) -> str:
    return f"00000000:{0x1B + 8 * index:02X}:00.0"


def _amd_address(index: int) -> str:
    return f"0000:{5 + 16 * index:02x}:00.0"
