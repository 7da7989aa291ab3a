"""How many questions there were, and what became of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any


class Outcomes:
    """Counts each question once, when it has come to its end. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_status: Counter[str] = Counter()
        self._by_domain: Counter[str] = Counter()
        self._timed, self._total_ms = 0, 0.0

    def count(self, status: str, domain: str | None = None, began: float | None = None) -> None:
        """One more that ended as ``status``: that of its answer, ``error`` or ``cancelled``. ``began``: when it did, by ``time.perf_counter``; None
        where it never did."""
        with self._lock:
            self._by_status[status] += 1
            if began is not None:
                self._timed += 1
                self._total_ms += (time.perf_counter() - began) * 1000
            if domain:
                self._by_domain[domain] += 1

    def summary(self) -> dict[str, Any]:
        """The counts: ``requests_total`` is the sum of ``by_status``, and of ``requests_success``, ``requests_failed`` and the cancelled.
        ``average_latency_ms`` is that of those that began."""
        with self._lock:
            total, failed = self._by_status.total(), self._by_status["error"]
            good = total - failed - self._by_status["cancelled"]
            return {
                "requests_total": total,
                "requests_success": good,
                "requests_failed": failed,
                "success_rate": good / total if total else 0.0,
                "average_latency_ms": self._total_ms / self._timed if self._timed else 0.0,
                "domain_stats": dict(self._by_domain),
                "by_status": dict(self._by_status),
            }
