"""`spectts watch`: a run is watched while it goes on elsewhere, and nothing of it is touched."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from evaluation.records.manifest import Manifest
from evaluation.records.writer import RecordWriter
from evaluation.report.watching import Watched, WatchServer
from model.errors import UserError
from tests.browser import complaints, in_a_browser, open_browser
from tests.test_report import made, synthetic

QUESTIONS = 6


def begun(folder: Path, method: str, questions: int) -> None:
    """A run that has answered so many of its questions."""
    book = {
        "settings": {"model": "m", "seed": 0, "questions_hash": "h"},
        "questions": QUESTIONS,
        "device": "here",
    }
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 50, 60).tolist() for _ in range(QUESTIONS)]
    with RecordWriter(folder / f"{method}.jsonl", Manifest(book), 2) as writer:
        for q in range(questions):
            if str(q) not in writer.done:
                writer.append([made(method, q, s, texts[q], rng) for s in range(2)])


def test_what_is_done_and_left_follows_the_records(tmp_path):
    watched = Watched(tmp_path)
    assert watched.status()["settings"] == []
    for method in ("vanilla", "sam"):
        begun(tmp_path, method, 2)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    (setting,) = watched.status()["settings"]
    vanilla, sam = setting["methods"]
    assert (sam["done"], sam["total"], sam["failed"]) == (2, QUESTIONS, 0)
    assert 2.5 < sam["mat"] <= 3 and vanilla["mat"] == 1
    assert sam["speed_up"].startswith(("2.", "3.")) and sam["seconds_left"] > 0
    assert "sam" in setting["sentence"]
    begun(tmp_path, "sam", QUESTIONS)
    (setting,) = watched.status()["settings"]
    assert setting["methods"][1]["done"] == QUESTIONS
    assert setting["methods"][1]["seconds_left"] == 0
    assert before[tmp_path / "vanilla.jsonl"] == (tmp_path / "vanilla.jsonl").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in before}


def test_a_block_that_is_half_written_is_no_failure(tmp_path):
    begun(tmp_path, "vanilla", 2)
    watched = Watched(tmp_path)
    with open(tmp_path / "vanilla.jsonl", "a") as file:
        file.write('{"question_id": "2", "categ')
    (setting,) = watched.status()["settings"]
    assert setting["methods"][0]["done"] == 2


def test_damaged_records_are_said_and_what_was_known_stays(tmp_path):
    begun(tmp_path, "vanilla", 2)
    watched = Watched(tmp_path)
    assert watched.status()["settings"]
    path = tmp_path / "vanilla.jsonl"
    path.write_text(path.read_text().replace('"new_tokens": 60', '"new_tokens": 61', 1))
    status = watched.status()
    assert status["settings"] and "they must agree" in status["notices"][0]


@pytest.fixture
def watching(tmp_path):
    server = WatchServer(tmp_path, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_pages_are_for_this_machine_alone(watching, tmp_path):
    begun(tmp_path, "vanilla", 1)
    page = httpx.get(watching, trust_env=False)
    assert page.status_code == 200 and "http" not in page.text
    status = httpx.get(f"{watching}/status.json", trust_env=False)
    assert json.loads(status.text)["settings"] and "NaN" not in status.text
    assert httpx.get(f"{watching}/nothing", trust_env=False).status_code == 404


@pytest.mark.slow
@in_a_browser
def test_the_page_follows_a_run_in_a_browser(watching, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser = open_browser(tmp_path / "profile")
    try:
        browser.get(watching)
        wait = WebDriverWait(browser, 15)
        wait.until(lambda b: "no question is finished" in b.page_source)
        synthetic(tmp_path)

        def cells(b):
            return [e.text for e in b.find_elements(By.CSS_SELECTOR, "tbody td")]

        wait.until(lambda b: "6 of 6" in cells(b))
        assert {"vanilla", "pld", "sam", "done"} <= set(cells(browser))
        assert "fastest" in browser.find_element(By.CSS_SELECTOR, ".sentence").text
        assert [said for said in complaints(browser) if "favicon" not in said] == []
    finally:
        browser.quit()


def test_the_command_ends_with_ctrl_c(tmp_path):
    begun(tmp_path, "vanilla", 1)
    watching = subprocess.Popen(
        [sys.executable, "-m", "evaluation.watch", str(tmp_path)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    url = watching.stdout.readline().split(" at ")[1].split(";")[0]
    assert httpx.get(f"{url}/status.json", trust_env=False).json()["settings"]
    time.sleep(0.1)
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=20)
    assert watching.returncode == 130 and "Traceback" not in err


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    from evaluation import watch

    with pytest.raises(UserError, match="is not a folder"):
        watch.main([str(tmp_path / "nowhere")])
