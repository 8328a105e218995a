"""check_mixer finds out what it is there to find out, and says so in numbers."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from shared_backbones.cases import LawError
from shared_backbones.checks import check_law, check_mixer
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.mixers.base import Mixer, StateMixer
from shared_backbones.mixers.linear import Linear


class Good(Mixer):
    """y = W (mean of the real tokens), a correct mixer of one's own; the broken ones below differ in one line."""

    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N d^2)"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def mean(self, x: Tensor, layout: Layout) -> Tensor:
        return layout.clean(x).sum(1, keepdim=True) / layout.counts(x)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        self.check(layout)
        return self.linear(layout.clean(x) - self.mean(x, layout))


class CountsPadding(Good):
    def mean(self, x: Tensor, layout: Layout) -> Tensor:
        return layout.clean(x).mean(1, keepdim=True)


class ReadsMasked(Good):
    def mean(self, x: Tensor, layout: Layout) -> Tensor:
        return x.mean(1, keepdim=True)


class MultipliesNan(Good):
    """0 * NaN is NaN: a mask by multiplication lets NaN through."""

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        self.check(layout)
        real = x.new_ones(x.shape[:2]) if layout.mask is None else layout.mask.to(x.dtype)
        return self.linear(x - (x * real[..., None]).sum(1, keepdim=True) / layout.counts(x))


class MixesBatch(Good):
    def mean(self, x: Tensor, layout: Layout) -> Tensor:
        return super().mean(x, layout).mean(0, keepdim=True)


class UsesOrder(Good):
    def mean(self, x: Tensor, layout: Layout) -> Tensor:
        return layout.clean(x)[:, :1]


class WrongCost(Good):
    cost: ClassVar[str] = "O(N^2 d)"


class NonsenseCost(Good):
    cost: ClassVar[str] = "linear"


class Unchecked(Good):
    ranks: ClassVar[frozenset[int]] = frozenset({1})

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.linear(layout.clean(x) - self.mean(x, layout))


class Noisy(Good):
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x), layout)


class Fixed(Good):
    """Specialises on the traced size."""

    def mean(self, x: Tensor, layout: Layout) -> Tensor:
        return layout.clean(x).sum(1, keepdim=True) / layout.counts(x) * (1 + 0 * int(x.shape[1]))


class IdleWeights(Good):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.unused = nn.Parameter(torch.ones(dim))


class Overflows(Good):
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return super().forward(x, layout) / (x.shape[1] - 1)


class NoDefaults(Good):
    def __init__(self, dim: int, heads: int = 8) -> None:
        super().__init__(dim)
        if dim % heads:
            raise BadRequest("heads must divide dim")


class HiddenBuffer(Good):
    """Its random part is not in the state_dict."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("noise", torch.randn(dim), persistent=False)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return super().forward(x, layout) + self.noise


class SeesFuture(Good):
    sets: ClassVar[bool] = False
    causal_axes: ClassVar[frozenset[int]] = frozenset({0})

    def __init__(self, dim: int, causal_axes: tuple[int, ...] = ()) -> None:
        super().__init__(dim)
        self.causal = frozenset(causal_axes)


class Quadratic(Good):
    """Compares all pairs while it claims linear cost."""

    def mean(self, x: Tensor, layout: Layout) -> Tensor:
        x = layout.clean(x)
        return (x @ x.mT) @ x / layout.counts(x) ** 2


class IndexingLoop(Good):
    """A block loop that indexes a stacked tensor: autograd writes one full-size gradient per block."""

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        self.check(layout)
        x = layout.clean(x)
        return self.linear(torch.cat([x[:, i : i + 8] for i in range(0, x.shape[1], 8)], 1))


class Forgetful(Linear):
    """Its chunk form drops the state between blocks."""

    sets: ClassVar[bool] = False

    def scan(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor, block: int, frame: int) -> tuple[Tensor, Tensor]:
        parts = [
            super(Forgetful, self).scan(q_c, k_c, v_c, torch.zeros_like(state), block, frame)
            for q_c, k_c, v_c in zip(q.split(block, 2), k.split(block, 2), v.split(block, 2), strict=True)
        ]
        return torch.cat([y for y, _ in parts], 2), parts[-1][1]


class WrongStateSize(Linear):
    def state_size(self, n: int) -> int:
        return 1


BROKEN: list[tuple[str, type[Mixer]]] = [
    ("ragged = single", CountsPadding),
    ("masked tokens", ReadsMasked),
    ("masked tokens", MultipliesNan),
    ("batch", MixesBatch),
    ("permutation", UsesOrder),
    ("flops", WrongCost),
    ("facts", NonsenseCost),
    ("refusals", Unchecked),
    ("deterministic", Noisy),
    ("export", Fixed),
    ("finite", IdleWeights),
    ("finite", Overflows),
    ("builds", NoDefaults),
    ("state_dict", HiddenBuffer),
    ("causal", SeesFuture),
    ("flops", Quadratic),
    ("backward", IndexingLoop),
    ("modes", Forgetful),
    ("modes", WrongStateSize),
]


def test_a_correct_mixer_of_ones_own_passes() -> None:
    found = check_mixer(Good)
    assert found["flops"]["Good on rank 1"] == "FLOPs x 2.00, claimed 2.00"
    assert "Good on a set" in found["permutation"]


@pytest.mark.parametrize(("law", "mixer"), BROKEN, ids=[m.__name__ for _, m in BROKEN])
def test_a_broken_mixer_is_refused_by_its_law(law: str, mixer: type[Mixer]) -> None:
    with pytest.raises(LawError, match=f"{mixer.__name__} .*{law}"):
        check_law(law, mixer)


def test_the_error_lists_every_broken_law_with_numbers() -> None:
    with pytest.raises(LawError) as caught:
        check_mixer(Quadratic, laws=["flops", "backward", "finite"])
    assert "'flops'" in str(caught.value)
    assert "'backward'" in str(caught.value)
    assert "3." in str(caught.value)


def test_options_narrow_the_cases() -> None:
    found = check_mixer("linear", laws=["modes"], decay=True)
    assert list(found["modes"]) == [
        f"linear on rank {r}, causal along 0, decay=True" for r in (1, 2, 3)
    ]  # decay needs a causal axis


@pytest.mark.parametrize("options", [{"heads": 5}, {"heads": 0}, {"no_such": 1}])
def test_impossible_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        check_mixer("attention", **options)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(BadRequest, match="attention"):
        check_mixer("atention")


def test_state_mixer_is_told_from_a_plain_one() -> None:
    assert issubclass(Forgetful, StateMixer)
    assert check_law("modes", Good) == {}
