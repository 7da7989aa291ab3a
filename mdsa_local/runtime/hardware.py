"""What this machine is: processor, memory, GPU. Asks the system, imports no heavy library, opens no socket."""

from __future__ import annotations

import math
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from mdsa_local.machine import available_cores

T = TypeVar("T")
# Features that llama.cpp, onnxruntime and LanceDB have code for, by the names that Linux gives them.
FEATURES = (
    "sse3",
    "ssse3",
    "avx",
    "f16c",
    "fma",
    "bmi2",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
LINUX_NAMES = {"pni": "sse3"}
# macOS's names, of `sysctl hw.optional` and `machdep.cpu`.
MAC_NAMES = {"avx1.0": "avx", "hw.optional.neon": "asimd", "hw.optional.arm.feat_dotprod": "asimddp", "hw.optional.arm.feat_i8mm": "i8mm"}
# PF_* of winnt.h.
WINDOWS_NUMBERS = {"sse3": 13, "avx": 39, "avx2": 40, "avx512f": 41, "asimd": 19, "asimddp": 43}
PROBE_TIMEOUT_S = 5.0
# Of the memory that is free, what models may take together.
FREE_SHARE = 0.7
# What Linux says of this process.
PROCESS = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A graphics processor. ``kind`` is ``cuda``, ``rocm`` or ``mps``; ``memory_bytes`` is its own memory, all of the machine's for ``mps``."""

    kind: str
    name: str
    memory_bytes: int


class Value(Generic[T]):
    """A value that may be read as an attribute or called as a method: ``detector.cpu_count`` and ``detector.cpu_count()`` are the same."""

    value: T

    def __call__(self) -> T:
        return self.value


class Integer(int, Value[int]):
    """An integer that may be called."""

    @property
    def value(self) -> int:  # type: ignore[override]
        """The plain integer."""
        return int(self)


class Number(float, Value[float]):
    """A number that may be called."""

    @property
    def value(self) -> float:  # type: ignore[override]
        """The plain number."""
        return float(self)


class Flag(int, Value[bool]):
    """Yes or no, that may be called; it counts as what it says in an ``if`` either way."""

    @property
    def value(self) -> bool:  # type: ignore[override]
        """The plain bool."""
        return bool(self)

    def __repr__(self) -> str:
        return repr(bool(self))


class Text(str, Value[str]):
    """A text that may be called."""

    __slots__ = ()

    @property
    def value(self) -> str:  # type: ignore[override]
        """The plain string."""
        return str(self)


class HardwareDetector:
    """This machine. Each fact can be read as an attribute or called as a method; each is looked up once, when first asked for."""

    @cached_property
    def cpu_count(self) -> Integer:
        """Logical processors that this process may use: fewer than the machine has where a container or a service is limited."""
        return Integer(min([available_cores(), *(math.ceil(quota) for group in _groups("cpu") if (quota := _quota(group)))]))

    @cached_property
    def physical_cores(self) -> Integer:
        """Cores of the machine, each counted once."""
        import psutil

        return Integer(psutil.cpu_count(logical=False) or psutil.cpu_count() or 1)

    @cached_property
    def fast_cores(self) -> Integer:
        """Those of the machine's cores that are of the fast kind, where there are two, as on Apple silicon; else all."""
        told = _fast_cores() if sys.platform == "darwin" else ""
        return Integer(told) if told.isdigit() and int(told) else self.physical_cores

    @cached_property
    def cpu_name(self) -> Text:
        """What the processor calls itself."""
        if sys.platform == "linux":
            match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
            return Text(match[1].strip() if match else platform.machine())
        if sys.platform == "darwin":
            return Text(_output(["sysctl", "-n", "machdep.cpu.brand_string"]).strip() or platform.machine())
        return Text(platform.processor() or platform.machine())

    @cached_property
    def cpu_features(self) -> tuple[str, ...]:
        """Those of :data:`FEATURES` that the processor has."""
        if sys.platform == "linux":
            return linux_features(_text("/proc/cpuinfo"))
        if sys.platform == "darwin":
            return mac_features(_output(["sysctl", "hw.optional", "machdep.cpu.features", "machdep.cpu.leaf7_features"]))
        return windows_features()

    @cached_property
    def memory_gb(self) -> Number:
        """Memory in gigabytes (10^9 bytes): what is installed, or what a container or a service may use where that is less."""
        return Number(round(self.memory_bytes / 1e9, 1))

    @cached_property
    def memory_bytes(self) -> Integer:
        """The same in bytes."""
        import psutil

        return Integer(min([psutil.virtual_memory().total, *(limit for limit, _ in _memory_limits())]))

    @property
    def available_memory_gb(self) -> Number:
        """Memory that programs could take now, in gigabytes; see :func:`available_bytes`."""
        return Number(round(available_bytes() / 1e9, 1))

    @cached_property
    def gpus(self) -> tuple[Gpu, ...]:
        """All graphics processors that a model could run on, the one with most memory first."""
        found = [*nvidia_gpus(_output(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"])), *_amd_gpus()]
        if sys.platform == "darwin" and platform.machine() == "arm64":
            found.append(Gpu("mps", self.cpu_name, self.memory_bytes))
        return tuple(sorted(found, key=lambda gpu: -gpu.memory_bytes))

    @property
    def has_gpu(self) -> Flag:
        """Whether there is one."""
        return Flag(bool(self.gpus))

    @property
    def gpu_memory_gb(self) -> Number:
        """Memory of the largest one in gigabytes, 0.0 without."""
        return Number(round(self.gpus[0].memory_bytes / 1e9, 1) if self.gpus else 0.0)

    @property
    def recommended_device(self) -> Text:
        """``cuda``, ``rocm`` or ``mps`` where there is one, else ``cpu``."""
        return Text(self.gpus[0].kind if self.gpus else "cpu")

    @property
    def get_recommended_device(self) -> Text:
        """The same under its other name."""
        return self.recommended_device

    def detect(self) -> HardwareDetector:
        """Look everything up now."""
        self.get_summary()
        return self

    def get_summary(self) -> dict[str, Any]:
        """All facts as plain values."""
        return {
            "platform": f"{platform.system()} {platform.machine()}",
            "cpu": str(self.cpu_name),
            "cpu_count": self.cpu_count(),
            "physical_cores": self.physical_cores(),
            "cpu_features": list(self.cpu_features),
            "memory_gb": self.memory_gb(),
            "available_memory_gb": self.available_memory_gb(),
            "has_gpu": self.has_gpu(),
            "gpu_memory_gb": self.gpu_memory_gb(),
            "gpus": [asdict(gpu) for gpu in self.gpus],
            "recommended_device": str(self.recommended_device),
        }


@cache
def _fast_cores() -> str:
    """What macOS says of them; asked once, because each model that is loaded wants to know."""
    return _output(["sysctl", "-n", "hw.perflevel0.physicalcpu"]).strip()


def linux_features(cpuinfo: str) -> tuple[str, ...]:
    """Features in the text of ``/proc/cpuinfo``."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    there = {LINUX_NAMES.get(word, word) for word in match[1].split()} if match else set()
    return tuple(feature for feature in FEATURES if feature in there)


def mac_features(sysctl: str) -> tuple[str, ...]:
    """Features in what ``sysctl`` prints: ``name: 1`` lines on Apple silicon, lists of words on Intel."""
    there: set[str] = set()
    for line in sysctl.lower().splitlines():
        name, _, value = line.partition(": ")
        words = {name} if value.strip() == "1" else set(value.split()) if name.startswith("machdep") else set()
        there |= {MAC_NAMES.get(word, word.removeprefix("hw.optional.")) for word in words}
    return tuple(feature for feature in FEATURES if feature in there)


def windows_features() -> tuple[str, ...]:
    """Features that the Windows kernel says are there."""
    if sys.platform != "win32":
        return ()
    import ctypes

    present = ctypes.windll.kernel32.IsProcessorFeaturePresent
    return tuple(feature for feature in FEATURES if feature in WINDOWS_NUMBERS and present(WINDOWS_NUMBERS[feature]))


def nvidia_gpus(csv: str) -> list[Gpu]:
    """GPUs in what ``nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits`` prints; mebibytes."""
    found = [re.fullmatch(r"\s*(.+?)\s*,\s*(\d+)\s*", line) for line in csv.splitlines()]
    return [Gpu("cuda", match[1], int(match[2]) * 2**20) for match in found if match]


def cgroup_cpus(text: str) -> float:
    """Processors that a control group's ``cpu.max`` allows, 0.0 for no limit."""
    match = re.fullmatch(r"(\d+) (\d+)", text.strip())
    return int(match[1]) / int(match[2]) if match and int(match[2]) else 0.0


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups that may limit this process, of ``memory`` or ``cpu``: its own and all above it that can be seen, of cgroup v2
    and v1. A limit of any of them holds."""
    own: dict[str, str] = {}
    for names, path in re.findall(r"^\d+:([^:]*):(.*)$", _text(PROCESS / "cgroup"), re.MULTILINE):
        own |= dict.fromkeys(names.split(","), path)
    mounts = re.findall(r"^\S+ \S+ \S+ (\S+) (\S+) .* - (cgroup2?) \S+ (\S+)$", _text(PROCESS / "mountinfo"), re.MULTILINE)
    for root, mounted, kind, options in mounts:
        # Version 2 has one tree for all, and names none.
        if kind == "cgroup" and controller not in options.split(","):
            continue
        path = PurePosixPath(own.get("" if kind == "cgroup2" else controller, root))
        below = path.relative_to(root).parts if path.is_relative_to(root) else ()
        yield from (Path(mounted, *below[:depth]) for depth in range(len(below) + 1))


def _quota(group: Path) -> float:
    """Processors that a control group allows, 0.0 for no limit."""
    return cgroup_cpus(_text(group / "cpu.max") or f"{_text(group / 'cpu.cfs_quota_us').strip()} {_text(group / 'cpu.cfs_period_us')}")


def _memory_limits() -> Iterator[tuple[int, int]]:
    """The limit of each control group that has one, and what is taken of it, but for what the system would give back."""
    for group in _groups("memory"):
        for most, used, unused in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, taken = _text(group / most).strip(), _text(group / used).strip()
            if limit.isdigit():
                cached = re.search(rf"^{unused} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
                yield int(limit), (int(taken) if taken.isdigit() else 0) - (int(cached[1]) if cached else 0)


def _amd_gpus(drm: Path = Path("/sys/class/drm")) -> list[Gpu]:
    """AMD GPUs by the Linux kernel's tables. Those without memory of their own, part of a processor, are left out."""
    found = []
    for card in sorted(drm.glob("card[0-9]*/device/mem_info_vram_total")):
        size = _text(card).strip()
        if size.isdigit() and int(size) > 2**30:
            name = _text(card.with_name("product_name")).strip()
            found.append(Gpu("rocm", name or "AMD GPU", int(size)))
    return found


def _text(path: str | Path) -> str:
    """A small file of the system; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(command: list[str]) -> str:
    """What a command prints; empty where it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def memory_budget_bytes(configured_mb: int) -> int:
    """Bytes for all loaded models together: what the setting ``memory_budget_mb`` says, or, where it is 0, a share of what is free now."""
    return configured_mb * 10**6 or int(available_bytes() * FREE_SHARE)


def available_bytes() -> int:
    """Memory that programs could take now: of the machine, or of a container's or a service's limit where that leaves less. What the system would
    give back counts as free: below a limit the pages of files that were not used lately."""
    import psutil

    free = int(psutil.virtual_memory().available)
    return max(0, min([free, *(limit - taken for limit, taken in _memory_limits())]))
