"""The tiling core: exact identity, no holes, whole-image results, bounded memory, and MONAI as an oracle."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from domains.tiling import BLENDS, Plan, Tile, map_tiles, plan, shares, stream, window
from shared_backbones.errors import BadRequest

Job = dict[str, Any]


@st.composite
def jobs(draw: st.DrawFn, max_rank: int = 3) -> Job:
    """A lattice of 1..140 per axis (smaller in volumes, to stay fast) and any tile, stride and halo for it."""
    rank = draw(st.integers(1, max_rank))
    top = {1: 140, 2: 140, 3: 40}[rank]
    shape = [draw(st.integers(1, top)) for _ in range(rank)]
    # tiles of at least a tenth of the axis keep the number of tiles down
    tile = [draw(st.integers(max(1, n // 10), 2 * n)) for n in shape]
    stride = [draw(st.integers(max(1, t // 4), t)) for t in tile]
    halo = [draw(st.integers(0, 20)) for _ in shape]
    return {"shape": shape, "tile": tile, "stride": stride, "halo": halo}


def run(x: Tensor, apply: Callable[[Tensor], Tensor], job: Job, blend: str = "constant") -> Tensor:
    options = {name: job[name] for name in ("tile", "stride", "halo")}
    return map_tiles(x, apply, blend=blend, **options)


def values(shape: list[int], channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(channels, *shape, generator=generator)


# --- the plan


@given(jobs())
def test_tiles_are_in_bounds_cover_everything_and_read_their_halo(job: Job) -> None:
    tiles = plan(**job)
    for axis, spans in enumerate(tiles.axes):
        size, tile, halo = job["shape"][axis], job["tile"][axis], job["halo"][axis]
        covered = torch.zeros(size, dtype=torch.int64)
        for span in spans:
            assert 0 <= span.read_start <= span.start < span.stop <= span.read_stop <= size
            assert span.read_start <= max(span.start - halo, 0)
            assert span.read_stop == min(span.stop + halo, size)
            assert span.stop - span.start <= tile
            covered[span.core] += 1
        assert covered.min() >= 1, "a hole"
        if job["stride"][axis] == tile:
            assert covered.max() == 1, "no overlap was asked for"
        assert [s.start for s in spans] == sorted({s.start for s in spans}), "in order, none twice"


@given(jobs())
def test_every_window_has_the_full_size_where_the_lattice_allows(job: Job) -> None:
    no_halo = plan(job["shape"], job["tile"], job["stride"])
    for tile in itertools.islice(no_halo, 50):
        sizes = tuple(s.stop - s.start for s in tile.read)
        assert sizes == tuple(min(n, t) for n, t in zip(job["shape"], job["tile"], strict=True))


def test_a_plan_is_row_major_and_knows_its_length() -> None:
    tiles = plan((5, 4), (2, 3), halo=1)
    assert len(tiles) == len(list(tiles)) == 6
    first, *_, last = tiles
    assert first.core == (slice(0, 2), slice(0, 3))
    assert first.read == (slice(0, 3), slice(0, 4))
    assert last.core == (slice(4, 5), slice(3, 4))
    assert last.read == (slice(2, 5), slice(0, 4))
    assert last.inner == (slice(2, 3), slice(3, 4))
    assert last.shape == (1, 1)
    assert not tiles.overlapping
    assert plan((5, 4), 3, 2).overlapping


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (), "tile": 4}, "at least one axis"),
        ({"shape": (8, 0), "tile": 4}, "each at least 1"),
        ({"shape": (8, 8), "tile": 0}, "tile must be at least 1 on every axis, got 0"),
        ({"shape": (8, 8), "tile": (4, 4, 4)}, "lattice with 2 axes"),
        ({"shape": (8, 8), "tile": 4, "stride": (4, 5)}, "stride 5 on axis 1 would leave holes: allowed are 1 to"),
        ({"shape": (8, 8), "tile": 4, "stride": 0}, "stride must be at least 1"),
        ({"shape": (8, 8), "tile": 4, "halo": -1}, "halo must be at least 0"),
    ],
)
def test_an_impossible_plan_is_refused_with_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        plan(**options)


def test_an_unknown_blend_names_the_nearest() -> None:
    with pytest.raises(BadRequest, match="did you mean 'gaussian'"):
        map_tiles(values([4]), nn.Identity(), tile=2, stride=1, blend="gausian")


# --- weights


@pytest.mark.parametrize("blend", BLENDS)
@given(job=jobs(max_rank=1))
def test_shares_sum_to_one_everywhere(blend: str, job: Job) -> None:
    spans = plan(**job).axes[0]
    total = torch.zeros(job["shape"][0], dtype=torch.float64)
    for span, share in zip(spans, shares(spans, blend), strict=True):
        assert share.min() > 0
        total[span.core] += share
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-15)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_windows_are_positive_symmetric_and_highest_in_the_middle(blend: str, size: int) -> None:
    weight = window(blend, size)
    assert weight.min() > 0
    assert weight.max() <= 1
    torch.testing.assert_close(weight, weight.flip(0))
    assert torch.all(weight[: (size + 1) // 2].diff() >= 0)


# --- identity


@pytest.mark.parametrize("blend", BLENDS)
@settings(max_examples=60)
@given(job=jobs())
def test_a_pointwise_network_is_reproduced_bit_for_bit(blend: str, job: Job) -> None:
    x = values(job["shape"], channels=2)
    assert torch.equal(run(x, lambda t: 3 * t.tanh()[:1] - 1, job, blend), 3 * x.tanh()[:1] - 1)


def test_the_sizes_that_other_tilers_lose() -> None:
    """Every size 1..140 with crop = stride, crop 64 / stride 63 and 48: the draws on which a public tiler fails."""
    for size in range(1, 141):
        x = values([size, 3])
        for stride in (64, 63, 48):
            assert torch.equal(map_tiles(x, nn.Identity(), tile=(64, 2), stride=(stride, 1)), x)


def test_the_input_is_left_alone_by_a_network_that_returns_a_view() -> None:
    x = values([50, 20])
    before = x.clone()
    assert torch.equal(map_tiles(x, lambda t: t, tile=16, stride=5, halo=2, blend="hann"), before)
    assert torch.equal(x, before)


def test_infinite_scores_and_missing_values_pass_through_overlaps() -> None:
    x = values([40, 40])
    x[0, 5], x[0, 9, 3], x[0, 20, 7] = -math.inf, math.inf, math.nan
    torch.testing.assert_close(map_tiles(x, nn.Identity(), tile=16, stride=5), x, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float16, torch.complex64])
def test_without_overlap_any_type_passes_through(dtype: torch.dtype) -> None:
    x = torch.arange(2 * 33 * 7).reshape(2, 33, 7).to(dtype)
    y = map_tiles(x, nn.Identity(), tile=(8, 3), halo=2)
    assert y.dtype == dtype
    assert torch.equal(y, x)


def test_averaging_class_ids_is_refused() -> None:
    with pytest.raises(BadRequest, match="means nothing for torch"):
        map_tiles(torch.zeros(1, 9, dtype=torch.uint8), nn.Identity(), tile=4, stride=2)


def test_half_precision_is_averaged_in_single() -> None:
    x = values([100]).half()
    y = map_tiles(x, nn.Identity(), tile=16, stride=4, blend="gaussian")
    assert y.dtype == torch.float32
    assert torch.equal(y.half(), x)


# --- the average against its definition


@pytest.mark.parametrize("blend", BLENDS)
@settings(max_examples=40)
@given(job=jobs(max_rank=2))
def test_overlaps_hold_the_weighted_mean_of_what_each_tile_said(blend: str, job: Job) -> None:
    """Each tile answers with a number of its own; the reference sums weight x number over weight, without tricks."""
    counter = itertools.count(1)
    got = run(torch.zeros(1, *job["shape"], dtype=torch.float64), lambda t: t + math.sin(next(counter)), job, blend)
    top, bottom = torch.zeros(job["shape"], dtype=torch.float64), torch.zeros(job["shape"], dtype=torch.float64)
    for number, tile in enumerate(plan(**job), start=1):
        weight = torch.ones((), dtype=torch.float64)
        for n in tile.shape:
            weight = weight[..., None] * window(blend, n)
        top[tile.core] += weight * math.sin(number)
        bottom[tile.core] += weight
    torch.testing.assert_close(got[0], top / bottom, rtol=1e-12, atol=1e-12)


# --- the halo


@settings(max_examples=60)
@given(job=jobs(), radius=st.integers(0, 4))
def test_a_convolution_within_the_halo_equals_the_whole_image(job: Job, radius: int) -> None:
    """Whole numbers make the comparison exact. The zero padding of the network acts at the lattice's border only."""
    job = {**job, "halo": [h + radius for h in job["halo"]]}
    rank = len(job["shape"])
    generator = torch.Generator().manual_seed(radius)
    x = torch.randint(-9, 9, (2, *job["shape"]), generator=generator).double()
    kernel = torch.randint(-3, 3, (3, 2, *[2 * radius + 1] * rank), generator=generator).double()
    convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]

    def network(t: Tensor) -> Tensor:
        return convolve(t[None], kernel, padding=radius)[0]

    assert torch.equal(run(x, network, job), network(x))


