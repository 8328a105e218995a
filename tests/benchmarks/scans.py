"""How fast the shared recurrences are, as ratios within one run on fresh random data.

    python -m tests.benchmarks.scans [--threads 1 2] [--repeats 3] [--families delta scan] [--refs DIR] [--json]

Against: public pure-torch code where ``--refs`` holds it (see tests/benchmarks/public.py); a loop over tokens; causal
softmax attention of the same width (SDPA); and the forms in which these operators are usually written in plain
torch, written here from the published equations: the delta rule with chunks picked by index and forward substitution
row by row, and the selective scan with its decays and inputs in memory at full length. Each time is the best of a
few, and contestants take turns. With one thread it is the process's own CPU time, so that a busy machine matters
little; with more it is time on the clock, which means something on an idle machine only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_backbones.mixers.scans import decay_scan, delta_scan, selective_scan
from shared_backbones.runtime import configure

from .public import public

HEADS, WIDTH, STATES = 4, 64, 16  # 256 channels


def attention_data(n: int) -> list[Tensor]:
    """q, k of length 1, v (1, H, N, D), beta in 0..1 and log decays (1, H, N)."""
    q, k, v = (torch.randn(1, HEADS, n, WIDTH) for _ in range(3))
    return [q, F.normalize(k, dim=-1), v, torch.rand(1, HEADS, n), -0.1 * torch.rand(1, HEADS, n)]


def scan_data(n: int) -> list[Tensor]:
    """dt, u (1, N, C), rates (S, C), b, c (1, N, S)."""
    c = HEADS * WIDTH
    rate = -torch.arange(1.0, STATES + 1)[:, None].repeat(1, c)
    return [0.1 * torch.rand(1, n, c), torch.randn(1, n, c), rate, *(torch.randn(1, n, STATES) for _ in range(2))]


def empty_state() -> Tensor:
    return torch.zeros(1, HEADS, WIDTH, WIDTH)


def delta_ours(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor) -> Tensor:
    return delta_scan(q, k, v, beta, None, empty_state(), 32)[0]


def gated_ours(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor) -> Tensor:
    return delta_scan(q, k, v, beta, log_a, empty_state(), 32)[0]


def gated_loop(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor) -> Tensor:
    """S <- a S, then as in the delta rule."""
    s, rows = empty_state(), []
    for q_t, k_t, v_t, b_t, a_t in zip(*(t.unbind(2) for t in (q, k, v, beta, log_a.exp())), strict=True):
        s = a_t[..., None, None] * s
        error = (v_t - (k_t[..., None, :] @ s)[..., 0, :]) * b_t[..., None]
        s = s + k_t[..., None] * error[..., None, :]
        rows.append((q_t[..., None, :] @ s)[..., 0, :])
    return torch.stack(rows, 2)


def delta_loop(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor) -> Tensor:
    """S <- S + beta k (v - S^T k)^T, token by token."""
    s, rows = empty_state(), []
    for q_t, k_t, v_t, b_t in zip(*(t.unbind(2) for t in (q, k, v, beta)), strict=True):
        error = (v_t - (k_t[..., None, :] @ s)[..., 0, :]) * b_t[..., None]
        s = s + k_t[..., None] * error[..., None, :]
        rows.append((q_t[..., None, :] @ s)[..., 0, :])
    return torch.stack(rows, 2)


def delta_indexed(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor, chunk: int = 32) -> Tensor:
    """The chunked form as commonly written: the inverse row by row, chunks by index."""
    q, k, v, b = (t.unflatten(2, (-1, chunk)) for t in (q, k, v, beta[..., None]))
    below = torch.ones(chunk, chunk, dtype=torch.bool).triu()
    inverse = -((b * k) @ k.mT).masked_fill(below, 0.0)
    for i in range(1, chunk):
        row = inverse[..., i, :i].clone()
        inverse[..., i, :i] = row + (row[..., None] * inverse[..., :i, :i].clone()).sum(-2)
    inverse = inverse + torch.eye(chunk)
    w, u = inverse @ (b * k), inverse @ (b * v)
    s, y = empty_state(), torch.zeros_like(v)
    for i in range(q.shape[2]):
        new = u[:, :, i] - w[:, :, i] @ s
        pairs = (q[:, :, i] @ k[:, :, i].mT).masked_fill(below.triu(1), 0.0)
        y[:, :, i] = q[:, :, i] @ s + pairs @ new
        s = s + k[:, :, i].mT @ new
    return y.flatten(2, 3)


def linear_ours(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor) -> Tensor:
    """The decayed sum that linear, retention, mlstm and ssd share."""
    return decay_scan(q, k, v, log_a, empty_state(), 64)[0]


def linear_loop(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor) -> Tensor:
    s, rows = empty_state(), []
    for q_t, k_t, v_t, a_t in zip(*(t.unbind(2) for t in (q, k, v, log_a.exp())), strict=True):
        s = a_t[..., None, None] * s + k_t[..., None] * v_t[..., None, :]
        rows.append((q_t[..., None, :] @ s)[..., 0, :])
    return torch.stack(rows, 2)


def scan_ours(dt: Tensor, u: Tensor, rate: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return selective_scan(dt, dt * u, rate, b, c, torch.zeros(1, *rate.shape), 64)[0]


def scan_loop(dt: Tensor, u: Tensor, rate: Tensor, b: Tensor, c: Tensor) -> Tensor:
    h, rows = torch.zeros(1, *rate.shape), []
    for dt_t, u_t, b_t, c_t in zip(*(t.unbind(1) for t in (dt, u, b, c)), strict=True):
        h = torch.exp(dt_t[:, None] * rate) * h + b_t[..., None] * (dt_t * u_t)[:, None]
        rows.append((c_t[:, None] @ h)[:, 0])
    return torch.stack(rows, 1)


def scan_indexed(dt: Tensor, u: Tensor, rate: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The reference form: decays and inputs of all tokens at once, tokens by index."""
    a, x = torch.exp(dt[:, :, None] * rate), (dt * u)[:, :, None] * b[..., None]
    h, rows = torch.zeros(1, *rate.shape), []
    for t in range(dt.shape[1]):
        h = a[:, t] * h + x[:, t]
        rows.append(torch.einsum("bsc,bs->bc", h, c[:, t]))
    return torch.stack(rows, 1)


