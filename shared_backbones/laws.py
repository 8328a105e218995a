"""The laws that every mixer keeps, one function each: it says what it measured, or raises LawError with the numbers.

They run on small random inputs in float64, unless the law is about another type. None of them needs a reference:
that a mixer computes what its paper says is for a test beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .cases import (
    LARGE,
    LONG,
    TRACED,
    Case,
    LawError,
    Sample,
    collate,
    make_samples,
    padded,
    real_tokens,
    single_precision,
    whole,
)
from .compare import finite, gradients, same
from .errors import BadRequest
from .export import export_on_lattice, lattice_inputs
from .flops import elements_written_in_backward, flops_of, growth
from .layout import Layout
from .mixers import build_mixer
from .mixers.base import ALL_RANKS, Mixer, StateMixer

DIM = 16
SLACK = 1.15  # of counted growth: the terms of lower order


def law_facts(case: Case) -> str:
    """Declared facts are well-formed, and the instance is what was asked for."""
    mixer = case.build(DIM)
    if not mixer.ranks or not mixer.ranks <= ALL_RANKS:
        raise LawError(f"ranks must be a part of {sorted(ALL_RANKS)} and not empty, got {sorted(mixer.ranks)}")
    unheard = sorted(mixer.needs - {"positions", "edges"})
    if unheard:
        raise LawError(f"needs may name positions and edges, got {unheard}")
    growth(mixer.cost, 64)
    if not frozenset(case.causal) <= mixer.causal:  # a recurrence is causal whether it was asked to be or not
        raise LawError(f"asked to be causal along {sorted(case.causal)}, .causal says {sorted(mixer.causal)}")
    return f"cost {mixer.cost}"


def law_builds(case: Case) -> str:
    """Defaults build at any width, and equal seeds give equal weights."""
    dims = (DIM,) if case.options else (16, 24, 30)
    for dim in dims:
        a, b = case.build(dim), case.build(dim)
        for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
            if not torch.equal(p, q):
                raise LawError(f"built twice at dim {dim} with one seed, {name} differs")
        x, layout = whole(case, dim, seed=0)
        if a(x, layout).shape != x.shape:
            raise LawError(f"at dim {dim} the output has shape {tuple(a(x, layout).shape)}, not {tuple(x.shape)}")
    return f"dims {', '.join(map(str, dims))}"


def law_finite(case: Case) -> str:
    """Output and gradients are finite from one token upwards, and every parameter takes part."""
    mixer = case.build(DIM)
    for axes in case.shapes:
        x, layout = whole(case, DIM, seed=1, axes=axes)
        y, grads = gradients(mixer, x, layout)
        finite(f"output on axes {axes}", y)
        finite(f"gradients on axes {axes}", *grads)
    idle = [n for (n, _), g in zip(mixer.named_parameters(), grads[1:], strict=True) if not bool(g.any())]
    if idle:
        raise LawError(f"parameters without any gradient: {', '.join(idle)}")
    return f"axes {case.shapes}"


def law_masked_tokens(case: Case) -> str:
    """What stands at masked tokens (NaN included) changes neither the real outputs nor any gradient."""
    mixer = case.build(DIM)
    results = []
    for fill in (0.0, 1e3, float("nan")):
        x, layout = padded(case, DIM, seed=2, fill=fill, holes=True)
        real = real_tokens(x, layout)
        y, grads = gradients(mixer, x, layout, only=real)
        finite(f"output with {fill} at masked tokens", y[real])
        finite(f"gradients with {fill} at masked tokens", *grads)
        if bool(grads[0][~real].any()):
            raise LawError("the gradient of masked tokens is not zero")
        results.append((y[real], grads))
    for y, grads in results[1:]:
        said = same("outputs at real tokens", y, results[0][0])
        for g, h in zip(grads, results[0][1], strict=True):
            same("gradients", g, h)
    x, layout = whole(case, DIM, seed=2)
    empty = replace(layout, mask=torch.zeros(x.shape[:2], dtype=torch.bool))
    finite("output of an item without any real token", mixer(x, empty))
    return said


def law_full_mask(case: Case) -> str:
    """A mask of only real tokens is the same as none."""
    mixer = case.build(DIM)
    x, layout = whole(case, DIM, seed=3)
    full = replace(layout, mask=torch.ones(x.shape[:2], dtype=torch.bool))
    return same("full mask against none", mixer(x, full), mixer(x, layout))


def law_ragged(case: Case) -> str:
    """An item padded into a batch of larger ones gives the same as alone."""
    mixer = case.build(DIM)
    samples = make_samples(case, DIM, seed=4)
    x, layout = collate(case, samples, axes=case.frame, fill=float("nan"))
    y, real, said = mixer(x, layout), real_tokens(x, layout), ""
    for i, sample in enumerate(samples):
        alone = mixer(*collate(case, [sample], axes=sample.axes, masked=False))
        said = same(f"item of axes {sample.axes} in a batch of {case.frame}", y[i][real[i]], alone[0])
    return said


def law_batch(case: Case) -> str:
    """The other items of a batch do not matter."""
    mixer = case.build(DIM)
    samples = make_samples(case, DIM, seed=5, extents=[case.frame] * 3)
    y = mixer(*collate(case, samples, axes=case.frame, masked=False))
    alone = mixer(*collate(case, samples[1:2], axes=case.frame, masked=False))
    return same("batch of three against one", y[1], alone[0])


def law_causal(case: Case) -> str:
    """A causal mixer never sees the future along a causal axis."""
    if not case.causal:
        return ""
    mixer, said = case.build(DIM), ""
    axes = case.frame
    for axis in case.causal:
        for now in {0, axes[axis] // 2, axes[axis] - 2}:
            x, layout = whole(case, DIM, seed=6, axes=axes)
            index = torch.arange(axes[axis]).reshape(-1, *(1,) * (len(axes) - axis - 1)).expand(axes).flatten()
            later = (index > now)[None, :, None]
            positions = layout.positions
            assert positions is not None
            moved = Layout(axes, layout.ordered, None, torch.where(later, positions + 1.0, positions))
            layout = Layout(axes, layout.ordered, None, positions)
            y, z = mixer(x, layout), mixer(torch.where(later, 10 * torch.randn_like(x), x), moved)
            said = same(
                f"outputs up to {now} along causal axis {axis}, another future", y[:, index <= now], z[:, index <= now]
            )
    return said


def law_permutation(case: Case) -> str:
    """On a set, permuted tokens give permuted outputs."""
    if case.ordered:
        return ""
    mixer = case.build(DIM)
    (sample,) = make_samples(case, DIM, seed=7, extents=[case.frame])
    order = torch.randperm(len(sample.x), generator=torch.Generator().manual_seed(0))
    edges = torch.argsort(order)[sample.edges]
    moved = Sample(sample.x[order], sample.axes, sample.positions[order], edges, sample.edge_attr)
    y = mixer(*collate(case, [sample], axes=sample.axes, masked=False))
    z = mixer(*collate(case, [moved], axes=sample.axes, masked=False))
    return same("permuted against plain", z[0], y[0][order])


def law_modes(case: Case) -> str:
    """A state mixer: parallel = chunk = recurrent, and pieces that hand the state on equal the whole."""
    mixer = case.build(DIM)
    if not isinstance(mixer, StateMixer) or not mixer.causal:
        return ""
    axes = LONG[case.rank]
    x, layout = whole(case, DIM, seed=8, axes=axes)
    mask = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(3)) > 0.2
    for real in (None, mask):
        layout = replace(layout, mask=real)
        keep = real_tokens(x, layout)
        y = mixer(x, layout, mode="parallel")[keep]
        said = same("chunk against parallel", mixer(x, layout, mode="chunk")[keep], y)
        same("recurrent against parallel", mixer(x, layout, mode="recurrent")[keep], y)
    if case.rank == 1:
        y, state, parts = mixer(x, Layout(axes)), mixer.init_state(len(x)), []
        for piece in x.split([50, 1, x.shape[1] - 51], 1):
            out, state = mixer.stream(piece, state)
            parts.append(out)
        same("streamed pieces against the whole", torch.cat(parts, 1), y)
        numbers = sum(t[0].numel() for t in state.values())
        if numbers != mixer.state_size(x.shape[1]):
            raise LawError(f"state_size says {mixer.state_size(x.shape[1])}, the state holds {numbers} numbers an item")
        state, parts = mixer.init_state(len(x)), []
        for x_t in x.unbind(1):
            out, state = mixer.step(x_t, state)
            parts.append(out)
        same("single steps against the whole", torch.stack(parts, 1), y)
    return said


def _grown(case: Case, count: Callable[[Mixer, Tensor, Layout], int]) -> tuple[float, float]:
    """Measured growth of a count when the last axis doubles, and what ``cost`` says."""
    mixer = case.build(DIM, dtype=torch.float32)
    axes = LARGE[case.rank]
    twice = (*axes[:-1], 2 * axes[-1])
    counts = []
    for size in (axes, twice):
        counts.append(count(mixer, *single_precision(*whole(case, DIM, seed=9, axes=size, batch=1))))
    n = int(torch.tensor(axes).prod())
    return (counts[1] / counts[0] if counts[0] else 0.0), growth(mixer.cost, n, DIM)


def law_flops(case: Case) -> str:
    """Counted floating-point operations grow with N as ``cost`` says."""

    def count(mixer: Mixer, x: Tensor, layout: Layout) -> int:
        return flops_of(lambda: mixer(x, layout))

    measured, claimed = _grown(case, count)
    if measured == 0 and claimed <= 2 * SLACK:
        return "nothing is counted"
    # a claim too high is wrong as well, but on a lattice the rounding of windows may hide part of the growth
    low = claimed / SLACK if case.rank == 1 else 0.0
    if not low <= measured <= claimed * SLACK:
        raise LawError(
            f"twice the tokens cost {measured:.2f} times the FLOPs, {case.build(DIM).cost} says {claimed:.2f}"
        )
    return f"FLOPs x {measured:.2f}, claimed {claimed:.2f}"


def law_backward(case: Case) -> str:
    """Elements written during backward grow no faster than ``cost`` says."""

    def count(mixer: Mixer, x: Tensor, layout: Layout) -> int:
        x = x.requires_grad_()
        return elements_written_in_backward(lambda: (mixer(x, layout) + x).sum())

    measured, claimed = _grown(case, count)
    if measured > max(2.0, claimed) * SLACK:
        raise LawError(
            f"twice the tokens write {measured:.2f} times the elements in backward, {case.build(DIM).cost} says "
            f"{claimed:.2f}: loop over x.unbind() or x.split(), never over x[:, i]"
        )
    return f"elements x {measured:.2f}, claimed {claimed:.2f}"


def law_bf16(case: Case) -> str:
    """Under bf16 autocast outputs and gradients are finite and within 5 % of float32."""
    mixer = case.build(DIM, dtype=torch.float32)
    x, layout = single_precision(*whole(case, DIM, seed=10))
    exact = mixer(x, layout)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, grads = gradients(mixer, x, layout)
    finite("bf16 output", y)
    finite("bf16 gradients", *grads)
    error = float((y.float() - exact.detach()).norm() / exact.detach().norm().clamp_min(1e-6))
    if error > 0.05:
        raise LawError(f"bf16 differs from float32 by {error:.1%}, allowed are 5 %")
    return f"bf16 error {error:.2%}"


def law_export(case: Case) -> str:
    """``torch.export`` with dynamic sizes equals eager at sizes that were not traced, under a mask where it can."""
    mixer = case.build(DIM, dtype=torch.float32)
    # a trace takes seconds: one plain case, on two axes where it can be, and one causal
    plain = 2 if 2 in mixer.ranks else min(mixer.ranks)
    if not case.ordered or case.rank != (min(mixer.ranks) if case.causal else plain):
        return ""
    traced, other = TRACED[case.rank]
    program = export_on_lattice(mixer, *_example(case, traced, seed=11, masked=mixer.exports_mask)).module()
    for axes in (traced, other):
        x, layout = _example(case, axes, seed=12, masked=mixer.exports_mask)
        real = real_tokens(x, layout)
        lattice, tensors = lattice_inputs(x, layout)
        with torch.no_grad():  # else every loop operator is traced again, forwards and backwards, in each call
            said = same(f"exported on axes {axes}", program(lattice, **tensors)[real], mixer(x, layout)[real], 1e-5)
    return said


def _example(case: Case, axes: tuple[int, ...], seed: int, masked: bool) -> tuple[Tensor, Layout]:
    samples = make_samples(case, DIM, seed=seed, extents=[axes, axes])
    x, layout = collate(case, samples, axes=axes, holes=masked, masked=masked)
    return single_precision(x, layout)


def law_state_dict(case: Case) -> str:
    """Weights alone make another instance the same."""
    a, b = case.build(DIM, seed=0), case.build(DIM, seed=1)
    b.load_state_dict(a.state_dict())
    x, layout = whole(case, DIM, seed=13)
    return same("reloaded against original", b(x, layout), a(x, layout), 0.0)


def law_deterministic(case: Case) -> str:
    """Two calls in evaluation mode give the same numbers, bit for bit."""
    mixer = case.build(DIM)
    x, layout = whole(case, DIM, seed=14)
    return same("second call against first", mixer(x, layout), mixer(x, layout), 0.0)


def _refuses(what: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except BadRequest:
        return
    raise LawError(f"{what} is not refused with BadRequest")


def law_refusals(case: Case) -> str:
    """What the facts do not allow is refused with BadRequest, at build time and in forward."""
    mixer, given = case.build(DIM), dict(case.options)
    for rank in sorted(ALL_RANKS - mixer.ranks):
        _refuses(f"a build for rank {rank}", lambda rank=rank: build_mixer(case.mixer, DIM, rank=rank, **given))  # type: ignore[misc]
    for rank in sorted(ALL_RANKS - ({mixer.rank} if mixer.rank else mixer.ranks)):
        shape = Layout((2,) * rank, positions=torch.rand(1, 2**rank, 1), edges=torch.zeros(2, 1, dtype=torch.long))
        x = torch.randn(1, 2**rank, DIM, dtype=torch.float64)
        _refuses(f"a lattice of rank {rank}", lambda x=x, shape=shape: mixer(x, shape))  # type: ignore[misc]
    for axis in sorted({0, 1, 2} - mixer.causal_axes):
        _refuses(f"a causal axis {axis}", lambda a=axis: build_mixer(case.mixer, DIM, causal_axes=(a,), **given))  # type: ignore[misc]
    x, layout = whole(case, DIM, seed=15)
    for need in sorted(mixer.needs):
        bare = replace(layout, **{need: None})  # type: ignore[arg-type]
        _refuses(f"a layout without {need}", lambda bare=bare: mixer(x, bare))  # type: ignore[misc]
        _refuses(f"a build without {need}", lambda: build_mixer(case.mixer, DIM, rank=case.rank, provides=(), **given))
    if not mixer.sets:
        _refuses("an unordered set", lambda: mixer(x, replace(layout, ordered=False)))
    _refuses("an unknown option", lambda: build_mixer(case.mixer, DIM, no_such_option=1, **given))
    return "refused"


LAWS: dict[str, Callable[[Case], str]] = {
    "facts": law_facts,
    "builds": law_builds,
    "finite": law_finite,
    "masked tokens": law_masked_tokens,
    "full mask": law_full_mask,
    "ragged = single": law_ragged,
    "batch": law_batch,
    "causal": law_causal,
    "permutation": law_permutation,
    "modes": law_modes,
    "flops": law_flops,
    "backward": law_backward,
    "bf16": law_bf16,
    "export": law_export,
    "state_dict": law_state_dict,
    "deterministic": law_deterministic,
    "refusals": law_refusals,
}