def test_too_small_a_halo_shows() -> None:
    """The test above can fail: with one element of context missing the seams differ."""
    x = torch.ones(1, 64)

    def network(t: Tensor) -> Tensor:
        return F.conv1d(t[None], torch.ones(1, 1, 5), padding=2)[0]

    assert torch.equal(map_tiles(x, network, tile=16, halo=2), network(x))
    assert not torch.equal(map_tiles(x, network, tile=16, halo=1), network(x))


# --- the stream


@pytest.mark.parametrize("blend", BLENDS)
@settings(max_examples=15)
@given(job=jobs(max_rank=2), at=st.floats(0, 1))
def test_a_job_goes_on_bit_for_bit_where_it_stopped(blend: str, job: Job, at: float) -> None:
    x = values(job["shape"])
    read = torch.zeros(x.shape[1], dtype=torch.bool)

    def slabs(done: int) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}

        def reader(where: tuple[slice, ...]) -> Tensor:
            read[where[0]] = True
            return x[(slice(None), *where)]

        def network(t: Tensor) -> Tensor:  # whatever depends on the tile: overlaps do not agree
            return t * t.mean()

        def write(where: tuple[slice, ...], slab: Tensor) -> None:
            found[where[0].start] = slab.clone()

        stream(reader, network, write, blend=blend, done=done, **job)
        return found

    whole = slabs(0)
    starts = [*whole, x.shape[1]]
    done = starts[round(at * (len(starts) - 1))]
    read.fill_(value=False)
    rest = slabs(done)
    assert list(rest) == [s for s in whole if s >= done]
    assert all(torch.equal(slab, whole[start]) for start, slab in rest.items())
    before = done - max(job["tile"][0], 1) - job["halo"][0]
    assert not read[: max(0, min(before, x.shape[1] - 2 * job["tile"][0] - job["halo"][0]))].any()