def scan_doubling(dt: Tensor, u: Tensor, rate: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """A parallel scan of log2 N passes over all tokens: h_t takes in h_(t-1), then h_(t-2), h_(t-4) ..."""
    a, h = torch.exp(dt[:, :, None] * rate), (dt * u)[:, :, None] * b[..., None]
    step = 1
    while step < h.shape[1]:
        h = torch.cat([h[:, :step], h[:, step:] + a[:, step:] * h[:, :-step]], 1)
        a = torch.cat([a[:, :step], a[:, step:] * a[:, :-step]], 1)
        step *= 2
    return (c[:, :, None] @ h)[:, :, 0]


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *gates: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


Form = Callable[..., Tensor]
FORMS: dict[str, dict[str, Form]] = {
    "linear": {"ours": linear_ours, "loop": linear_loop, "sdpa": causal_attention},
    "delta": {"ours": delta_ours, "loop": delta_loop, "indexed chunks": delta_indexed, "sdpa": causal_attention},
    "gated delta": {"ours": gated_ours, "loop": gated_loop, "sdpa": causal_attention},
    "scan": {"ours": scan_ours, "loop": scan_loop, "doubling": scan_doubling, "indexed": scan_indexed},
}
SLOW = {"indexed", "fla per token"}  # minutes at 8k tokens with gradients


def timed(form: Form, data: list[Tensor], backward: bool) -> float:
    """Seconds of one call."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    data = [t.clone().requires_grad_(backward) for t in data]
    start = clock()
    with torch.set_grad_enabled(backward):
        y = form(*data)
        if backward:
            y.sum().backward()
    return clock() - start


def race(family: str, n: int, backward: bool, repeats: int, more: dict[str, Form]) -> dict[str, float]:
    """Best seconds of each form; all must agree on the values first."""
    forms = {k: f for k, f in {**FORMS[family], **more}.items() if not (k in SLOW and backward and n > 2048)}
    make = scan_data if family == "scan" else attention_data
    data = make(256)
    for name, form in forms.items():
        if name != "sdpa":
            torch.testing.assert_close(form(*data), forms["ours"](*data), rtol=1e-3, atol=1e-3)
    best = dict.fromkeys(forms, float("inf"))
    for _ in range(repeats):
        data = make(n)
        for name, form in forms.items():
            if best[name] == float("inf") or best[name] < 20:
                best[name] = min(best[name], timed(form, data, backward))
    if family == "scan":
        data = attention_data(n)
        best["sdpa"] = min(timed(causal_attention, data, backward) for _ in range(repeats))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratios of the shared recurrences to loops, plain forms and SDPA.")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--families", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--refs", type=Path, help="folder of public references")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    references = {family: public(options.refs, family) for family in options.families}
    for _, reason in references.values():
        if reason and not options.json:
            print(f"left out: {reason}", flush=True)
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        record = configure(threads)
        for family in options.families:
            for n, backward in ((4096, False), (4096, True), (8192, True)):
                best = race(family, n, backward, options.repeats, references[family][0])
                ratios = {name: round(s / best["ours"], 2) for name, s in best.items() if name != "ours"}
                rows.append({"threads": threads, "family": family, "n": n, "backward": backward, "ratios": ratios})
                what = "forward + backward" if backward else "forward"
                if not options.json:
                    said = ", ".join(f"{name} {ratio:.1f}x" for name, ratio in ratios.items())
                    print(
                        f"{threads} thread(s), {family}, N={n}, {what}: {1e3 * best['ours']:.0f} ms; {said}", flush=True
                    )
    if options.json:
        print(json.dumps({"runtime": record, "rows": rows}))


if __name__ == "__main__":
    main()
