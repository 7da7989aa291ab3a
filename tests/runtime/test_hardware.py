"""What the machine is, from what its system says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mdsa_local import HardwareDetector
from mdsa_local.runtime import hardware
from mdsa_local.runtime.hardware import Gpu, cgroup_cpus, linux_features, mac_features, nvidia_gpus
from mdsa_local.runtime.llamacpp import default_threads


def test_attributes_and_methods_say_the_same() -> None:
    detector = HardwareDetector()
    for name in ("cpu_count", "physical_cores", "memory_gb", "has_gpu", "gpu_memory_gb", "get_recommended_device", "recommended_device", "cpu_name"):
        value = getattr(detector, name)
        assert value == value(), name
        assert type(value()) in (int, float, bool, str)
    assert 1 <= detector.cpu_count <= (psutil.cpu_count() or 1)
    assert 0 < detector.memory_gb <= round(psutil.virtual_memory().total / 1e9, 1)
    assert detector.available_memory_gb() < detector.memory_gb() + 0.1
    assert detector.detect() is detector


def test_a_flag_counts_as_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, there, device in (((), False, "cpu"), ((Gpu("cuda", "RTX", 8 * 2**30),), True, "cuda")):
        detector = HardwareDetector()
        detector.__dict__["gpus"] = gpus
        assert bool(detector.has_gpu) is there
        assert detector.has_gpu() is there
        assert repr(detector.has_gpu) == repr(there)
        assert detector.get_recommended_device() == device
        assert (detector.gpu_memory_gb() > 8) is there


def test_the_summary_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    summary = HardwareDetector().get_summary()
    assert json.loads(json.dumps(summary)) == summary
    assert type(summary["cpu_count"]) is int
    assert type(summary["has_gpu"]) is bool
    assert summary["recommended_device"] in ("cpu", "cuda", "rocm", "mps")


def test_it_opens_no_socket_and_imports_nothing_heavy() -> None:
    code = """
import sys
def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        raise RuntimeError(event)
sys.addaudithook(guard)
from mdsa_local import HardwareDetector
HardwareDetector().get_summary()
assert not {"torch", "llama_cpp", "onnxruntime", "lancedb"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_linux() -> None:
    flags = "fpu pni ssse3 avx f16c fma bmi2 avx2 avx512f avx512_vnni amx_int8 made_up"
    intel = f"processor : 0\nmodel name : Intel\nflags\t\t: {flags}\n\nprocessor : 1\nflags : none\n"
    assert linux_features(intel) == ("sse3", "ssse3", "avx", "f16c", "fma", "bmi2", "avx2", "avx512f", "avx512_vnni", "amx_int8")
    assert linux_features("Features : fp asimd asimddp i8mm sve\n") == ("asimd", "asimddp", "i8mm", "sve")
    assert linux_features("") == ()


def test_macos() -> None:
    apple = "hw.optional.neon: 1\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\nhw.optional.floatingpoint: 1\n"
    assert mac_features(apple) == ("asimd", "asimddp")
    intel = "hw.optional.avx1_0: 1\nmachdep.cpu.features: FPU SSE3 AVX1.0 FMA\nmachdep.cpu.leaf7_features: BMI2 AVX2\n"
    assert mac_features(intel) == ("sse3", "avx", "fma", "bmi2", "avx2")


@pytest.mark.parametrize(("told", "cores"), [("4\n", 4), ("", 8), ("0\n", 8), ("sysctl: unknown oid", 8)])
def test_slow_cores_evaluate_nothing(monkeypatch: pytest.MonkeyPatch, told: str, cores: int) -> None:
    monkeypatch.setattr(hardware, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(hardware, "_output", lambda command: told if "hw.perflevel0.physicalcpu" in command else "")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8)
    monkeypatch.setattr(hardware, "available_cores", lambda: 8)
    hardware._fast_cores.cache_clear()
    assert default_threads() == cores
    hardware._fast_cores.cache_clear()


def test_nvidia() -> None:
    assert nvidia_gpus("NVIDIA GeForce RTX 3060, 12288\nTesla T4, 15360\n") == [
        Gpu("cuda", "NVIDIA GeForce RTX 3060", 12288 * 2**20),
        Gpu("cuda", "Tesla T4", 15360 * 2**20),
    ]
    assert nvidia_gpus("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") == []
    assert nvidia_gpus("Name, [N/A]\n") == []


def test_amd(tmp_path: Path) -> None:
    for card, size in (("card0", 16 * 2**30), ("card1", 512 * 2**20)):
        device = tmp_path / card / "device"
        device.mkdir(parents=True)
        (device / "mem_info_vram_total").write_text(f"{size}\n")
    (tmp_path / "card0/device/product_name").write_text("Radeon RX 7800\n")
    assert hardware._amd_gpus(tmp_path) == [Gpu("rocm", "Radeon RX 7800", 16 * 2**30)]


@pytest.mark.parametrize(("text", "cpus"), [("max 100000\n", 0.0), ("150000 100000\n", 1.5), ("", 0.0), ("5 0", 0.0)])
def test_containers(text: str, cpus: float) -> None:
    assert cgroup_cpus(text) == cpus


def limited(folder: Path, monkeypatch: pytest.MonkeyPatch, own: str, mounts: dict[str, str], files: dict[str, str]) -> None:
    """A machine of 64 GB and 16 processors whose Linux says ``own`` of this process and has mounted ``mounts`` (what: its root) in
    folders 0, 1 and so on, with ``files``."""
    lines = [f"{30 + at} 24 0:{at} {root} {folder}/{at} rw,nosuid shared:9 - {kind}\n" for at, (kind, root) in enumerate(mounts.items())]
    for path, text in {"cgroup": own, "mountinfo": "".join(lines), **files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    monkeypatch.setattr(hardware, "PROCESS", folder)
    monkeypatch.setattr(hardware, "available_cores", lambda: 16)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=40_000_000_000, total=64_000_000_000))