def test_slabs_leave_in_order_whole_and_once() -> None:
    seen: list[tuple[slice, ...]] = []
    progress: list[tuple[int, int]] = []
    x = values([45, 31])
    out = torch.full_like(x, math.nan)

    def write(where: tuple[slice, ...], slab: Tensor) -> None:
        seen.append(where)
        assert slab.shape == (1, where[0].stop - where[0].start, 31)
        out[(slice(None), *where)] = slab

    done = stream(
        lambda where: x[(slice(None), *where)],
        nn.Identity(),
        write,
        shape=(45, 31),
        tile=12,
        stride=5,
        halo=3,
        progress=lambda k, n: progress.append((k, n)),
    )
    assert isinstance(done, Plan)
    assert torch.equal(out, x)
    assert all(where[1] == slice(0, 31) for where in seen)
    rows = [where[0] for where in seen]
    assert rows[0].start == 0
    assert rows[-1].stop == 45
    assert all(a.stop == b.start for a, b in itertools.pairwise(rows))
    assert progress == [(k + 1, len(done)) for k in range(len(done))]


def test_a_damaged_block_becomes_missing_and_is_reported() -> None:
    x = values([40, 40])
    reported: list[tuple[slice, ...]] = []

    def read(where: tuple[slice, ...]) -> Tensor:
        if where[0].start <= 21 < where[0].stop and where[1].start <= 5 < where[1].stop:
            raise OSError("block 21, 5 cannot be decoded")
        return x[(slice(None), *where)]

    def missing(tile: Tile, error: Exception) -> Tensor:
        assert "cannot be decoded" in str(error)
        reported.append(tile.core)
        return torch.full((1, *tile.shape), math.nan)

    out = torch.zeros_like(x)

    def write(where: tuple[slice, ...], slab: Tensor) -> None:
        out[(slice(None), *where)] = slab

    stream(read, nn.Identity(), write, shape=(40, 40), tile=10, on_error=missing)
    assert reported == [(slice(20, 30), slice(0, 10))]
    assert out[0, 20:30, :10].isnan().all()
    assert torch.equal(out.nan_to_num(7.0).eq(7.0), out.isnan())
    assert out.isnan().sum() == 100
    out.zero_()
    stream(read, nn.Identity(), write, shape=(40, 40), tile=10, stride=5, on_error=missing)
    assert out[0, 20:30, :10].isnan().all()
    assert not out[0, :10].isnan().any()
    with pytest.raises(OSError, match="cannot be decoded"):
        stream(read, nn.Identity(), write, shape=(40, 40), tile=10)


