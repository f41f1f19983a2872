"""The report's page in a real browser, and its charts by Vega-Lite's own compiler."""

import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
import vl_convert
from tokenizers import Tokenizer, models

from evaluation import inference, speed
from evaluation.records.drafts import DraftedNodes, packed_drafts, unpacked_drafts
from evaluation.records.runs import read_run
from evaluation.report import __main__ as report
from evaluation.report.entries import read_export
from model.errors import UserError
from tests.browser import complaints, in_a_browser, open_browser
from tests.test_report import run, synthetic

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>"
NEEDLE = "needle"


# --- runs to report on ----------------------------------------------------------------------------
def two_machines(folder: Path) -> tuple[Path, Path]:
    """Runs of two machines, with thinking, drafts and a tokenizer whose texts are hostile."""
    model = folder / "model"
    model.mkdir()
    words = {number: f"w{number} " for number in range(60)}
    words |= {7: "</think>", 8: HOSTILE, 9: NEEDLE, 10: "\n"}
    vocabulary = {text: number for number, text in words.items()}
    Tokenizer(models.WordLevel(vocabulary, unk_token="w0 ")).save(str(model / "tokenizer.json"))
    folders = []
    for seed, name in enumerate(("one", "two")):
        own = synthetic(folder / name, seed=seed, dtype="float32")
        for file in sorted(own.glob("*.jsonl")):
            dress(file, model)
        folders.append(own)
    return folders[0], folders[1]


def dress(file: Path, model: Path) -> None:
    """Hostile categories, and of sam's steps what was drafted: the truth, and 41 beside it."""
    book = json.loads(file.with_suffix(".manifest.json").read_text())
    book |= {"model_folder": str(model), "started": "2026-01-02T03:04:05+0000"}
    book["arguments"] = ["--method", file.stem]
    records = read_run(file, []).records
    file.unlink()
    file.with_suffix(".manifest.json").write_text(json.dumps(book))
    lines = []
    for record in records:
        data = json.loads(record.line())
        if record.question_id == "0":
            data["category"] = HOSTILE
            data["output_ids"][10:14] = [9, 8, 10, 7]
        if record.method == "sam":
            data["drafts"] = drafted(data["output_ids"], record.accept_lengths)
            data["draft_lengths"] = [length for length in record.accept_lengths]
        lines.append(json.dumps(data) + "\n")
    file.write_text("".join(lines))


