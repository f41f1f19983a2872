"""Self-consistency ends early, by the same samples for every method and any number together."""

from collections import Counter
from itertools import product

import pytest

from evaluation import inference, score, speed
from evaluation.paradigms import Answer
from evaluation.paradigms.self_consistency import is_decided
from evaluation.records.reading import read_records
from evaluation.records.totals import by_question

RUN = (
    "--model-path mini --paradigm self_consistency --samples 3 --question-begin 60"
    " --question-end 62 --temperature 0.6 --max-new-tokens 400 --warmup 0 --threads 1 --max-nodes 8"
).split()


def winner(votes: tuple[str, ...]) -> str | None:
    """Of equally frequent ones the first to appear; blanks do not vote."""
    given = Counter(vote for vote in votes if vote)
    return given.most_common(1)[0][0] if given else None


@pytest.mark.parametrize("samples", (1, 2, 3, 5))
def test_decided_is_when_no_vote_to_come_changes_the_winner(samples):
    kinds = ("a", "b", "c", "")
    for known in range(1, samples + 1):
        for votes in product(kinds, repeat=known):
            rest = product(kinds, repeat=samples - known)
            winners = {winner((*votes, *others)) for others in rest}
            answers = [Answer("", f"\\boxed{{{vote}}}" if vote else None) for vote in votes]
            assert is_decided(samples, answers) == (len(winners) == 1), votes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Records by method and number together."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for method, together in (("vanilla", "1"), ("vanilla", "all"), ("sam", "all")):
        path = folder / together / f"{method}.jsonl"
        inference.main_for(method, [*RUN, "--parallel", together, "--answer-file", str(path)])
        found[method, together] = read_records(path)
    return folder, found


def test_the_same_samples_are_made_whatever_runs_together(runs):
    _, found = runs
    texts = []
    for records in found.values():
        assert len(records) == 6  # one a sample, made or not
        texts.append({r.key: r.output_ids for r in records if r.is_whole})
    assert texts[0] == texts[1] == texts[2]
    unneeded = [r for r in found["vanilla", "1"] if not r.is_whole]
    assert unneeded and all(r.never_began and r.seconds == 0 for r in unneeded)
    totals = by_question(found["vanilla", "1"])
    assert len(totals) == 2 and all(total.control_steps for total in totals.values())


def test_what_is_under_way_is_called_off_and_its_time_counted(runs):
    _, found = runs
    made = {r.key: r.output_ids for r in found["vanilla", "all"] if r.is_whole}
    begun = [r for r in found["sam", "all"] if not r.is_whole]
    assert begun and all(r.output_ids and r.seconds > 0 for r in begun)
    for record in begun:
        assert record.finish_reason == "unneeded" and record.key not in made


def test_a_question_is_done_with_its_unneeded_samples(runs, capsys):
    folder, found = runs
    path = folder / "all" / "sam.jsonl"
    inference.main_for("sam", [*RUN, "--parallel", "all", "--answer-file", str(path)])
    assert "2 of 2 questions are done already" in capsys.readouterr().out
    assert read_records(path) == found["sam", "all"]


def test_scores_and_speeds_take_called_off_samples(runs, monkeypatch, capsys):
    folder, _ = runs
    for command in (score, speed):
        monkeypatch.setattr("sys.argv", [command.__name__, str(folder / "all")])
        assert not command.main()
        shown = capsys.readouterr().out
        assert "exact" in shown and "nan" not in shown
