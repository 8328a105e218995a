"""Parts of `audio/recognise`: language models, pauses, templates, made utterances; each against a plain reference."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from domains.audio.arpa import read_arpa, word_fusion
from domains.audio.clips import clips_of
from domains.audio.ctc import prefix_beam
from domains.audio.decoding import Utterances, words_of
from domains.audio.templates import cut, distances, find_templates, one_stage, recognised, spoken
from domains.audio.text import Alphabet
from domains.audio.utterances import (
    DIGITS,
    DigitOptions,
    JoinOptions,
    connected_digits,
    settings,
    simulated_utterances,
)
from shared_backbones.errors import BadInput, BadRequest

from .test_ctc import every_string, random_log_p

ARPA = r"""
\data\
ngram 1=5
ngram 2=3

\1-grams:
-1.0 <s> -0.5
-0.7 </s>
-0.4 a -0.3
-0.6 b -0.2
-2.0 <unk>

\2-grams:
-0.2 <s> a
-0.1 a b
-0.9 b </s>

\end\
"""


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    path = tmp_path / "words.arpa"
    path.write_text(ARPA)
    return path


def test_words_are_scored_with_back_off(arpa: Path) -> None:
    model = read_arpa(arpa)
    assert model.order == 2
    assert model.score("a", ("<s>",)) == -0.2
    assert model.score("b", ("<s>", "a")) == -0.1
    assert model.score("a", ("b",)) == pytest.approx(-0.2 - 0.4)  # back-off of b, then a alone
    assert model.score("</s>", ("a",)) == pytest.approx(-0.3 - 0.7)
    assert model.score("zebra", ("a",)) == pytest.approx(-0.3 - 2.0)
    assert model.score("a", ("zebra",)) == pytest.approx(-0.4)  # <unk> has no back-off weight


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("ngram 2=3", "ngram 2=4"), "announces"),
        (("\\end\\", ""), "end mark"),
        (("-0.4 a -0.3", "much a -0.3"), r"line 9: a 1-gram is log10 P"),
        (("ngram 1=5", "ngram one=5"), "line 3"),
    ],
)
def test_broken_language_models_are_refused(change: tuple[str, str], says: str, arpa: Path) -> None:
    arpa.write_text(ARPA.replace(*change))
    with pytest.raises(BadInput, match=says):
        read_arpa(arpa)
    with pytest.raises(BadInput, match="no such language model"):
        read_arpa(arpa.with_name("gone.arpa"))


@pytest.mark.parametrize("unit", ["words", "characters"])
@pytest.mark.parametrize("seed", range(6))
def test_a_beam_with_words_is_the_best_of_all_strings(unit: str, seed: int, arpa: Path) -> None:
    model = read_arpa(arpa)
    alphabet = Alphabet(("a", "b"), "words") if unit == "words" else Alphabet((" ", "a", "b"))
    log_p = random_log_p(5, len(alphabet.symbols) + 1, seed)
    weight, bonus = 0.8, 0.3

    def said(labels: tuple[int, ...]) -> float:
        words = alphabet.decode(labels).split()
        past, total = ["<s>"], 0.0
        for w in [*words, "</s>"]:
            total += weight * math.log(10) * model.score(w, tuple(past))
            past.append(w)
        return total + bonus * len(words)

    expected = {labels: p + said(labels) for labels, p in every_string(log_p).items()}
    found = prefix_beam(log_p, 10_000, word_fusion(model, alphabet, weight, bonus))
    best = max(expected.values())
    assert found[0][1] == pytest.approx(best)
    assert expected[tuple(found[0][0])] == pytest.approx(best)
    assert prefix_beam(log_p, 3, None, math.log(1e-9))[0][0] == prefix_beam(log_p, 3)[0][0]


@given(
    runs=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3)), max_size=8),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
)
def test_utterances_do_not_depend_on_how_tokens_come(runs: list[tuple[int, int]], sizes: list[int]) -> None:
    path = [c for blanks, said in runs for c in [0] * blanks + [1] * said]
    log_p = np.where(np.eye(2)[path] > 0, 0.0, -9.0).reshape(-1, 2)

    def heard(steps: list[int]) -> list[tuple[int, int]]:
        joined, at, out = Utterances(4), 0, []
        for n in itertools.cycle(steps):
            if at >= len(log_p):
                break
            out += [(a, len(p)) for a, p in joined.push(log_p[at : at + n])]
            at += n
        return [*out, *((a, len(p)) for a, p in joined.finish())]

    whole = [(a, a + n) for a, n in heard([max(1, len(log_p))])]
    assert [a for a, _ in heard(sizes)] == [a for a, _ in whole]
    spoken_at = [i for i, c in enumerate(path) if c]
    assert all(sum(a <= i < b for a, b in whole) == 1 for i in spoken_at)
    for (_, stop), (start, _) in itertools.pairwise(whole):
        assert stop <= start
    bounds = [(min(s), max(s)) for s in ([i for i in spoken_at if a <= i < b] for a, b in whole)]
    assert all(b - a - 1 >= 4 for (_, a), (b, _) in itertools.pairwise(bounds))


def test_an_utterance_without_a_pause_is_cut_somewhere() -> None:
    log_p = np.full((200, 2), -9.0)
    log_p[:, 1] = 0.0
    log_p[50:53, 1], log_p[50:53, 0] = -9.0, 0.0
    joined = Utterances(5, most=100)
    found = [*joined.push(log_p), *joined.finish()]
    assert len(found) >= 2
    assert found[0][0] == 0
    assert 50 <= len(found[0][1]) <= 53


def test_words_have_times_and_confidence() -> None:
    alphabet = Alphabet((" ", "a", "b"))
    path = [0, 2, 2, 0, 1, 0, 3, 0]
    log_p = np.log(np.where(np.eye(4)[path] > 0, 0.97, 0.01))
    found = words_of(log_p, [2, 1, 3], alphabet)
    assert [(w.word, w.start, w.end) for w in found] == [("a", 1, 3), ("b", 6, 7)]  # the space is no part of a word
    assert found[0].confidence == pytest.approx(0.97)
    assert words_of(log_p, [], alphabet) == []


def naive_one_stage(cost: np.ndarray, templates: list[range], penalty: float) -> float:
    """The least cost over all sequences of templates and all walks through them, by plain recursion."""
    n = len(cost)
    best = np.full((n, cost.shape[1]), np.inf)
    for i in range(n):
        done = 0.0 if i == 0 else min(best[i - 1, t[-1]] for t in templates)
        for k, t in enumerate(templates):
            for j, state in enumerate(t):
                before = [best[i - 1, t[max(0, j - d)]] for d in range(min(2, j) + 1)] if i else []
                enter = [done + (0.0 if k == len(templates) - 1 else penalty)] if j == 0 else []
                best[i, state] = cost[i, state] + min([*before, *enter], default=np.inf)
    return float(min(best[-1, t[-1]] for t in templates))


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    n=st.integers(1, 7),
    penalty=st.floats(0, 2),
    seed=st.integers(0, 99),
)
def test_one_stage_is_the_best_of_all_word_strings(sizes: list[int], n: int, penalty: float, seed: int) -> None:
    sizes = [*sizes, 1]  # the last one is silence
    first = np.cumsum([0, *sizes[:-1]])
    cost = np.random.default_rng(seed).uniform(0, 1, (n, sum(sizes)))
    words = [f"w{i}" for i in range(len(sizes) - 1)]
    found = one_stage(cost, first, words, penalty)
    templates = [range(a, a + s) for a, s in zip(first, sizes, strict=True)]
    expected = naive_one_stage(cost, templates, penalty)
    only = [naive_one_stage(cost, [templates[words.index(w)] for w in dict.fromkeys(found)] + templates[-1:], penalty)]
    assert min(only) == pytest.approx(expected)  # the words that it names alone reach the optimum


def test_words_are_cut_at_pauses() -> None:
    energy = np.full(60, -40.0)
    for a, b in ((5, 15), (20, 30), (33, 45)):
        energy[a:b] = 0.0
    assert spoken(energy, 0.5, 2) == [(5, 15), (20, 30), (33, 45)]
    assert cut(energy, 3) == [(5, 15), (20, 30), (33, 45)]
    assert cut(energy, 2) == [(5, 15), (20, 45)]
    assert cut(energy, 7) is None
    x = np.random.default_rng(0).standard_normal((4, 3))
    np.testing.assert_allclose(distances(x, x[:2]), np.linalg.norm(x[:, None] - x[None, :2], axis=2), atol=1e-6)


def test_templates_hear_their_own_speakers() -> None:
    read = simulated_utterances({"speakers": 3, "strings": 14, "words": 3, "longest": 3}, JoinOptions())
    data = clips_of(read, 8000, "simulated", "none")
    at = np.arange(len(data))
    train, val, test = at[at % 3 > 0], at[at % 6 == 0], at[at % 6 == 3]
    heard = recognised(data, train, val, test, 2)
    assert heard is not None
    wrong = sum(h != data.texts[i] for h, i in zip(heard, test, strict=True))
    assert wrong <= len(test) // 3
    assert find_templates(data, train[:0], 2) is None


@hypothesis_settings(max_examples=8)
@given(seed=st.integers(0, 50), low=st.floats(0, 0.2), more=st.floats(0, 0.3))
def test_made_utterances_repeat_and_say_what_they_are(seed: int, low: float, more: float) -> None:
    options = JoinOptions(gap_s=(low, low + more))
    given_ = {"seed": seed, "speakers": 3, "strings": 3, "words": 2, "longest": 2}
    a, b = (simulated_utterances(given_, options) for _ in range(2))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.wave, y.wave)
        words = len((x.entry.text or "").split())
        assert (
            0.25 * words + low * (words + 1) - 0.01 <= x.file.seconds <= 0.6 * words + (low + more) * (words + 1) + 0.01
        )
    assert {r.entry.speaker for r in a} == {"s0", "s1", "s2"}


def test_settings_of_made_utterances_are_checked() -> None:
    with pytest.raises(BadRequest, match="did you mean 'strings'"):
        settings({"string": 3})
    with pytest.raises(BadRequest, match=r"simulated\.speakers must be 3"):
        settings({"speakers": 1})
    with pytest.raises(BadRequest, match="shortest must be at most"):
        settings({"shortest": 5, "longest": 4})
    with pytest.raises(ValueError, match="shorter first"):
        JoinOptions(gap_s=(0.2, 0.1))


@pytest.mark.data
def test_connected_digits_hold_recordings_of_one_part(public_data: Path) -> None:
    if not (public_data / "audio" / "fsdd").is_dir():
        pytest.skip("FSDD is not in CAMBIUM_DATA")
    found = connected_digits(DigitOptions(strings=6, held=4), JoinOptions(level_db=0, noise_db=90), 8000)
    assert len(found) == 40
    assert {r.entry.speaker for r in found} == {"george", "jackson", "theo", "yweweler"}
    assert sum(r.entry.split == "val" for r in found) == 16
    for r in found:
        words = (r.entry.text or "").split()
        assert 3 <= len(words) <= 7
        assert set(words) <= set(DIGITS)
