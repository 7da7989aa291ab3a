"""What a process may use of the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mdsa_local.machine import available_cores, processors


def test_each_processor_is_named_once() -> None:
    assert len(set(processors())) == len(processors()) == available_cores() >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="os.sched_setaffinity is Linux's")
def test_only_those_that_the_process_may_use_count() -> None:
    script = "import os; from mdsa_local.machine import processors; os.sched_setaffinity(0, processors()[-1:]); print(processors())"
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert told.strip() == str(processors()[-1:])
