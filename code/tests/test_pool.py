"""The same run spread over workers: same records, nothing lost when processes die. Real Ray
clusters on this machine.
"""

import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from evaluation import inference
from evaluation.command import run_command
from evaluation.records.reading import read_records
from tests.test_harness import CODE

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")
pool = pytest.importorskip("evaluation.running.pool")

RUN = (
    "--method recycling --model-path mini --paradigm best_of_n --samples 2 --temperature 0.6"
    " --max-new-tokens 24 --question-end 5 --warmup 0 --max-nodes 8"
).split()


def essence(path: Path) -> list[tuple]:
    return sorted(
        (r.key, r.output_ids, r.accept_lengths, r.draft_lengths, r.draft_source)
        for r in read_records(path)
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list[tuple]:
    path = tmp_path_factory.mktemp("alone") / "r.jsonl"
    inference.main_for(None, [*RUN, "--answer-file", str(path), "--threads", "1"])
    return essence(path)


@pytest.fixture
def two_nodes():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def _workers(above: int | None = None) -> list[psutil.Process]:
    """Ray actors (titled ray::Worker) of the clusters below a process: this one, or another.

    Only those: other people's Ray on this machine is none of a test's business.
    """
    workers = []
    for process in psutil.Process(above).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::Worker"):
                workers.append(process)
    return workers


def _is_answering(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return ".answer" in " ".join(process.cmdline())
    return False


def _kill_when_answering(path: Path, times: int, killed: list[int]) -> None:
    """Kill a worker as soon as the run has begun to answer, `times` times."""
    deadline = time.time() + 240
    while len(killed) < times and time.time() < deadline:
        fresh = [p for p in _workers() if _is_answering(p) and p.pid not in killed]
        if fresh and path.exists():
            fresh[0].kill()
            killed.append(fresh[0].pid)
        time.sleep(0.02)


def test_a_question_that_kills_every_worker_is_recorded_as_failed(monkeypatch, tmp_path, capsys):
    path, killed = tmp_path / "r.jsonl", []
    one = [
        *RUN,
        "--question-end",
        "1",
        "--max-new-tokens",
        "600",
        "--answer-file",
        str(path),
        "--workers",
        "1",
    ]
    killer = threading.Thread(target=_kill_when_answering, args=(path, 3, killed), daemon=True)
    killer.start()
    inference.main_for(None, one)
    records = read_records(path)
    assert len(killed) == 3 and len(records) == 2
    assert all(r.failed and "worker died" in r.error and r.new_tokens is None for r in records)


def _remove_when_answering(cluster, node, path: Path, removed: list[int]) -> None:
    """Take a node from the cluster, with its worker in the middle of a question."""
    raylet = node.all_processes["raylet"][0].process.pid
    deadline = time.time() + 240
    while not removed and time.time() < deadline:
        on_node = [p.pid for p in _workers(raylet) if _is_answering(p)]
        if on_node and path.exists():
            cluster.remove_node(node, allow_graceful=False)
            removed += on_node
        time.sleep(0.02)


def test_a_lost_nodes_question_goes_to_another(alone, tmp_path, two_nodes):
    path, removed = tmp_path / "r.jsonl", []
    node = next(iter(two_nodes.worker_nodes))
    threading.Thread(
        target=_remove_when_answering, args=(two_nodes, node, path, removed), daemon=True
    ).start()
    inference.main_for(None, [*RUN, "--answer-file", str(path), "--ray-address", two_nodes.address])
    assert removed and essence(path) == alone


class Forgetful(pool.Worker):
    """A worker that runs out of memory on some questions, the first so many times each; counted in
    files, for it is killed.
    """

    folder: Path
    times: dict[str, int]

    def answer(self, question, caps):
        records = super().answer(question, caps)
        failed = list(self.folder.glob(f"{question.id}-*"))
        if len(failed) >= self.times.get(question.id, 0):
            return records
        (self.folder / f"{question.id}-{os.getpid()}").touch()
        (answers,) = records
        error = "OutOfMemoryError: CUDA out of memory"
        return [[dataclasses.replace(r, finish_reason="failed", error=error) for r in answers]]


def test_a_question_goes_to_another_worker(alone, monkeypatch, tmp_path):
    """A worker is killed with one of the first questions. Question 3 fits the second worker;
    question 4 none, and is recorded as failed.
    """
    path, killed = tmp_path / "r.jsonl", []
    killer = threading.Thread(target=_kill_when_answering, args=(path, 1, killed), daemon=True)
    killer.start()
    times = {"3": 1, "4": pool.TRIES}
    kind = type("Worker", (Forgetful,), {"folder": tmp_path, "times": times})
    monkeypatch.setattr(
        pool.Pool, "start_worker", functools.partialmethod(_start, kind, pool.Pool.start_worker)
    )
    flags = ["--workers", "3", "--parallel", "2"]  # the texts are those of one after another
    inference.main_for(None, [*RUN, "--answer-file", str(path), *flags])
    made = [r for r in read_records(path) if not r.failed]
    assert killed and all(r.shared for r in made) == ((os.cpu_count() or 1) < 3)
    tried = [file.name.split("-")[0] for file in tmp_path.glob("?-*")]
    assert {question: tried.count(question) for question in times} == times
    failed = [r for r in read_records(path) if r.failed]
    assert {r.question_id for r in failed} == {"4"}
    assert all("CUDA out of memory" in r.error for r in failed)
    keys = {r.key for r in failed}
    expected = [x[:2] for x in alone if x[0] not in keys]
    assert [x[:2] for x in essence(path) if x[0] not in keys] == expected
    assert {r.batch for r in made} == {2}


def _start(self, kind, original):
    self.worker = kind
    original(self)


def _started(command: list[str], path: Path, size: int) -> subprocess.Popen:
    """The driver, once it has written to a records file of `size` bytes."""
    listen = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # background jobs inherit that it is ignored
    driver = subprocess.Popen(
        command,
        cwd=CODE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
    )
    deadline = time.time() + 240
    while (
        driver.poll() is None
        and time.time() < deadline
        and not (path.exists() and path.stat().st_size > size)
    ):
        time.sleep(0.02)
    return driver


def test_a_driver_that_is_killed_and_one_that_gets_ctrl_c_lose_nothing(alone, tmp_path):
    path = tmp_path / "r.jsonl"
    flags = [*RUN, "--question-end", "20", "--answer-file", str(path), "--workers", "1"]
    command = [sys.executable, "-m", "evaluation.inference", *flags]
    driver = _started(command, path, 0)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    killed = essence(path)
    assert 0 < len(killed) < 40

    driver = _started(command, path, path.stat().st_size)
    workers = _workers(driver.pid)
    assert workers
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130 and "Traceback" not in said and "same command" in said
    assert not psutil.wait_procs(workers, timeout=30)[1]
    interrupted = essence(path)
    assert len(interrupted) > len(killed)

    inference.main_for(None, flags)
    whole = essence(path)
    assert len(whole) == 40 and [k for k in whole if k in alone] == alone
    assert all(k in whole for k in [*killed, *interrupted])


def test_without_ray_one_clear_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [m for m in sys.modules if m.startswith("evaluation.running.pool")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: inference.main_for(None, [*RUN, "--workers", "2"]))()
    assert stop.value.code == 2 and "pip install -e 'code[ray]'" in capsys.readouterr().err


def test_the_plain_loop_imports_nothing_of_ray():
    code = (
        "import sys; from evaluation import inference; inference.parse(['--method', 'pld',"
        " '--model-path', 'mini']);"
        "sys.exit(any(m == 'ray' or m.startswith('ray.') for m in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=CODE, check=True)
