"""Words of transcripts: a normaliser with a version, the alphabet of a corpus, corpus-level error rates."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from shared_backbones.errors import BadInput

NORMALISER = "cambium-text-1"  # NFKC, lower case, apostrophes kept, other punctuation to spaces, single spaces
Unit = Literal["characters", "pieces", "words"]


def normalised(text: str) -> str:
    """Text as it is compared and learned; see ``NORMALISER``, which changes whenever this does."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    kept = "".join(c if c.isalnum() or c == "'" or unicodedata.category(c) == "Mn" else " " for c in plain)
    return re.sub(r"\s+", " ", kept).strip()


@dataclass(frozen=True)
class Alphabet:
    """Symbols of a recogniser. Label 0 is the blank, so symbol i has label i + 1.

    characters: letters and the space. words: whole words. pieces: letters, the space, and strings of them that occur
    often, found by joining the most frequent pair again and again (byte-pair encoding); no piece reaches over a space
    but at its start, and every word is spelt with a space before it.
    """

    symbols: tuple[str, ...]
    unit: Unit = "characters"

    @classmethod
    def of(cls, texts: Iterable[str], unit: Unit = "characters", pieces: int = 64) -> Alphabet:
        """The symbols of normalised texts, in order. ``pieces``: how many at most."""
        texts = list(texts)
        if unit == "pieces":
            return cls(_pieces(texts, pieces), unit)
        return cls(tuple(sorted({c for text in texts for c in (text.split() if unit == "words" else text)})), unit)

    @cached_property
    def place(self) -> dict[str, int]:
        """Label of each symbol."""
        return {c: i + 1 for i, c in enumerate(self.symbols)}

    def parts(self, text: str) -> list[str]:
        """A text as symbols, known or not."""
        if self.unit == "words":
            return text.split()
        if self.unit == "characters":
            return list(text)
        return [piece for word in text.split() for piece in _joined(f" {word}", self.place)]

    def strange(self, text: str) -> list[str]:
        """What of a text has no label."""
        return sorted({c for c in self.parts(text) if c not in self.place})

    def encode(self, text: str, where: str = "transcript") -> list[int]:
        """Labels. Raises BadInput naming the symbols that it does not know."""
        unknown = self.strange(text)
        if unknown:
            known = self.symbols if self.unit == "words" else "".join(c for c in self.symbols if len(c) == 1)
            raise BadInput(
                f"{where}: unknown symbols {unknown} in {text!r}; the model knows {known!r}. Spell them out, or train "
                "on transcripts that hold them"
            )
        return [self.place[c] for c in self.parts(text)]

    def known(self, text: str) -> list[int]:
        """Labels of those symbols that it knows, the others left out."""
        return [self.place[c] for c in self.parts(text) if c in self.place]

    def decode(self, labels: Sequence[int]) -> str:
        """The text that labels spell."""
        said = [self.symbols[i - 1] for i in labels]
        return (
            " ".join(said)
            if self.unit == "words"
            else "".join(said).strip()
            if self.unit == "pieces"
            else "".join(said)
        )

    def words(self, labels: Sequence[int]) -> list[tuple[str, int, int]]:
        """(word, its first label's place, the place after its last one) of each word that labels spell."""
        found: list[tuple[str, int, int]] = []
        text, first = "", 0
        for i, label in enumerate(labels):
            symbol = self.symbols[label - 1]
            if text.strip() and (self.unit == "words" or symbol.startswith(" ")):
                found.append((text.strip(), first, i))
                text = ""
            if not text.strip():
                first = i
            text += symbol
        return [*found, (text.strip(), first, len(labels))] if text.strip() else found


def _pieces(texts: Sequence[str], size: int) -> tuple[str, ...]:
    """Single letters, then joined ones in the order in which they were joined."""
    often = Counter(f" {word}" for text in texts for word in text.split())
    spelt = {word: tuple(word) for word in often}
    symbols = sorted({c for word in often for c in word})
    while len(symbols) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spelt.items():
            for pair in pairwise(parts):
                pairs[pair] += often[word]
        if not pairs or max(pairs.values()) < 2:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        symbols.append("".join(best))
        spelt = {word: _with(parts, best) for word, parts in spelt.items()}
    return tuple(symbols)


def _with(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The same string where every such pair is one."""
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


def _joined(word: str, rank: dict[str, int]) -> tuple[str, ...]:
    """A word in pieces: the pair that was learned first is joined first."""
    parts = tuple(word)
    while True:
        known = [pair for pair in pairwise(parts) if "".join(pair) in rank]
        if not known:
            return parts
        parts = _with(parts, min(known, key=lambda p: (rank["".join(p)], p)))


def _table(reference: Sequence[object], heard: Sequence[object]) -> list[list[int]]:
    """Fewest edits between all beginnings of both."""
    rows = [list(range(len(heard) + 1))]
    for i, r in enumerate(reference, 1):
        above, row = rows[-1], [i]
        for j, h in enumerate(heard, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (r != h)))
        rows.append(row)
    return rows


def edits(reference: Sequence[object], heard: Sequence[object]) -> int:
    """Fewest insertions, deletions and replacements that turn one into the other."""
    return _table(reference, heard)[-1][-1]


def paired(reference: Sequence[str], heard: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """What stands for what in one cheapest alignment; None: left out, or added. Replacing goes before both."""
    table = _table(reference, heard)
    i, j = len(reference), len(heard)
    found: list[tuple[str | None, str | None]] = []
    while i or j:
        if i and j and table[i][j] == table[i - 1][j - 1] + (reference[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            found.append((reference[i], heard[j]))
        elif i and table[i][j] == table[i - 1][j] + 1:
            i -= 1
            found.append((reference[i], None))
        else:
            j -= 1
            found.append((None, heard[j]))
    return found[::-1]


def error_counts(reference: str, heard: str) -> dict[str, int]:
    """Edits by kind and lengths of one utterance. Sum them over a corpus before dividing."""
    pairs = paired(reference.split(), heard.split())
    kinds = {
        "replaced": sum(r is not None and h is not None and r != h for r, h in pairs),
        "left_out": sum(h is None for _, h in pairs),
        "added": sum(r is None for r, _ in pairs),
    }
    return {
        "word_edits": sum(kinds.values()),
        "words": len(reference.split()),
        "char_edits": edits(reference, heard),
        "chars": len(reference),
        **kinds,
    }


def error_rate(counts: Iterable[dict[str, int]], unit: str = "word") -> float:
    """Sum of edits over sum of units (WER or CER), not a mean of utterances; NaN without any reference."""
    rows = list(counts)
    total = sum(row[f"{unit}s"] for row in rows)
    return sum(row[f"{unit}_edits"] for row in rows) / total if total else float("nan")
