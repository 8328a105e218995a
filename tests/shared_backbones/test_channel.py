"""Channel layers keep the laws, and each computes what its paper says."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, BackboneSpec, LayerSpec, StageSpec, Tokens
from shared_backbones.channel import CHANNELS, MLP, build_channel
from shared_backbones.channel.checks import CHANNEL_LAWS, check_channel
from shared_backbones.channel.elastic import extract, grow, set_widths
from shared_backbones.channel.experts import from_mlp, load_balance, recorded_routing, source_information
from shared_backbones.channel.sparse import expected_learners
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout

DIM = 12


def make(name: str, **options: object) -> tuple[nn.Module, Tensor, Layout]:
    torch.manual_seed(0)
    layer = build_channel(name, DIM, **options).double().eval()
    return layer, torch.randn(3, 10, DIM, dtype=torch.float64), Layout((10,))


@pytest.mark.parametrize("law", CHANNEL_LAWS)
@pytest.mark.parametrize("name", sorted(CHANNELS))
def test_laws(name: str, law: str) -> None:
    check_channel(name, [law])


def test_conv_ffn_by_hand() -> None:
    layer, x, layout = make("conv", rank=1, kernel=3)
    hidden, w = layer.up(x), layer.conv.conv
    want = torch.zeros_like(hidden)
    for i in range(10):
        for j, tap in zip((i - 1, i, i + 1), w.weight[:, 0].unbind(-1), strict=True):
            if 0 <= j < 10:
                want[:, i] += tap * hidden[:, j]
    torch.testing.assert_close(layer(x, layout), layer.down(F.gelu(want + w.bias)))


def test_eca_by_hand() -> None:
    layer, x, _ = make("eca")
    mask = torch.rand(3, 10) > 0.4
    mean = torch.stack([x[b][mask[b]].mean(0) for b in range(3)])
    k = layer.filter.weight[0, 0]
    assert len(k) == 3  # log2(12) = 3.6: the odd number nearest to 2.3
    padded = F.pad(mean, (1, 1))
    gate = sum(k[i] * padded[:, i : i + DIM] for i in range(3)).sigmoid()
    y = layer(x, Layout((10,), mask=mask))
    torch.testing.assert_close(y[mask], (x * gate[:, None])[mask])


def test_top_k_keeps_exactly_k() -> None:
    layer, x, layout = make("topk", share=0.25)
    hidden = F.relu(layer.up(x))
    want = torch.zeros_like(hidden)
    for b in range(3):
        for i in range(10):
            best = sorted(range(hidden.shape[-1]), key=lambda j: -hidden[b, i, j].item())[: layer.kept]
            want[b, i, best] = hidden[b, i, best]
    torch.testing.assert_close(layer(x, layout), layer.down(want))
    all_kept, x, layout = make("topk", share=1.0)
    torch.testing.assert_close(all_kept(x, layout), all_kept.down(F.relu(all_kept.up(x))))


def test_mixture_of_experts_by_hand() -> None:
    layer, x, layout = make("moe", experts=5, chosen=2)
    p, bank, y = layer.route(x, layout), layer.bank, layer(x, layout)
    for b in range(3):
        for i in range(10):
            want = torch.zeros(DIM, dtype=torch.float64)
            for e in p[b, i].topk(2).indices.tolist():
                out = bank.down[e] @ F.gelu(bank.up[e] @ x[b, i] + bank.up_bias[e]) + bank.down_bias[e]
                want += p[b, i, e] * out
            torch.testing.assert_close(y[b, i], want)


def test_mixture_of_experts_sparse_equals_dense_with_gradients() -> None:
    layer, x, layout = make("moe", experts=5, chosen=2)
    weights, chosen = layer.route(x, layout).flatten(0, 1).topk(2, dim=-1)
    dense = torch.zeros(30, 5, dtype=torch.float64).scatter(1, chosen, weights)
    found = []
    for y in (layer.bank(x.flatten(0, 1), chosen, weights), layer.bank.dense(x.flatten(0, 1), dense)):
        found.append((y, torch.autograd.grad(y.sin().sum(), list(layer.parameters()), retain_graph=True)))
    torch.testing.assert_close(found[0], found[1])


def test_each_source_has_its_router_over_shared_experts() -> None:
    layer, x, _ = make("moe", experts=4, sources=3)
    y = layer(x, Layout((10,), source=torch.tensor([2, 0, 2])))
    for b, s in enumerate([2, 0, 2]):
        torch.testing.assert_close(y[b : b + 1], layer(x[b : b + 1], Layout((10,), source=torch.tensor([s]))))
    assert (y[0] - layer(x, Layout((10,), source=torch.tensor([1, 0, 2])))[0]).abs().max() > 1e-3


def test_experts_by_source() -> None:
    mlp = MLP(DIM).double()
    layer = from_mlp(mlp.up, mlp.down, sources=3)
    _, x, layout = make("mlp")
    layout = Layout((10,), source=torch.tensor([2, 0, 1]))
    torch.testing.assert_close(layer(x, layout), mlp(x, layout))  # every expert starts as the trained MLP
    with torch.no_grad():
        layer.bank.down_bias[1] += 1.0
    torch.testing.assert_close(
        layer(x, layout) - mlp(x, layout), torch.tensor([0, 0, 1.0])[:, None, None].expand(3, 10, DIM).double()
    )


@pytest.mark.parametrize("name", ["moe", "experts"])
def test_sources_are_asked_for(name: str) -> None:
    layer, x, layout = make(name, sources=2)
    with pytest.raises(BadRequest, match=r"needs Layout\.source"):
        layer(x, layout)
    with pytest.raises(BadRequest, match=r"must lie in 0 \.\. 1"):
        layer(x, Layout((10,), source=torch.tensor([0, 2, 1])))


def test_sources_reach_the_experts_through_a_backbone() -> None:
    layers = (LayerSpec("over", {"axis": 1}, "experts", {"sources": 2}),) * 2
    net = Backbone(BackboneSpec((StageSpec(DIM, layers), StageSpec(DIM, layers, stride=2))), Tokens(rank=2)).eval()
    x, one = torch.randn(2, 16, DIM), torch.tensor([1])
    y, layout = net(x, Layout((4, 4), source=torch.tensor([0, 1])))
    assert layout.source is not None
    torch.testing.assert_close(y[1:], net(x[1:], Layout((4, 4), source=one))[0])


def test_load_balance_is_one_when_even_and_large_when_not() -> None:
    even = torch.eye(4).repeat(1, 5, 1)
    assert float(load_balance(even, Layout((20,)))) == pytest.approx(1.0)
    one = torch.zeros(1, 20, 4)
    one[..., 2] = 1.0
    assert float(load_balance(one, Layout((20,)))) == pytest.approx(4.0)
    mask = torch.arange(20)[None] < 10
    mixed = torch.where(mask[..., None], one, even)
    assert float(load_balance(mixed, Layout((20,), mask=mask))) == pytest.approx(4.0)


def test_source_information() -> None:
    source = torch.tensor([0, 1])
    own = torch.eye(2)[:, None].expand(2, 6, 2)
    assert float(source_information(own, Layout((6,), source=source), 2)) == pytest.approx(math.log(2))
    same = torch.full((2, 6, 2), 0.5)
    assert float(source_information(same, Layout((6,), source=source), 2)) == pytest.approx(0.0, abs=1e-6)


def test_routing_is_recorded_only_inside() -> None:
    layer, x, layout = make("moe")
    with recorded_routing(nn.Sequential(layer)) as found:
        layer(x, layout)
    layer(x, layout)
    assert len(found) == 1
    torch.testing.assert_close(found[0], layer.route(x, layout))


def test_nested_prefix_is_an_mlp_of_its_own() -> None:
    layer, x, layout = make("nested")
    mlp = extract(layer)
    torch.testing.assert_close(mlp(x, layout), layer(x, layout))
    set_widths(layer, 0.25)
    small = extract(layer)
    assert small.up.out_features == DIM
    torch.testing.assert_close(small(x, layout), layer(x, layout))
    want = F.gelu(x @ layer.up.weight[:DIM].T + layer.up.bias[:DIM]) @ layer.down.weight[:, :DIM].T + layer.down.bias
    torch.testing.assert_close(layer(x, layout), want)
    with pytest.raises(BadRequest, match="one for each of the 1"):
        set_widths(layer, 0.5, 0.5)
    with pytest.raises(BadRequest, match=r"\(0, 1\]"):
        set_widths(layer, 0.0)


def test_parameter_tokens_grow_without_changing_the_function() -> None:
    layer, x, layout = make("parameter_tokens")
    scores = x @ layer.keys.T
    want = F.gelu(scores / scores.norm(dim=-1, keepdim=True) * len(layer.keys) ** 0.5) @ layer.values
    before = layer(x, layout)
    torch.testing.assert_close(before, want)
    grow(layer, 7)
    torch.testing.assert_close(layer(x, layout), before)
    layer(x, layout).sum().backward()
    assert layer.keys.grad is not None
    assert layer.keys.grad[-7:].abs().max() > 0  # the new keys learn


def test_kan_by_hand() -> None:
    layer, x, layout = make("kan", places=4)

    def kan(part: nn.Module, u: Tensor) -> Tensor:
        u = F.layer_norm(u, (DIM,), part.norm.weight, part.norm.bias)
        y = torch.zeros(*u.shape[:-1], part.weight.out_features, dtype=torch.float64)
        for c in range(DIM):
            for g in range(4):
                phi = 1 - torch.tanh((u[..., c] - (-2 + 4 * g / 3)) / (4 / 3)) ** 2
                y += phi[..., None] * part.weight.weight[:, c * 4 + g]
        return y

    torch.testing.assert_close(layer(x, layout), kan(layer.down, kan(layer.up, x)), rtol=1e-6, atol=1e-6)


def test_adaptive_chain_runs_the_learners_that_the_gate_chose() -> None:
    layer, x, layout = make("adaptive", learners=3)
    k = layer.router(x).argmax(-1)
    assert len(k.unique()) > 2  # the test says something
    prefixes = torch.cat([torch.zeros_like(x)[None], layer.prefixes(x)])
    want = prefixes.gather(0, k[None, ..., None].expand(1, -1, -1, DIM))[0]
    torch.testing.assert_close(layer(x, layout), want)
    with torch.no_grad():  # each learner on its own tokens alone
        torch.testing.assert_close(layer(x, layout), want)
    p = layer.router(x).softmax(-1)
    torch.testing.assert_close(expected_learners(layer.router(x)), p[..., 1] + 2 * p[..., 2] + 3 * p[..., 3])


def test_adaptive_chain_draws_from_the_gate_while_training() -> None:
    layer, x, _ = make("adaptive", learners=1)
    layer.train()
    p = layer.router(x).softmax(-1)[..., 1].detach()
    share = torch.stack([layer.chosen(x)[..., 0].detach() for _ in range(2000)]).mean(0)
    assert float((share - p).abs().max()) < 0.06  # five standard deviations of 2000 draws


def test_hidden_routing_by_hand() -> None:
    layer, x, layout = make("hidden_routing", blocks=6, shared=2, chosen=1)
    with torch.no_grad():
        layer.fuse += 0.1 * torch.randn_like(layer.fuse)
    hidden = F.gelu(layer.up(x)).unflatten(-1, (6, -1))
    best = (x @ layer.router.weight.T).argmax(-1) + 2
    keep = torch.zeros(3, 10, 6, dtype=torch.float64).scatter(-1, best[..., None], 1.0)
    keep[..., :2] = 1.0
    fused = torch.einsum("st,bntw->bnsw", layer.fuse, hidden * keep[..., None] * 2.0)
    torch.testing.assert_close(layer(x, layout), layer.down(fused.flatten(-2)))


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("mpl", {}, "did you mean 'mlp'"),
        ("conv", {"ordered": False}, "ordered"),
        ("eca", {"causal_axes": (0,)}, "causal"),
        ("mlp", {"width": 3}, "option of channel layer"),
        ("topk", {"share": 0.0}, "share must lie"),
        ("moe", {"chosen": 5}, "chosen must lie"),
        ("hidden_routing", {"shared": 8}, "must not exceed"),
        ("adaptive", {"learners": 0}, "at least 1"),
    ],
)
def test_refusals(name: str, asked: dict, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        build_channel(name, DIM, **asked)
