"""Sharing out wall time among requests in flight.

While n requests are in flight, each is charged an n-th of the time that passes. So the charges add
up to the time in which anything was in flight: tokens over charges is the server's throughput, at
any number at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Charge:
    """One request's share so far, seconds; and with how many it ran at most, itself among them."""

    seconds: float = 0.0
    most: int = 1


class Shares:
    """Knows what is in flight; threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._flying: list[Charge] = []
        self._last = clock()

    def begin(self) -> Charge:
        """Another request is sent."""
        with self._lock:
            self._pass()
            charge = Charge()
            self._flying.append(charge)
            for flying in self._flying:
                flying.most = max(flying.most, len(self._flying))
            return charge

    def end(self, charge: Charge) -> None:
        """Its reply is there, or it failed; ending twice changes nothing."""
        with self._lock:
            self._pass()
            self._flying = [flying for flying in self._flying if flying is not charge]

    def _pass(self) -> None:
        """Charge the time since anything began or ended."""
        now = self._clock()
        for charge in self._flying:
            charge.seconds += (now - self._last) / len(self._flying)
        self._last = now
