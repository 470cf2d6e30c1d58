"""Time two functions in turn, so that a machine's changing speed falls on both alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Pair", "paired"]


@dataclass(frozen=True)
class Pair:
    """CPU seconds of two functions, run for run, and what each returned last."""

    ours_s: list[float]
    peer_s: list[float]
    ours: Any
    peer: Any

    def __str__(self) -> str:
        """Say the ratio of each pair: median, lowest and highest."""
        ratios = [b / a for a, b in zip(self.ours_s, self.peer_s, strict=True)]
        return (
            f"ours {statistics.median(self.ours_s):.2f} CPU s, peer "
            f"{statistics.median(self.peer_s):.2f}: ratio {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f}, {len(ratios)} pairs in turn; load "
            f"{os.getloadavg()[0]:.0f} on {len(os.sched_getaffinity(0))} cores)"
        )


def paired(ours: Callable[[], Any], peer: Callable[[], Any], n: int = 7) -> Pair:
    """Run both once to warm up, then `n` times in turn."""
    results = [ours(), peer()]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(n):
        for k, run in enumerate((ours, peer)):
            start = time.process_time()
            results[k] = run()
            seconds[k].append(time.process_time() - start)
    return Pair(*seconds, *results)
