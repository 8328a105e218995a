"""From which length on a mixer is cheaper than softmax attention: ``python -m tests.benchmarks.efficiency [names]``.

A mixer of ``dim`` channels against ``attention`` of the same width with torch's SDPA in it, both with their
projections, one sequence, float32: forward alone, and forward with backward. Lengths double from 128 on until the
mixer has been cheaper twice running; the length between, where the two are level, is interpolated in logarithms.
``--write`` puts the result into shared_backbones/mixers/efficiency.yaml, which ``list_mixers()`` reads.

Times are the process's own CPU time on one thread, medians of fresh random data; expect 20 % between runs.
"""

from __future__ import annotations

import argparse
import datetime
import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

import shared_backbones.mixers
from shared_backbones.cases import Case
from shared_backbones.errors import CambiumError
from shared_backbones.mixers import MIXERS
from shared_backbones.runtime import configure

from .mixers import runner, seconds, sequence_cases

FILE = Path(shared_backbones.mixers.__file__).with_name("efficiency.yaml")
SHORTEST, LONGEST = 128, 4096
KINDS = {"forward": False, "training": True}


@cache
def attention(causal: tuple[int, ...], n: int, dim: int, backward: bool, budget: float) -> float:
    """Seconds of softmax attention."""
    return seconds(runner(Case("attention", 1, True, causal), n, dim), budget, backward)


def level(ratios: dict[int, float]) -> str:
    """Where time over attention's falls below 1 and stays there, from the ratios at some lengths."""
    lengths = sorted(ratios)
    last_above = max((n for n in lengths if ratios[n] >= 1), default=None)
    if last_above is None:
        return f"<= {lengths[0]}"
    if last_above == lengths[-1]:
        return f"> {lengths[-1]}"
    after = lengths[lengths.index(last_above) + 1]
    low, high = math.log(ratios[last_above]), math.log(ratios[after])
    at = math.log(last_above) + (math.log(after) - math.log(last_above)) * low / (low - high)
    return str(int(round(math.exp(at), -1 if at < math.log(1000) else -2)))


def crossing(case: Case, dim: int, backward: bool, budget: float, longest: int) -> str:
    """The length from which a mixer is the cheaper one."""
    ratios: dict[int, float] = {}
    n, below = SHORTEST, 0
    while n <= longest and below < 2:
        took = seconds(runner(case, n, dim), budget, backward)
        ratios[n] = took / attention(case.causal, n, dim, backward, budget)
        below = below + 1 if ratios[n] < 1 else 0
        if ratios[n] > 20 and n >= 1024:
            break  # not worth the wait: far from level
        n *= 2
    return level(ratios)


def machine() -> str:
    """The processor's name, as far as the system tells."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--longest", type=int, default=LONGEST)
    parser.add_argument("--budget", type=float, default=0.1, help="seconds per figure")
    parser.add_argument("--write", action="store_true", help=f"merge into {FILE.name}")
    args = parser.parse_args()
    settings = configure(1)
    found: dict[str, dict[str, str]] = {}
    for case in sequence_cases(args.names or [name for name in MIXERS if name not in ("attention", "identity")]):
        try:
            how = "causal" if case.causal else "all"
            row = {f"{how} {k}": crossing(case, args.dim, b, args.budget, args.longest) for k, b in KINDS.items()}
        except (CambiumError, RuntimeError) as error:
            print(f"{case}: not measured: {error}", flush=True)
            continue
        found.setdefault(str(case.mixer), {}).update(row)
        print(f"{case!s:40}" + "".join(f"{k:>18} {v:>8}" for k, v in row.items()), flush=True)
        if args.write:
            write(found, args.dim, settings)


def write(found: dict[str, dict[str, str]], dim: int, settings: dict[str, Any]) -> None:
    """Merge measurements into the file, with what they were measured on."""
    content = yaml.safe_load(FILE.read_text()) if FILE.is_file() else {}
    content["measured"] = {
        "what": "tokens from which a mixer takes less CPU time than softmax attention (SDPA), one sequence, float32",
        "dim": dim,
        "machine": machine(),
        "threads": settings["threads"],
        "torch": str(torch.__version__),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python -m tests.benchmarks.efficiency --write",
    }
    content["mixers"] = dict(sorted({**content.get("mixers", {}), **found}.items()))
    aside = FILE.with_suffix(".writing")
    aside.write_text(yaml.safe_dump(content, sort_keys=False))
    aside.replace(FILE)


if __name__ == "__main__":
    main()
