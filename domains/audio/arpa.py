"""n-gram language models in ARPA files, and what they add to a string of labels while it is decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shared_backbones.errors import BadInput

from .ctc import Fusion
from .text import Alphabet

START, END, OTHER = "<s>", "</s>", "<unk>"
FAR = -10.0  # log10 of a word that the model does not know, where it names no <unk>
Gram = tuple[str, ...]


@dataclass(frozen=True)
class NGram:
    """Words and what may follow them: log10 of a probability and of a back-off weight per n-gram."""

    order: int
    grams: Mapping[Gram, tuple[float, float]]

    def score(self, word: str, before: Gram) -> float:
        """log10 P(word | before), backing off to shorter pasts."""
        if (word,) not in self.grams:
            word = OTHER
        before = (
            tuple(w if (w,) in self.grams else OTHER for w in before)[-(self.order - 1) :] if self.order > 1 else ()
        )
        found = 0.0
        while True:
            known = self.grams.get((*before, word))
            if known is not None:
                return found + known[0]
            if not before:
                return found + FAR
            found += self.grams.get(before, (0.0, 0.0))[1]
            before = before[1:]


def read_arpa(path: Path) -> NGram:
    """An ARPA file in plain text. Raises BadInput naming the line that is wrong."""
    if not path.is_file():
        raise BadInput(f"{path}: no such language model; give a file in the ARPA form")
    grams: dict[Gram, tuple[float, float]] = {}
    announced: dict[int, int] = {}
    n, ended = 0, False
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not text in UTF-8 (byte {error.start}), so no ARPA file") from None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("ngram ") and not n:
            announced.update(_announced(f"{path}, line {number}", text))
        elif text.startswith("\\") and text.endswith("-grams:"):
            n = int(text[1:-7]) if text[1:-7].isdigit() else 0
        elif text == "\\end\\":
            ended = True
        elif text and n and not ended:
            gram, scores = _gram(f"{path}, line {number}", text, n)
            grams[gram] = scores
    counted = {k: sum(len(g) == k for g in grams) for k in announced}
    if not ended or not announced or counted != announced:
        said = f"it announces {announced} n-grams by length and holds {counted}"
        raise BadInput(f"{path}: not a whole ARPA file: {said if ended else 'its end mark is missing'}")
    return NGram(max(announced), grams)


def _announced(where: str, text: str) -> dict[int, int]:
    left, equals, right = text.removeprefix("ngram ").partition("=")
    if not equals or not left.strip().isdigit() or not right.strip().isdigit():
        raise BadInput(f"{where}: n-grams are announced as 'ngram 1=20', got {text!r}")
    return {int(left): int(right)}


def _gram(where: str, text: str, n: int) -> tuple[Gram, tuple[float, float]]:
    cells = text.split()
    try:
        numbers = float(cells[0]), float(cells[n + 1]) if len(cells) == n + 2 else 0.0
    except (ValueError, IndexError):
        numbers = math.nan, 0.0
    if len(cells) not in (n + 1, n + 2) or not numbers[0] <= 0:
        raise BadInput(f"{where}: a {n}-gram is log10 P, {n} words and perhaps a back-off weight, got {text!r}")
    return tuple(cells[1 : n + 1]), numbers


def word_fusion(model: NGram, alphabet: Alphabet, weight: float, bonus: float) -> Fusion:
    """What the model says of the finished words of a string: ``weight`` ln P, and ``bonus`` for each word.

    The last word counts once a space follows it, or when the string is whole; then the end of the sentence counts too.
    """

    @cache
    def said(words: Gram) -> float:
        if not words:
            return 0.0
        own = weight * math.log(10) * model.score(words[-1], (START, *words[:-1]))
        return said(words[:-1]) + own + bonus

    @cache
    def finished(labels: tuple[int, ...]) -> Gram:
        words = alphabet.words(labels)
        open_end = alphabet.unit != "words" and labels and not alphabet.symbols[labels[-1] - 1].endswith(" ")
        return tuple(w for w, _, _ in (words[:-1] if open_end else words))

    def added(labels: tuple[int, ...], whole: bool) -> float:
        if not whole:
            return said(finished(labels))
        words = tuple(w for w, _, _ in alphabet.words(labels))
        return said(words) + weight * math.log(10) * model.score(END, (START, *words))

    return added
