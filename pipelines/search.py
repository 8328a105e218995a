"""Points that a search proposes from what it was told of the former ones: Optuna's tree-structured Parzen estimator.

Seeded and told the same losses it proposes the same points, so a search that was stopped is taken up by running it
again: its trainings are found, and no state of its own has to be kept.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from shared_backbones.errors import BadRequest

from .config import parse_set, read_yaml

Point = dict[str, Any]
DIGITS = 3  # of a proposed number: nobody wants to read train.lr=0.0031622776601683794


@dataclass(frozen=True)
class Axis:
    """An option and where it may lie: ``values``, or all numbers from ``low`` to ``high``."""

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def suggest(self, trial: Any) -> Any:
        """A value of this axis for an Optuna trial."""
        if self.values:
            return self.values[trial.suggest_categorical(self.name, list(range(len(self.values))))]
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        value = float(f"{trial.suggest_float(self.name, self.low, self.high, log=self.log):.{DIGITS}g}")
        return min(max(value, self.low), self.high)


def axis(text: str) -> Axis:
    """``NAME=a,b,c``, ``NAME=low:high`` or ``NAME=low:high:log``; whole numbers where both ends are. BadRequest."""
    path, _ = parse_set(text)
    name, said = ".".join(path), text.partition("=")[2]
    wrong = BadRequest(f"--search takes NAME=a,b,c, NAME=low:high or NAME=low:high:log; got {text!r}")
    if ":" not in said:
        values = tuple(read_yaml(v, f"--search {text}") for v in said.split(",") if v.strip())
        if not values:
            raise wrong
        return Axis(name, values)
    parts = said.split(":")
    ends = [read_yaml(part, f"--search {text}") for part in parts[:2]]
    if len(parts) > 3 or parts[2:] not in ([], ["log"]) or not all(type(e) in (int, float) for e in ends):
        raise wrong
    low, high = ends
    if not low < high or (parts[2:] and low <= 0):
        raise BadRequest(f"--search {text}: the range must rise{' from above zero' if parts[2:] else ''}")
    return Axis(name, (), low, high, bool(parts[2:]), all(isinstance(e, int) for e in ends))


def proposals(options: Sequence[str], trials: int, seed: int) -> Generator[Point, float, None]:
    """Points, each sent the validation loss that it had. Raises BadRequest for an option or an absent Optuna."""
    axes = [axis(text) for text in options]
    if len({a.name for a in axes}) < len(axes):
        raise BadRequest("--search names an option twice")
    if find_spec("optuna") is None:
        raise BadRequest("--search needs Optuna: pip install cambium[sweep]; --grid does not")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    for _ in range(trials):
        trial = study.ask()
        loss = yield {a.name: a.suggest(trial) for a in axes}
        study.tell(trial, min(loss, 1e300))  # a training without a validation loss is the worst
