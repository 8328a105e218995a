"""Options of the diagnostic tasks. Their sizes decide how hard they are; the defaults take minutes on one core."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from domains.task import TaskConfig

Pattern = Literal["self", "causal_self", "cross", "causal_cross"]


class DiagnosticConfig(TaskConfig):
    """What all of them share."""

    strings: int = Field(default=23_000, ge=10)  # made in all
    val: int = Field(default=1_000, ge=1)  # of them, at most a fifth
    test: int = Field(default=2_000, ge=1)  # of them, at most a fifth


class RecallConfig(DiagnosticConfig):
    """Multi-query associative recall."""

    length: int = Field(default=64, ge=4)  # tokens of a string
    pairs: int = Field(default=8, ge=1)  # of key and value; each key is asked for once
    vocab: int = Field(default=512, ge=8, multiple_of=2)  # half keys, half values
    causal: bool = True  # a token sees no later one; false: mixers that cannot be causal can be tried

    @model_validator(mode="after")
    def _fits(self) -> RecallConfig:
        if 3 * self.pairs > self.length:
            raise ValueError(f"length must hold two tokens and a question per pair: at least {3 * self.pairs}")
        if self.pairs >= self.vocab // 2:
            raise ValueError(f"pairs must be fewer than the keys: less than {self.vocab // 2}")
        return self


class ListopsConfig(DiagnosticConfig):
    """Nested operations on lists of digits."""

    strings: int = Field(default=13_000, ge=10)
    length: int = Field(default=64, ge=16)  # tokens of a string at most, a quarter of them at least
    depth: int = Field(default=3, ge=1)  # of nesting, at most
    arguments: int = Field(default=4, ge=2)  # of one operation, at most
    causal: bool = False


class PatternsConfig(DiagnosticConfig):
    """Who may read whom: the four patterns of attention."""

    strings: int = Field(default=13_000, ge=10)
    pattern: Pattern = "self"
    pairs: int = Field(default=6, ge=2)  # of key and value
    questions: int = Field(default=12, ge=2)
    vocab: int = Field(default=64, ge=8, multiple_of=2)  # half keys, half values

    @model_validator(mode="after")
    def _fits(self) -> PatternsConfig:
        if self.pairs >= self.vocab // 2:
            raise ValueError(f"pairs must be fewer than the keys: less than {self.vocab // 2}")
        return self
