"""Decoding against all alignments, error rates against a plain recursion, the list before training."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from domains.audio.ctc import aligned, blank_rate, frames_needed, greedy, prefix_beam, preflight
from domains.audio.text import Alphabet, edits, error_counts, error_rate, normalised, paired
from shared_backbones.errors import BadInput


def random_log_p(n: int, k: int, seed: int) -> np.ndarray:
    z = 2 * np.random.default_rng(seed).standard_normal((n, k))
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def joined(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(c for c, _ in itertools.groupby(path) if c)


def every_string(log_p: np.ndarray) -> dict[tuple[int, ...], float]:
    """Log-probability of every label string, summed over all alignments one by one."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(log_p.shape[1]), repeat=len(log_p)):
        score = float(sum(log_p[t, c] for t, c in enumerate(path)))
        found[joined(path)] = np.logaddexp(found.get(joined(path), -np.inf), score)
    return found


@given(n=st.integers(1, 5), k=st.integers(2, 4), seed=st.integers(0, 1000))
def test_a_wide_beam_is_the_sum_over_all_alignments(n: int, k: int, seed: int) -> None:
    log_p = random_log_p(n, k, seed)
    expected = every_string(log_p)
    found = prefix_beam(log_p, beam=10_000)
    assert {tuple(p) for p, s in found if np.isfinite(s)} == set(expected)
    for prefix, score in found:
        if np.isfinite(score):
            assert score == pytest.approx(expected[tuple(prefix)], abs=1e-9)
    assert found[0][1] == pytest.approx(max(expected.values()))
    assert tuple(greedy(log_p)) == joined(tuple(log_p.argmax(1)))


def test_the_beam_finds_what_the_best_path_misses() -> None:
    log_p = np.log(np.array([[0.6, 0.4], [0.6, 0.4]]))  # blank blank 0.36; "a" 0.64 in three alignments
    assert greedy(log_p) == []
    assert prefix_beam(log_p)[0][0] == [1]
    assert np.exp(prefix_beam(log_p)[0][1]) == pytest.approx(0.64)
    assert blank_rate(log_p) == 1.0


def test_the_loss_of_torch_is_the_score_of_the_beam() -> None:
    log_p = random_log_p(6, 4, 0)
    for prefix, score in prefix_beam(log_p, 10_000)[:5]:
        if prefix:
            loss = torch.nn.functional.ctc_loss(
                torch.from_numpy(log_p)[:, None], torch.tensor([prefix]), [6], [len(prefix)], reduction="sum"
            )
            assert -float(loss) == pytest.approx(score, abs=1e-6)


@given(labels=st.lists(st.integers(1, 3), min_size=1, max_size=6), extra=st.integers(-2, 2))
def test_the_list_names_what_torch_cannot_align(labels: list[int], extra: int) -> None:
    n = max(1, frames_needed(labels) + extra)
    log_p = torch.zeros(n, 1, 4).log_softmax(2)
    loss = torch.nn.functional.ctc_loss(log_p, torch.tensor([labels]), [n], [len(labels)], reduction="sum")
    text = "".join("abc"[c - 1] for c in labels)
    assert bool(preflight(["x"], [text], [n], Alphabet(tuple("abc")))) == (not bool(torch.isfinite(loss)))


def test_the_list_says_why() -> None:
    assert frames_needed([1] * 5) == 9
    found = preflight(
        ["a", "b", "c", "d"], ["three", "", "f\u00fcnf", "one"], [5, 9, 9, 9], Alphabet(tuple("efhinort"))
    )
    assert [(p.name, p.kind) for p in found] == [
        ("a", "too few frames"),
        ("b", "empty transcript"),
        ("c", "unknown symbols"),
    ]
    assert "needs 6 frames and there are 5" in found[0].meaning


