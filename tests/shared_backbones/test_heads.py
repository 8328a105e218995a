"""Class heads: what their options mean (masks: test_assemble)."""

from __future__ import annotations

import torch

from shared_backbones.heads import ClassHead
from shared_backbones.layout import Layout


def test_several_classifiers_give_their_mean() -> None:
    torch.manual_seed(0)
    head, x = ClassHead(4, 3, classifiers=2), torch.randn(2, 5, 4)
    first, second = head.scores.weight.split(3)
    want = x.mean(1) @ ((first + second) / 2).T + (head.scores.bias[:3] + head.scores.bias[3:]) / 2
    torch.testing.assert_close(head(x, Layout((5,))), want)
