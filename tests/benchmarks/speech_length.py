"""What an encoder costs against the length of a recording: ``python -m tests.benchmarks.speech_length``.

Two blocks of 96 channels over 50 tokens a second, evaluated on one recording of 1, 10, 100 and 1000 s: softmax
attention, MossFormer's gated attention in chunks beside linear attention with its convolution, LMUFormer's convolution
and Legendre memory. Counted: floating-point operations, the most bytes of tensors alive at once, and the bytes that
mixers say they keep of what they heard when the encoder streams (attention and LMUFormer are causal here, MossFormer
cannot be). Timed: the process's own CPU time on one thread, the shortest of a few runs. ``--check`` ends with code 1
where an encoder that claims to be linear is not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from shared_backbones.backbone import Tokens, build_backbone
from shared_backbones.block import Block
from shared_backbones.flops import count_flops
from shared_backbones.footprint import peak_bytes
from shared_backbones.layout import Layout
from shared_backbones.mixers.base import Mixer
from shared_backbones.presets import Preset, adjust, load_preset
from shared_backbones.runtime import configure

RATE = 50  # tokens per second
LENGTHS = (1.0, 10.0, 100.0, 1000.0)
SLACK = 1.5  # operations per token may grow so much and still count as linear: logarithms, and edges of chunks


@dataclass(frozen=True)
class Encoder:
    """A sentence of two blocks, and whether it claims to be linear in the length."""

    preset: Preset
    linear: bool


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "attention": lambda: Encoder(
        adjust(load_preset("speech_lmu"), mixer={"mixer": "attention", "heads": 4, "position": "rotary"}, depth=2),
        False,
    ),
    "MossFormer": lambda: Encoder(adjust(load_preset("audio_moss"), depth=2), True),
    "LMUFormer": lambda: Encoder(adjust(load_preset("speech_lmu"), depth=2), True),
}


@dataclass(frozen=True)
class Cost:
    """Of one forward pass."""

    seconds: float  # of sound
    flops: int
    alive: int  # bytes, at most
    state: int | None  # bytes kept while streaming; None: it cannot
    cpu: float  # s

    def per_second(self) -> tuple[float, float, float]:
        """Operations, bytes and CPU seconds for a second of sound."""
        return self.flops / self.seconds, self.alive / self.seconds, self.cpu / self.seconds


def cost(encoder: Encoder, seconds: float, timed: bool = True) -> Cost:
    """Counted and, where asked for, timed."""
    torch.manual_seed(0)
    preset = encoder.preset
    causal = frozenset({0} if preset.causal else ())
    model = build_backbone(preset.backbone, Tokens(rank=1, causal_axes=causal)).eval()
    n = max(1, round(RATE * seconds))
    x, layout = torch.randn(1, n, preset.backbone.stages[0].dim), Layout((n,))
    found: list[int] = []
    alive = peak_bytes(lambda: found.append(count_flops(model, x, layout)))
    best, spent = float("inf"), 0.0
    with torch.inference_mode():
        while timed and (best == float("inf") or spent < 1.0):
            start = time.process_time()
            model(x, layout)
            took = time.process_time() - start
            best, spent = min(best, took), spent + took
    state = sum(4 * m.state_size(n) for m in mixers_of(model)) if preset.causal else None
    return Cost(seconds, found[0], alive, state, best if timed else 0.0)


def mixers_of(model: nn.Module) -> list[Mixer]:
    """Of its blocks."""
    return [m.mix.inner for m in model.modules() if isinstance(m, Block) and isinstance(m.mix.inner, Mixer)]


def growth(costs: Sequence[Cost]) -> float:
    """How many times dearer, in operations, a second of the longest recording is than one of the second shortest."""
    return costs[-1].per_second()[0] / costs[1].per_second()[0]


def as_claimed(encoder: Encoder, costs: Sequence[Cost]) -> bool:
    """Whether one that claims to be linear is; others may cost what they like."""
    return not encoder.linear or growth(costs) <= SLACK


def rows(name: str, encoder: Encoder, costs: Sequence[Cost]) -> list[str]:
    """A table row per length, each figure beside that of the length before; and a line on the claim."""
    lines = []
    for i, c in enumerate(costs):
        before = costs[max(0, i - 1)]
        pairs: list[tuple[str, float, float]] = [
            (f"{c.flops / 1e9:.4g} G", c.flops, before.flops),
            (f"{c.alive / 1e6:.4g} MB", c.alive, before.alive),
            (f"{c.cpu:.3g} s", c.cpu, before.cpu),
        ]
        said = [text + (f" (x {now / then:.1f})" if i and then else "") for text, now, then in pairs]
        kept = "-" if c.state is None else f"{c.state / 1e3:.4g} kB"
        lines.append(f"| {name} | {c.seconds:g} s | {said[0]} | {said[1]} | {kept} | {said[2]} |")
    note = f"{name}: a second of {costs[-1].seconds:g} s costs {growth(costs):.2f} times one of {costs[1].seconds:g} s"
    claim = "claims to be linear" if encoder.linear else "claims nothing"
    return [*lines, f"{note}; {claim}: {'as claimed' if as_claimed(encoder, costs) else 'NOT as claimed'}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ENCODERS), help=", ".join(ENCODERS))
    parser.add_argument("--lengths", type=float, nargs="+", default=LENGTHS, help="seconds, at least two, rising")
    parser.add_argument("--check", action="store_true", help="end with code 1 where a claim does not hold")
    args = parser.parse_args()
    configure(1)
    print("| encoder | length | operations | bytes alive | bytes kept streaming | CPU |\n" + "| --- " * 6 + "|")
    wrong, notes = False, []
    for name in args.names:
        encoder = ENCODERS[name]()
        costs = [cost(encoder, seconds) for seconds in args.lengths]
        *table, note = rows(name, encoder, costs)
        print("\n".join(table), flush=True)
        notes.append(note)
        wrong |= not as_claimed(encoder, costs)
    print("\n" + "\n".join(notes))
    sys.exit(int(args.check and wrong))


if __name__ == "__main__":
    main()