def test_a_network_that_changes_the_size_is_a_mistake_in_the_code() -> None:
    with pytest.raises(ValueError, match=r"must keep the spatial size \(4,\), got \(2,\)"):
        map_tiles(values([9]), lambda t: t[:, ::2], tile=4)


def peak_elements(rows: int) -> tuple[int, int]:
    """Elements alive at the worst moment while (4, rows, 300) float32 scores are streamed, from torch's own records.

    Also the size of one row of tiles in elements.
    """
    tile, width, channels = 32, 300, 4
    source = torch.zeros(1, 1, 1)

    def apply(seen: Tensor) -> Tensor:
        return seen.expand(channels, *seen.shape[1:])

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        stream(
            lambda where: source.expand(1, *(s.stop - s.start for s in where)),
            apply,
            lambda *_: None,
            shape=(rows, width),
            tile=tile,
            stride=tile // 2,
            halo=4,
            blend="gaussian",
        )
    alive = peak = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak // 4, tile * width * channels


def test_memory_is_two_rows_of_tiles_whatever_the_length() -> None:
    short, row = peak_elements(rows=100)
    long, _ = peak_elements(rows=1600)
    assert row < short <= 2.2 * row
    assert long <= short * 1.01 + 16 * 1600  # plus the plan's weights, 2 float64 numbers per tile element of axis 0


# --- the oracle: MONAI's sliding window


class Oracle:
    """``sliding_window_inference`` over one item without its batch axis. It has no halo, so ours is 0 here."""

    def __init__(self) -> None:
        from monai.inferers.utils import sliding_window_inference

        self._infer = sliding_window_inference

    def __call__(self, x: Tensor, network: nn.Module, tile: list[int], overlap: list[float], **options: Any) -> Tensor:
        out = self._infer(x[None], tile, 1, network, overlap=overlap, **options)
        assert isinstance(out, Tensor)
        return out[0]


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI and what it imports warn about their own futures
        return Oracle()


def draw(index: int) -> tuple[Tensor, nn.Module, list[int], list[int], list[float]]:
    """A random image, 3 x 3 network, tile and stride; the lattice is at least as large as the tile.

    MONAI pads a smaller lattice up to the tile; we never pad and give the network the smaller window.
    """
    g = torch.Generator().manual_seed(index)
    rank = 1 + index % 3
    top = (140, 70, 24)[rank - 1]
    shape = torch.randint(8, top + 1, (rank,), generator=g).tolist()
    tile = [int(torch.randint(4, n + 1, (1,), generator=g)) for n in shape]
    # MONAI takes the stride as int(tile * (1 - overlap)): these overlaps give back the whole number
    stride = [int(torch.randint(max(1, t // 2), t + 1, (1,), generator=g)) for t in tile]
    overlap = [max(0.0, 1 - (s + 0.5) / t) for s, t in zip(stride, tile, strict=True)]
    x = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    torch.manual_seed(index)
    network = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1](2, 3, 3, padding=1).double()
    return x, network, tile, stride, overlap


def weight_map(blend: str, tile: list[int]) -> Tensor:
    weight = torch.ones((), dtype=torch.float64)
    for n in tile:
        weight = weight[..., None] * window(blend, n)
    return weight


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("index", range(60))
def test_equals_monai(oracle: Oracle, index: int) -> None:
    """60 draws over ranks 1 to 3.

    Where the definitions agree they are compared directly: "constant" on every rank, "gaussian" on one axis. On more
    axes MONAI raises the product of the factors to a floor of 1e-3 and we each factor, so there it is given our map.
    A stride equal to the tile is another definition too: MONAI averages its last, moved tile with the one before it,
    we give every element one tile. So without overlap only axes that the tile divides are compared.
    """
    x, network, tile, stride, overlap = draw(index)
    for axis, (t, s) in enumerate(zip(tile, stride, strict=True)):
        if t == s:
            x = x.narrow(axis + 1, 0, x.shape[axis + 1] // t * t)
    with torch.no_grad():

        def apply(t: Tensor) -> Tensor:
            return network(t[None])[0]

        for blend in ("constant", "gaussian"):
            own = {"roi_weight_map": weight_map(blend, tile)} if blend == "gaussian" and len(tile) > 1 else {}
            expected = oracle(x, network, tile, overlap, mode=blend, **own)
            got = map_tiles(x, apply, tile=tile, stride=stride, blend=blend)
            # MONAI keeps its gaussian and its counts in float32
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