def drafted(ids: list[int], accept_lengths: list[int]) -> str:
    drafts, at = [], 1
    for length in accept_lengths:
        accepted = ids[at : at + length - 1]
        parents = [*range(length - 1), length - 1]
        wrong = 41 if ids[at + length - 1] != 41 else 42
        drafts.append(DraftedNodes((*accepted, wrong), tuple(parents)))
        at += length
    return packed_drafts(drafts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A report over both machines."""
    base = tmp_path_factory.mktemp("page")
    one, two = two_machines(base)
    with pytest.MonkeyPatch.context() as patch:
        run(patch, report.main, one, two, "--out", base / "report", "--figures", base / "paper")
    return base


# --- what was drafted -----------------------------------------------------------------------------
def test_refused_continuations_of_a_tree():
    #       root -> 5 -> 6 -> 8      the target went 5, 6, 9
    #            -> 7      -> 10 -> 11
    tree = DraftedNodes((5, 7, 6, 8, 10, 11), (0, 0, 1, 3, 3, 5))
    assert tree.refused([5, 6, 9]) == [[8], [10, 11]]
    assert tree.refused([5, 6, 8]) == [[10, 11]]  # the budget ended it at a drafted token
    assert tree.refused([4]) == [[5, 6, 8], [7]]
    assert unpacked_drafts(packed_drafts([tree, DraftedNodes((), ())])) == [
        tree,
        DraftedNodes((), ()),
    ]
    with pytest.raises(ValueError, match="no drafts"):
        unpacked_drafts(packed_drafts([DraftedNodes((5,), (3,))]))


def test_damaged_drafts_are_one_line(tmp_path, monkeypatch):
    one, _ = two_machines(tmp_path)
    file = one / "sam.jsonl"
    file.write_text(re.sub(r'"drafts": "[^"]*"', '"drafts": "eJw"', file.read_text()))
    monkeypatch.setattr("sys.argv", ["report", str(one)])
    with pytest.raises(UserError, match="sam, question 0: the recorded drafts are damaged"):
        report.main()


def test_a_quiet_command_writes_and_says_nothing(folder, monkeypatch, capsys, tmp_path):
    numbers = tmp_path / "speed.json"
    run(monkeypatch, speed.main, folder / "one", "--json", numbers, "--quiet")
    assert capsys.readouterr().out == "" and len(json.loads(numbers.read_text())) == 3


def test_a_run_without_a_record_yet_has_no_line(tmp_path, capsys):
    (tmp_path / "sam.jsonl").touch()
    inference.show([SimpleNamespace(path=tmp_path / "sam.jsonl")])
    assert capsys.readouterr().out == ""


# --- charts ---------------------------------------------------------------------------------------
def test_every_chart_compiles_and_draws_its_rows(folder):
    """By Vega-Lite outside the browser: one bar or point a row, and nothing undefined."""
    export = read_export(folder / "report" / "entries.json")
    charts = [chart for entry in export.entries for chart in entry.charts]
    assert {chart.name for chart in charts} >= {"speed", "cost", "time", "position", "category"}
    for chart in charts:
        svg = vl_convert.vegalite_to_svg({**chart.complete(), "width": 400})
        assert "undefined" not in svg and "NaN" not in svg
        drawn = svg.count('aria-roledescription="bar"') + svg.count('aria-roledescription="point"')
        assert drawn == len(chart.rows), chart.name
        for column in chart.columns:
            assert all(column.field in row for row in chart.rows)


def test_exported_entries_make_the_same_page_again(folder, monkeypatch, capsys, tmp_path):
    first = folder / "report" / "entries.json"
    run(monkeypatch, report.main, first, "--out", tmp_path)
    again = read_export(tmp_path / "entries.json")
    assert again == read_export(first)
    assert (tmp_path / "tables.md").read_text() == (folder / "report" / "tables.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "sam is fastest" in page and '"texts": []' in page

    twice = tmp_path / "twice"
    run(monkeypatch, report.main, folder / "one", first, "--out", twice)
    titles = [entry.title for entry in read_export(twice / "entries.json").entries]
    assert len(titles) == 3 == len(set(titles))


def changed(path: tuple, value):
    """An export with one value in its depths replaced."""

    def change(data):
        place = data
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return data

    return change


DEEP = ("entries", 0)
ROW = (*DEEP, "answer", "rows", 0)
CHART = (*DEEP, "charts", 0)


@pytest.mark.parametrize(
    "change",
    (
        changed((*ROW, "ratio"), "3"),
        changed((*ROW, "low"), float("nan")),
        changed((*ROW, "mat"), "2"),
        changed((*ROW, "method"), None),
        changed((*ROW, "memory"), None),
        changed((*ROW, "tokens_per_second"), [1]),
        changed((*CHART, "rows", 0, "method"), 5),
        changed((*CHART, "rows"), ["text"]),
        changed((*CHART, "columns", 0), ["method", "method", 2]),
        changed((*CHART, "spec"), []),
        changed((*CHART, "spec"), {}),
        changed((*DEEP, "tables", 0, "rows"), [5]),
        changed((*DEEP, "tables", 0, "header"), None),
        changed((*DEEP, "title"), "\ud800"),
        changed((*DEEP, "facets"), {"model": 1}),
        changed(("notices",), "hello"),
        changed(("title",), None),
    ),
)
def test_damage_in_the_depths_of_entries_is_one_line(change, folder, monkeypatch, tmp_path):
    data = json.loads((folder / "report" / "entries.json").read_text())
    file = tmp_path / "entries.json"
    file.write_text(json.dumps(change(data)))
    monkeypatch.setattr("sys.argv", ["report", str(file)])
    with pytest.raises(UserError, match=r"entries.json is (damaged|no JSON file)"):
        report.main()


def test_a_folder_given_twice_is_refused(folder, monkeypatch):
    one = str(folder / "one")
    monkeypatch.setattr("sys.argv", ["report", one, f"{one}/../one"])
    with pytest.raises(UserError, match="given twice"):
        report.main()


@pytest.mark.parametrize(
    ("content", "said"),
    (
        ("{", "is no JSON file"),
        ("[]", "holds no entries of a report"),
        ('{"entries": [], "schema": 99}', "entries of schema 99 are unknown"),
        ('{"entries": [{"title": 1}], "schema": 1}', "is damaged"),
    ),
)
def test_files_that_are_no_entries(content, said, monkeypatch, tmp_path):
    file = tmp_path / "entries.json"
    file.write_text(content)
    monkeypatch.setattr("sys.argv", ["report", str(file)])
    with pytest.raises(UserError, match=said):
        report.main()


def test_figures_and_tables_for_a_paper(folder):
    names = {file.name for file in (folder / "paper").iterdir()}
    assert {"speed.pdf", "speed.svg", "radar.pdf", "tables.tex"} <= names
    latex = (folder / "paper" / "tables.tex").read_text()
    assert latex.startswith("\\documentclass") and latex.rstrip().endswith("\\end{document}")
    assert "Speed, acceptance, cost" in latex and latex.count("\\begin{tabular}") == latex.count(
        "\\end{tabular}"
    )


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs LaTeX")
def test_the_tables_compile(folder, tmp_path):
    import subprocess

    source = folder / "paper" / "tables.tex"
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", str(source)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


# --- in a browser ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = open_browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, folder):
    """The page, with all charts drawn; afterwards nothing was complained of or asked for."""
    opened = Page(browser, (folder / "report" / "report.html").as_uri())
    yield opened
    assert complaints(browser) == []
    assert opened.run("return performance.getEntriesByType('resource').length") == 0
    assert "taken" not in browser.title


class Page:
    """What the tests do with it."""

    def __init__(self, browser, address: str) -> None:
        self.browser = browser
        browser.get("about:blank")
        browser.get(address)
        self.wait("return document.documentElement.dataset.charts === 'drawn'")

    def run(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self, script: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.05)

    def all(self, selector: str):
        from selenium.webdriver.common.by import By

        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str):
        return self.all(selector)[0]

    def shown(self, selector: str):
        return [element for element in self.all(selector) if element.is_displayed()]

    def hover(self, element) -> None:
        from selenium.webdriver import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.browser).move_to_element(element).perform()

    def click(self, element) -> None:
        from selenium.webdriver import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.browser).move_to_element(element).click().perform()

    def choose(self, selector: str, value: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.one(selector)).select_by_value(value)

    def listed(self, selector: str) -> list[str]:
        return [option.text for option in self.all(f"{selector} option")]

    def bars(self, chart: str, entry: int = 0) -> list:
        return self.all(f"figure[data-chart={chart}][data-entry='{entry}'] .mark-rect path")


@in_a_browser
def test_the_answer_stands_first_and_the_charts_in_the_order_of_questions(page):
    sentences = [element.text for element in page.all(".sentence")]
    assert len(sentences) == 2 and all(text.startswith("sam is fastest") for text in sentences)
    headings = [element.text for element in page.all("h2")]
    assert headings == [
        "All of them, ranked",
        "How fast",
        "Why",
        "Where",
        "Is it right",
        "How repetitive the texts are",
        "Two settings side by side",
        "What text did that",
        "How it was run",
    ]
    assert len(page.all("figure .place svg")) == len(page.all("figure")) == 16


@in_a_browser
def test_hovering_over_a_bar_gives_its_numbers(page):
    page.hover(page.bars("speed")[0])
    page.wait("return document.querySelector('#vg-tooltip-element.visible') !== null")
    told = page.one("#vg-tooltip-element").text
    assert "sam" in told and "speed-up over vanilla" in told and "exact" in told


@in_a_browser
def test_a_click_on_the_legend_hides_a_method_everywhere(page):
    assert len(page.bars("speed")) == 3
    (chip,) = [chip for chip in page.all(".chip") if chip.text.endswith("sam")]
    chip.click()
    for chart in ("speed", "time"):
        page.wait(
            f"return ![...document.querySelectorAll('figure[data-chart={chart}] .mark-rect path')]"
            ".some((bar) => (bar.getAttribute('aria-label') ?? '').includes('method: sam'))"
        )
    assert chip.get_attribute("aria-pressed") == "false" and len(page.bars("speed")) == 2
    chip.click()
    page.wait("return document.querySelectorAll('figure[data-chart=speed][data-entry=\"0\"]"
              " .mark-rect path').length === 3")  # fmt: skip


@in_a_browser
def test_a_click_on_a_bar_opens_the_generations_behind_it(page):
    page.click(page.bars("speed", 1)[0])
    checked = [
        box.get_attribute("value") for box in page.all("#methods input") if box.is_selected()
    ]
    assert checked == ["sam"] and page.one("#setting").get_attribute("value").endswith("two")
    assert len(page.listed("#text")) == 12
    points = page.all("figure[data-chart=generation][data-entry='0'] .mark-symbol path")
    page.click(points[-1])
    assert len(page.listed("#text")) == 6 and all("sample 2" in t for t in page.listed("#text"))
    page.click(page.one("#filter"))
    assert len(page.listed("#text")) == 12


@in_a_browser
def test_the_chooser_leaves_one_machine(page):
    assert len(page.shown("#ranking tbody tr")) == 4
    page.choose("[data-facet=machine]", "machine 1")
    assert len(page.shown("#ranking tbody tr")) == 2
    assert len(page.shown(".sentence")) == 1 and len(page.shown("figure")) == 8
    assert all(title.endswith("two") for title in page.listed("#setting"))
    page.choose("[data-facet=machine]", "all")
    assert len(page.shown(".sentence")) == 2 and len(page.listed("#setting")) == 2


@in_a_browser
def test_two_settings_side_by_side(page):
    told = page.one("#differences p").text
    assert "machine: machine 0 / machine 1" in told
    rows = [[cell.text for cell in row.find_elements("tag name", "td")]
            for row in page.all("#differences tbody tr")]  # fmt: skip
    assert [row[0] for row in rows] == ["sam", "pld", "vanilla"]
    assert rows[0][4] in ("intervals overlap", "larger in b", "smaller in b")
    page.choose("#second", page.one("#first").get_attribute("value"))
    assert "one model, machine and setting" in page.one("#differences p").text
    assert all(row.text.count("1.00x") == 2 for row in page.all("#differences tbody tr"))


@in_a_browser
def test_the_viewer_tells_accepted_own_and_refused(page):
    assert page.run("return document.querySelector('#columns').textContent").count("</script>") > 0
    assert [h.text for h in page.all(".column:first-child h5")] == ["thinking", "answer"]
    (sam,) = [column for column in page.all(".column") if column.text.startswith("sam")]
    step = sam.find_elements("css selector", ".step")[2]
    page.hover(step)
    hint = page.one("#hint").text
    assert "step 2: sam: 2 accepted + 1" in hint and "3 nodes drafted, 1 refused" in hint
    assert 'refused here: "w41 "' in hint or 'refused here: "w42 "' in hint
    assert len(page.all(".step.twin")) == len(page.all(".column")) - 1
    colour = page.one(".drafted").value_of_css_property("background-color")
    assert colour != page.one(".own").value_of_css_property("background-color")


@in_a_browser
def test_walking_and_a_link_to_a_step(page, folder):
    for _ in range(3):
        page.one("#next").click()
    assert page.one("#step").text == "step 3" and len(page.all(".step.now")) == 2
    current = [element.text for element in page.all(".current")]
    sam, pld = current
    assert sam.startswith("step 3: sam: 2 accepted + 1; refused here: ")
    assert pld == "step 3: pld: 1 accepted + 1; (which: run with --record-drafts)" or (
        pld == "step 3: pld: 1 accepted + 1"
    )
    address = page.browser.current_url
    assert "step=3" in address
    again = Page(page.browser, address)
    assert again.one("#step").text == "step 3" and len(again.all(".step.now")) == 2
    again.one("#back").click()
    steps = len(again.all(".column:first-child .step"))
    assert len(again.all(".column:first-child .later")) == steps - 3
    again.one("#all").click()
    assert again.all(".later, .now") == []


@in_a_browser
@pytest.mark.parametrize("step", ("1.5", "-3", "1e9", "Infinity", "x"))
def test_a_garbled_address_harms_nothing(step, page):
    setting, text = (page.run(f"return document.getElementById('{name}').selectedOptions[0].text")
                     for name in ("setting", "text"))  # fmt: skip
    address = urlencode({"setting": setting, "text": text, "methods": "sam", "step": step})
    garbled = Page(page.browser, f"{page.browser.current_url.split('#')[0]}#{address}")
    assert len(garbled.all("figure .place svg")) == 16 and len(garbled.all(".column")) == 1


@in_a_browser
def test_the_charts_of_a_folder_lead_to_its_texts_beside_entries(folder, browser, monkeypatch):
    """Titles are told apart, in the viewer too; where there are no texts the page says so."""
    for name in ("one", "two"):
        run(monkeypatch, report.main, folder / name, "--out", folder / f"alone-{name}")
    mixed = folder / "mixed"
    entries = folder / "alone-two" / "entries.json"
    run(monkeypatch, report.main, folder / "one", entries, "--out", mixed)
    page = Page(browser, (mixed / "report.html").as_uri())
    assert page.listed("#setting") == ["best_of_n, T = 0.6, machine 0"]
    page.click(page.bars("speed", 0)[0])
    checked = [b.get_attribute("value") for b in page.all("#methods input") if b.is_selected()]
    assert checked == ["sam"] and not page.one("#nothing").is_displayed()
    page.choose("[data-facet=machine]", "machine 1")
    assert page.one("#nothing").is_displayed() and page.all(".column") == []


@in_a_browser
def test_searching_the_texts(page, folder):
    from selenium.webdriver.common.keys import Keys

    first, *others = read_run(folder / "one" / "vanilla.jsonl", []).records
    here, elsewhere = first.output_ids.count(9), sum(9 in record.output_ids for record in others)
    page.one("#search").send_keys(NEEDLE)
    assert page.one("#matches").text == f"{here} here, in {elsewhere} other generations"
    page.one("#search").send_keys(Keys.ENTER)
    assert all(NEEDLE in step.text for step in page.all(".step.found"))
    before = page.one("#text").get_attribute("value")
    for _ in range(here):
        page.one("#search").send_keys(Keys.ENTER)
    assert page.one("#text").get_attribute("value") != before
    assert all(NEEDLE in step.text for step in page.all(".step.found"))


@in_a_browser
def test_charts_as_tables_and_files(page, tmp_path):
    page.browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    figure = page.one("figure[data-chart=speed]")
    page.click(figure.find_element("css selector", "summary"))
    cells = [cell.text for cell in figure.find_elements("css selector", "tbody tr:first-child td")]
    assert cells[0] == "sam" and cells[-2:] == ["exact", "show"]
    for button in figure.find_elements("css selector", ".tools button"):
        page.click(button)
    files = {".svg": "<svg", ".csv": '"method","speed-up over vanilla"'}
    end = time.monotonic() + 20
    for suffix, begin in files.items():
        file = tmp_path / f"speed-0{suffix}"
        while not file.exists() or not file.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert file.read_text().startswith(begin)
    page.click(figure.find_element("css selector", "tbody tr:first-child button"))
    checked = [b.get_attribute("value") for b in page.all("#methods input") if b.is_selected()]
    assert checked == ["sam"]


@in_a_browser
def test_dark_narrow_and_printed(page):
    def ink() -> str:
        return page.run(
            "return document.querySelector('figure .role-axis-label text').getAttribute('fill')"
        )

    light = ink()
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    try:
        page.wait("return document.documentElement.dataset.charts === 'drawn'")
        page.wait(
            "return document.querySelector('figure .role-axis-label text').getAttribute('fill')"
            f" !== '{light}'"
        )
        background = page.one("body").value_of_css_property("background-color")
        assert background == "rgba(22, 24, 28, 1)"
    finally:
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    narrow = {"width": 380, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        page.wait("return document.documentElement.scrollWidth <= 380")
        page.wait("return [...document.querySelectorAll('figure svg')]"
                  ".every((svg) => svg.getBoundingClientRect().width <= 380)")  # fmt: skip
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not page.one("#viewer-section").is_displayed() and page.one("figure").is_displayed()
    finally:
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


# --- what a terminal says -------------------------------------------------------------------------
def test_a_matrix_ends_with_the_answer_in_few_lines(folder, monkeypatch, capsys):
    flags = (folder / "one", folder / "two", "--out", folder / "quiet", "--quiet")
    run(monkeypatch, report.main, *flags)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 10 and lines[-1] == f"report: {folder / 'quiet' / 'report.html'}"
    assert lines[0].startswith("best_of_n, T = 0.6") and "sam is fastest" in lines[0]
    assert "on these runs: on the page" in lines[-2]


def test_a_run_ends_with_a_line_a_method(folder, capsys):
    specs = [SimpleNamespace(path=folder / "one" / f"{m}.jsonl") for m in ("vanilla", "sam")]
    inference.show(specs)
    vanilla, sam = capsys.readouterr().out.splitlines()
    assert vanilla.startswith(str(specs[0].path)) and "6 of 6 questions" in vanilla
    assert "MAT 2.95" in sam and "x vanilla" in sam and "x vanilla" not in vanilla
