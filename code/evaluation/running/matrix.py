"""The matrix of runs: every method under every paradigm and temperature.

One command a setting runs its methods in turn. Or every method has a command of its own: one after
another, or beside each other, each on a GPU of its own. Where two runs share a GPU, or a CPU, their
records say so, and their times do not compare.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.paradigms import needs_temperature
from evaluation.running.interrupts import Interrupted
from evaluation.running.resuming import SOME_FAILED
from evaluation.running.spec import answer_path

POLL_SECONDS = 0.2
GOES_ON = (0, SOME_FAILED)
"""Exit codes of runs that went through."""


@dataclass(frozen=True)
class Matrix:
    """What is run, and where the records go."""

    model_path: str
    model_name: str
    """Begins the name of every run."""
    methods: Sequence[str]
    paradigms: Sequence[str]
    temperatures: Sequence[str]
    out: Path
    method_flags: Mapping[str, Sequence[str]]
    """A method's own."""
    flags: Sequence[str]
    """Of every run."""
    alone: bool = False
    """A command for every method, instead of one for all methods of a setting?"""

    @property
    def leaves_out_samples(self) -> bool:
        """Are samples asked for at temperature 0? They are equal: nothing to measure."""
        is_greedy = any(float(temperature) == 0 for temperature in self.temperatures)
        return is_greedy and any(map(needs_temperature, self.paradigms))

    def commands(self) -> Iterator[list[str]]:
        """The launchers. Finished work is skipped by the launcher itself."""
        for paradigm in self.paradigms:
            for temperature in self.temperatures:
                if needs_temperature(paradigm) and float(temperature) == 0:
                    continue
                if not self.alone and len(self.methods) > 1:
                    yield self._in_turn(paradigm, temperature)
                    continue
                for method in self.methods:
                    own = ["--method", method], self.method_flags.get(method, ())
                    yield self._command(method, paradigm, temperature, *own)

    def _in_turn(self, paradigm: str, temperature: str) -> list[str]:
        flags = []
        for method, own in self.method_flags.items():
            if method in self.methods:
                flags += ["--for", method, shlex.join(own)]
        chosen = ["--methods", *self.methods]
        return self._command("{method}", paradigm, temperature, chosen, flags)

    def _command(
        self,
        method: str,
        paradigm: str,
        temperature: str,
        chosen: Sequence[str],
        own_flags: Sequence[str],
    ) -> list[str]:
        run = f"{self.model_name}-{method}-temperature-{temperature}"
        return [
            *(sys.executable, "-m", "evaluation.inference"),
            *chosen,
            *("--model-path", self.model_path),
            *("--model-id", run),
            *("--paradigm", paradigm),
            *("--temperature", temperature),
            *("--answer-file", str(answer_path(self.out, paradigm, run))),
            *own_flags,
            *self.flags,
        ]

    def summaries(self) -> list[list[str]]:
        """What is made of the records: numbers, grades, and the page, which says the answer."""
        out = str(self.out)
        plot, numbers = str(self.out / "speed.png"), str(self.out / "speed.json")
        commands = [
            ["evaluation.speed", out, "--plot", plot, "--json", numbers],
            ["evaluation.score", out],
            ["evaluation.report", out],
        ]
        return [[sys.executable, "-m", *command, "--quiet"] for command in commands]


def show(command: Sequence[str], gpu: str | None = None) -> None:
    """Print a command as a shell takes it."""
    shown = ["python", *command[1:]] if command[0] == sys.executable else list(command)
    prefix = f"CUDA_VISIBLE_DEVICES={gpu} " if gpu is not None else ""
    print(prefix + shlex.join(shown))


def run_matrix(matrix: Matrix, beside: Sequence[str] = (), dry_run: bool = False) -> int:
    """Run all of it and the summaries; `beside` names GPUs to run methods on at once.

    Returns the exit code: that of the first run that failed, 0 where none has. `dry_run` prints
    the commands instead.
    """
    runs = list(matrix.commands())
    if dry_run:
        for i, command in enumerate(runs):
            show(command, beside[i % len(beside)] if beside else None)
        for command in matrix.summaries():
            show(command)
        return 0
    code = _run_beside(runs, beside) if beside else _run_in_turn(runs)
    if code not in GOES_ON:
        return code
    return _run_in_turn(matrix.summaries()) or code


def _run_in_turn(commands: Sequence[Sequence[str]]) -> int:
    """One after another, up to the first that breaks off; returns its exit code.

    A run that went through with failed generations does not stop the others.
    """
    result = 0
    for command in commands:
        process = subprocess.Popen(command)
        try:
            code = process.wait()
        except KeyboardInterrupt as stop:
            end(process, stop)
            raise
        if code not in GOES_ON:
            return code
        result = result or code
    return result


def end(process: subprocess.Popen, stop: KeyboardInterrupt) -> None:
    """Wait for a run that is to end: it loses nothing.

    Ctrl-C in a terminal has reached it too, SIGTERM has not.
    """
    if isinstance(stop, Interrupted) and stop.number == signal.SIGTERM:
        process.terminate()
    process.wait()


@dataclass
class _Gpus:
    """Which run is on which GPU."""

    names: Sequence[str]
    running: dict[str, subprocess.Popen] = field(default_factory=dict)
    has_failed: bool = False

    def start(self, command: Sequence[str]) -> None:
        """On the next GPU that is free."""
        while True:
            for name in self.names:
                if self._is_free(name):
                    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": name}
                    self.running[name] = subprocess.Popen(command, env=environment)
                    return
            time.sleep(POLL_SECONDS)

    def finish(self) -> None:
        """Wait for all runs."""
        for process in self.running.values():
            self.has_failed |= process.wait() != 0
        self.running.clear()

    def stop(self, stop: KeyboardInterrupt) -> None:
        """End all runs."""
        for process in self.running.values():
            end(process, stop)

    def _is_free(self, name: str) -> bool:
        process = self.running.get(name)
        if process is None:
            return True
        if process.poll() is None:
            return False
        self.has_failed |= process.returncode != 0
        del self.running[name]
        return True


def _run_beside(commands: Sequence[Sequence[str]], names: Sequence[str]) -> int:
    """Beside each other; returns 1 where a run has failed, once all have ended."""
    gpus = _Gpus(names)
    try:
        for command in commands:
            gpus.start(command)
        gpus.finish()
    except KeyboardInterrupt as stop:
        gpus.stop(stop)
        raise
    if gpus.has_failed:
        print("error: a run has failed (see above); the same command goes on", file=sys.stderr)
    return int(gpus.has_failed)
