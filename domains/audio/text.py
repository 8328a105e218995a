"""Words of transcripts: a normaliser with a version, the alphabet of a corpus, corpus-level error rates."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared_backbones.errors import BadInput

NORMALISER = "cambium-text-1"  # NFKC, lower case, apostrophes kept, other punctuation to spaces, single spaces


def normalised(text: str) -> str:
    """Text as it is compared and learned; see ``NORMALISER``, which changes whenever this does."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    kept = "".join(c if c.isalnum() or c == "'" or unicodedata.category(c) == "Mn" else " " for c in plain)
    return re.sub(r"\s+", " ", kept).strip()


@dataclass(frozen=True)
class Alphabet:
    """Symbols of a recogniser. Label 0 is the blank, so symbol i has label i + 1."""

    symbols: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Alphabet:
        """All characters of normalised texts, in order."""
        return cls(tuple(sorted({c for text in texts for c in text})))

    def encode(self, text: str, where: str = "transcript") -> list[int]:
        """Labels. Raises BadInput naming the symbols that it does not know."""
        place = {c: i + 1 for i, c in enumerate(self.symbols)}
        unknown = sorted({c for c in text if c not in place})
        if unknown:
            raise BadInput(
                f"{where}: unknown symbols {unknown} in {text!r}; the model knows {''.join(self.symbols)!r}. Spell "
                "them out, or train on transcripts that hold them"
            )
        return [place[c] for c in text]

    def decode(self, labels: Sequence[int]) -> str:
        return "".join(self.symbols[i - 1] for i in labels)


def edits(reference: Sequence[object], heard: Sequence[object]) -> int:
    """Fewest insertions, deletions and replacements that turn one into the other."""
    row = list(range(len(heard) + 1))
    for i, r in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, h in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (r != h))
    return row[-1]


def error_counts(reference: str, heard: str) -> dict[str, int]:
    """Edits and lengths of one utterance, in words and in characters. Sum them over a corpus before dividing."""
    r, h = reference.split(), heard.split()
    return {
        "word_edits": edits(r, h),
        "words": len(r),
        "char_edits": edits(reference, heard),
        "chars": len(reference),
    }


def error_rate(counts: Iterable[dict[str, int]], unit: str = "word") -> float:
    """Sum of edits over sum of units (WER or CER), not a mean of utterances; NaN without any reference."""
    rows = list(counts)
    total = sum(row[f"{unit}s"] for row in rows)
    return sum(row[f"{unit}_edits"] for row in rows) / total if total else float("nan")
