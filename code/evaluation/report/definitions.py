"""What the words and formulas of the tables mean, as printed beside them."""

from __future__ import annotations

SPEED = """\
tokens/s   tokens emitted / wall time, prefill included, tokenisation not: totals over all
           generations
speed-up   ratio of totals: (tokens / seconds of the method) / (tokens / seconds of vanilla) on the
           n questions that both have finished; in brackets the 95 % interval of a percentile
           bootstrap over questions, paired, 2,000 resamples (Efron and Tibshirani 1993, ch. 13),
           expanded for few questions: quantiles Phi(-sqrt(n/(n-1)) t(0.975, n-1)) (Hesterberg 2015,
           sec. 3.3). A question's time is compared with vanilla's on the same question. `as timed`
           is the ratio before a correction, where there was one: times without what was waited for
           a core, where that is more than 1 %; times in control steps, where these make vanilla's
           time a token steadier by a fifth (6 questions or more), or differ between the two methods
           by more than 28 % and three standard errors
control    a few vanilla steps of fixed shape, timed between generations, under 1 % of the time;
           waits for a core are known on Linux, on a CPU with one thread
noise      how far apart two equal methods could be on these questions (95 %): 1.96 sqrt(2 / n)
           times the standard deviation of vanilla's log time a token from question to question, in
           the same unit of time; a dash for fewer than two questions
verdict    of the method against vanilla (see `Which is faster` in the report); refused: a step
           would cost less than a vanilla step by more than the noise (5 % at least), or the machine
           was slower or faster than for vanilla by more than the difference, or another run used
           it
texts      exact: vanilla's texts, token for token
timed      in turn: each question was put to the method and to vanilla in one process, the order
           changing; alone: in a process of its own, before or after
MAT        mean accepted tokens: tokens emitted / target forwards, the bonus token included, the
           prefill not, on the same n questions (Leviathan et al. 2023, sec. 3.1; Li et al. 2024,
           EAGLE, sec. 5)
drafted    candidate nodes a step, the root not counted
cost       step cost, MAT / speed-up: what a step costs in vanilla steps
draft, verify, rest   shares of wall time; the rest is prefill, accepting and the loop; repeats of a
           run are pooled
engines    a dash where an engine does not tell. While n requests are in flight each is charged an
           n-th of the time: tokens/s is the server's throughput. Forwards are converted to ours
           (docs/engines.md); `together` counts requests in flight"""

VERDICTS = """\
verdict    A is faster than B where the 95 % interval of the ratio of totals (bootstrap over
           questions, paired, as for the speed-up) leaves out 1 and the ratio is larger than the
           noise; none for fewer than 6 questions; pairs are not corrected for their number
could show the smallest difference this many questions find with 80 % power at 5 %:
           (t(0.975, n-1) + t(0.8, n-1)) standard errors of the mean log-ratio per question
           (Cohen 1988, ch. 2)
the noise  vanilla against vanilla: repeats of the same run, or choices of one, compared as if they
           were methods; the largest difference counts, or the noise of the speed table where that
           is larger; refused: the figures of one of the two are not believed"""

ACCEPTANCE = """\
thinking, answer   MAT of the steps that begin before and after the end of thinking; thirds: of the
                   output
by who drafted     MAT of the steps a drafter made, and its share of all steps; none: nothing was
                   drafted
position d         among steps whose draft had at least d nodes (for a tree: nodes, of whatever
                   depth): how often at least d drafted tokens were accepted
cut, looping, failed   generations that ended at the token budget; whose text or thinking ends in a
                   loop: its last max(3 p, 60) tokens repeat with some period p of at most 200;
                   that yielded no text
time               milliseconds a step, and seconds of all generations; accept is the walk and the
                   kept cache rows (on a GPU the next verify moves these), other the loop around;
                   draft is proposing and learning
peak memory        of the GPU, or of the process on a CPU; energy: joules of the GPU's board a token
                   (NVML), where it tells"""

REDUNDANCY = """\
recurrence  share of n-grams (runs of n tokens) that were written before: in the same text; in other
            samples; in earlier rounds; in any of them, which is what a memory over the question
            could find
match       longest suffix of the text so far that occurred before, token by token: within the text,
            and within the question (suffix automaton; Hu et al. 2024, SAM-Decoding, sec. 3.1); each
            text of a repeated run counts once"""

SCORES = """\
accuracy   right generations / scorable generations; an answer that is cut, empty or without a box
           is wrong
as vanilla 'exact': the texts are vanilla's token for token, so accuracy must be equal (and is);
           else how many are
pass@k     chance that one of k samples is right, unbiased: 1 - C(n-c, k) / C(n, k) (Chen et al.
           2021, eq. 1), k = samples
vote       accuracy of the commonest boxed answer of a question's samples (ties: the first to
           appear)
s, tokens / correct   of all generations, over right ones; generations that a paradigm called off
           cost here, and are not graded (n)"""

REPLAYS = """\
replay     drafters go along recorded texts, without a model: the engine's own walk, the recorded
           tokens as the target's. MAT as above, with 95 % over questions (resampled whole)
complete, cut, looping   MAT of texts that reached their end, were cut at a limit, end in a loop
accepted   drafted nodes that were accepted
copy bound MAT of always copying the best earlier occurrence of the last token, in a memory of the
           method's scope; `of` it: (MAT - 1) / (bound - 1). Trees and datastores may exceed it
k = 1..8   positions where some earlier occurrence of the last k tokens was followed by the true one
combination   MAT of the best of all these methods at every step
predicted  tokens / sum of step costs, in vanilla steps: each step costs what verifying its nodes
           costs behind the mean context of its question, drafting time added where it says so;
           at ideal lengths: had every draft been exactly what was accepted, and free
draft      microseconds a step on the machine that replayed"""

PREDICTED = (
    "predicted  MAT / (verify(n) + draft), in units of verify(1):"
    " the cost curve measured by evaluation.calibrate"
)
NOT_PREDICTED = (
    "predicted  needs a cost curve:"
    " python -m evaluation.calibrate --model-path MODEL --out DIR/calibration.json"
)


def of_report(is_predicted: bool, without_noise: list[str], has_replays: bool = False) -> str:
    """All of the report's; `without_noise` are the settings whose noise is not known."""
    parts = [SPEED, VERDICTS]
    if without_noise:
        parts.append(f"           (not known here for: {'; '.join(without_noise)})")
    parts += [ACCEPTANCE, REDUNDANCY, PREDICTED if is_predicted else NOT_PREDICTED]
    if has_replays:
        parts.append(REPLAYS)
    return "\n".join(parts)