@given(a=st.lists(st.integers(0, 3), max_size=7), b=st.lists(st.integers(0, 3), max_size=7))
def test_edits_are_those_of_the_recursion(a: list[int], b: list[int]) -> None:
    @cache
    def naive(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(naive(i - 1, j) + 1, naive(i, j - 1) + 1, naive(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert edits(a, b) == naive(len(a), len(b))
    pairs = paired(list(map(str, a)), list(map(str, b)))
    assert sum(r != h for r, h in pairs) == edits(a, b)
    assert [r for r, _ in pairs if r is not None] == list(map(str, a))
    assert [h for _, h in pairs if h is not None] == list(map(str, b))


def best_path(log_p: np.ndarray, labels: tuple[int, ...]) -> float:
    """Of all frame paths that spell ``labels``, the likeliest one's score."""
    paths = itertools.product(range(log_p.shape[1]), repeat=len(log_p))
    return max(float(sum(log_p[t, c] for t, c in enumerate(p))) for p in paths if joined(p) == labels)


@given(n=st.integers(1, 5), labels=st.lists(st.integers(1, 2), max_size=3), seed=st.integers(0, 100))
def test_labels_stand_where_the_likeliest_path_has_them(n: int, labels: list[int], seed: int) -> None:
    log_p = random_log_p(n, 3, seed)
    if frames_needed(labels) > n:
        with pytest.raises(ValueError, match="frames"):
            aligned(log_p, labels)
        return
    spans = aligned(log_p, labels)
    path = [0] * n
    for (a, b), c in zip(spans, labels, strict=True):
        assert a < b
        path[a:b] = [c] * (b - a)
    assert joined(tuple(path)) == tuple(labels)
    assert sum(log_p[t, c] for t, c in enumerate(path)) == pytest.approx(best_path(log_p, tuple(labels)))


def test_error_rates_are_of_the_corpus() -> None:
    rows = [error_counts("one two three four", "one two three four"), error_counts("five", "nine")]
    assert error_rate(rows) == pytest.approx(1 / 5)  # not the mean of 0 and 1
    assert error_rate(rows, "char") == pytest.approx(2 / 22)
    assert np.isnan(error_rate([error_counts("", "one")]))  # an empty reference alone has no rate
    assert error_rate([error_counts("", "one"), error_counts("two", "two")]) == 1.0  # its insertions count


def test_text_is_normalised() -> None:
    assert normalised("  The CHILD\u2019s, dog -- hurt!\n") == "the child's dog hurt"
    assert normalised("\ufb01ve") == "five"
    once = normalised("A \u00dc b\u0301?")
    assert normalised(once) == once


def test_unknown_symbols_are_refused() -> None:
    alphabet = Alphabet.of(["one", "two"])
    assert alphabet.decode(alphabet.encode("tone")) == "tone"
    with pytest.raises(BadInput, match=r"clip\.wav: unknown symbols \['x'\]"):
        alphabet.encode("tox", "clip.wav")


def test_pieces_spell_what_they_were_found_in() -> None:
    texts = ["three three tree", "one tone", "thirteen three"]
    alphabet = Alphabet.of(texts, "pieces", 20)
    assert len(alphabet.symbols) <= 20
    assert " three" in alphabet.symbols
    for text in [*texts, "one three", "tenth"]:
        assert alphabet.decode(alphabet.encode(text)) == text
    assert len(alphabet.encode("three three")) == 2
    assert alphabet.strange("one quit") == ["i", "q", "u"] or "q" in alphabet.strange("one quit")


@pytest.mark.parametrize("unit", ["characters", "pieces", "words"])
def test_words_of_labels(unit: str) -> None:
    texts = ["one two", "two two one"]
    alphabet = Alphabet.of(texts, unit, 8)  # type: ignore[arg-type]
    labels = alphabet.encode("two one two")
    found = alphabet.words(labels)
    assert [w for w, _, _ in found] == ["two", "one", "two"]
    assert found[-1][2] == len(labels)
    assert all("".join(alphabet.decode(labels[a:b]).split()) == w for w, a, b in found)


def test_errors_are_counted_by_kind() -> None:
    found = error_counts("one two three", "one too three four")
    assert (found["replaced"], found["left_out"], found["added"]) == (1, 0, 1)
    assert error_counts("one two", "")["left_out"] == 2


def test_a_long_alignment_is_found() -> None:
    """More states than a byte counts."""
    labels = [1 + u % 2 for u in range(150)]
    log_p = np.full((300, 3), -9.0)
    log_p[np.arange(300), np.repeat(labels, 2)] = 0.0
    assert aligned(log_p, labels) == [(2 * u, 2 * u + 2) for u in range(150)]