STAT = "anon 900\ninactive_file 500000000\nactive_file 7\ntotal_inactive_file 600000000\n"


def memory(at: str, limit: str, taken: str) -> dict[str, str]:
    return {f"{at}/memory.max": f"{limit}\n", f"{at}/memory.current": f"{taken}\n", f"{at}/memory.stat": STAT}


def old_memory(at: str, limit: str, taken: str) -> dict[str, str]:
    return {f"{at}/memory.limit_in_bytes": f"{limit}\n", f"{at}/memory.usage_in_bytes": f"{taken}\n", f"{at}/memory.stat": STAT}


@pytest.mark.parametrize(
    ("limit", "taken", "free"),
    [("4000000000", "1500000000", 3_000_000_000), ("max", "1", 40_000_000_000), ("", "", 40_000_000_000), ("10", "1000000000", 0)],
)
def test_free_memory_is_what_a_container_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, taken: str, free: int) -> None:
    limited(tmp_path, monkeypatch, "0::/\n", {"cgroup2 cgroup2 rw": "/"}, memory("0", limit, taken))
    assert hardware.available_bytes() == free
    assert hardware.memory_budget_bytes(0) == int(0.7 * free)
    assert hardware.memory_budget_bytes(2000) == 2_000_000_000
    assert HardwareDetector().available_memory_gb() == round(free / 1e9, 1)


V1 = "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab\n0::/docker/ab\n"
V1_MOUNTS = ("tmpfs tmpfs rw,mode=755", "cgroup cgroup rw,memory", "cgroup cgroup rw,cpu,cpuacct", "cgroup2 cgroup2 rw,nsdelegate")
HUGE = "9223372036854771712"


@pytest.mark.parametrize(
    ("own", "mounts", "files", "free", "total", "cores"),
    [
        pytest.param(
            "0::/system.slice/mdsa.service\n",
            {"cgroup2 cgroup2 rw,nsdelegate": "/"},
            {
                **memory("0/system.slice/mdsa.service", "4000000000", "1500000000"),
                **memory("0/system.slice", "max", "9000000000"),
                "0/system.slice/mdsa.service/cpu.max": "150000 100000\n",
                **memory("0/other.slice", "1000", "1"),
            },
            3_000_000_000,
            4_000_000_000,
            2,
            id="a service",
        ),
        pytest.param(
            "0::/a/b\n",
            {"cgroup2 cgroup2 rw": "/"},
            {
                **memory("0/a/b", "8000000000", "1500000000"),
                **memory("0/a", "9000000000", "8500000000"),
                "0/a/b/cpu.max": "max 100000\n",
                "0/a/cpu.max": "300000 100000\n",
            },
            1_000_000_000,
            8_000_000_000,
            3,
            id="a level above leaves less",
        ),
        pytest.param(
            V1,
            dict.fromkeys(V1_MOUNTS, "/"),
            {
                **old_memory("1", HUGE, "30000000000"),
                **old_memory("1/docker/ab", "4000000000", "1600000000"),
                "2/docker/ab/cpu.cfs_quota_us": "250000\n",
                "2/docker/ab/cpu.cfs_period_us": "100000\n",
            },
            3_000_000_000,
            4_000_000_000,
            3,
            id="version 1, the machine's groups seen",
        ),
        pytest.param(
            V1,
            dict.fromkeys(V1_MOUNTS, "/docker/ab"),
            {**old_memory("1", "4000000000", "1600000000"), "2/cpu.cfs_quota_us": "250000\n", "2/cpu.cfs_period_us": "100000\n"},
            3_000_000_000,
            4_000_000_000,
            3,
            id="version 1, a container's own groups seen",
        ),
        pytest.param(
            "0::/../../elsewhere\n",
            {"cgroup2 cgroup2 rw": "/"},
            memory("0", "4000000000", "1500000000"),
            3_000_000_000,
            4_000_000_000,
            16,
            id="its own group cannot be seen",
        ),
        pytest.param(
            V1,
            dict.fromkeys(V1_MOUNTS, "/"),
            {
                **old_memory("1/docker/ab", HUGE, "1600000000"),
                "2/docker/ab/cpu.cfs_quota_us": "-1\n",
                "2/docker/ab/cpu.cfs_period_us": "100000\n",
            },
            40_000_000_000,
            64_000_000_000,
            16,
            id="version 1 without limits",
        ),
        pytest.param("", {}, {}, 40_000_000_000, 64_000_000_000, 16, id="no groups"),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    mounts: dict[str, str],
    files: dict[str, str],
    free: int,
    total: int,
    cores: int,
) -> None:
    limited(tmp_path, monkeypatch, own, mounts, files)
    machine = HardwareDetector()
    assert (hardware.available_bytes(), machine.memory_bytes, machine.cpu_count) == (free, total, cores)


def test_a_probe_that_is_missing_or_hangs_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware._output(["no-such-program-anywhere"]) == ""
    monkeypatch.setattr(hardware, "PROBE_TIMEOUT_S", 0.2)
    assert hardware._output([sys.executable, "-c", "import time; time.sleep(20)"]) == ""
