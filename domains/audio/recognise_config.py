"""Options of `audio/recognise`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .config import AudioOptions
from .text import Unit
from .utterances import DigitOptions, JoinOptions


class RecogniseOptions(AudioOptions):
    """How words are spelt, what cannot be learned, and how posteriors become text."""

    unit: Unit = Field("characters", description="what a label is: a character, a piece of words, or a word")
    pieces: int = Field(64, ge=2, description="of unit=pieces: how many at most")
    symbols: str | None = Field(None, description="of unit=characters: all that transcripts may hold; default: what is "
                                "in those of training")  # fmt: skip
    preflight: Literal["refuse", "skip"] = Field(
        "refuse", description="utterances that CTC cannot learn: empty, unknown symbols, too few frames"
    )
    decoder: Literal["greedy", "beam"] = Field("greedy", description="best label per frame, or prefix beam search")
    beam: int = Field(8, ge=1, description="prefixes kept")
    lm: str | None = Field(None, description="with the beam: a word n-gram model, a path to an ARPA file")
    lm_weight: float = Field(0.5, ge=0, description="of its logarithm")
    word_bonus: float = Field(0.0, description="with lm: added to the logarithm for every word")
    join: JoinOptions = JoinOptions()
    digits: DigitOptions = DigitOptions()
    whole_s: float = Field(20.0, gt=0, description="predictions: recordings up to this length are taken whole (s)")
    chunk_s: float | None = Field(
        None, gt=0, description="predictions: what a window over a longer one answers for (s); default: the median of "
        "training, so that level and context are as they were learned"
    )  # fmt: skip
    margin_s: float = Field(1.0, ge=0, description="predictions: what it hears besides on each side (s)")
    pause_s: float = Field(0.6, gt=0, description="predictions: a pause that ends an utterance (s)")
    silence_db: float = Field(35.0, gt=0, description="predictions: a window so far below the loudest holds no words")
    table: Literal["csv", "parquet", "jsonl"] = Field("csv", description="predictions: form of the table")
    templates: int = Field(4, ge=0, description="of the DTW baseline, per word and speaker; 0 leaves it out")
