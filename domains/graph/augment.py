"""Local augmentation: features as a node's neighbours might have them, drawn anew at every step.

"Local Augmentation for Graph Neural Networks" (Liu et al. 2022). A conditional variational autoencoder learns
p(x_j | x_i) over the edges i - j; a draw from it stands beside a node's own features, which helps most where neighbours
are few. It is fitted before the network, on features and edges alone, and travels inside the model.
N nodes, P pairs, F features, Z latent numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .data import Graph
from .store import rows_of

HIDDEN = 128
STEPS = 600  # of fitting
PAIRS = 256  # of a step
LIMIT = 6.0  # of the logarithm of a variance


class NeighbourFeatures(nn.Module):
    """p(x_j | x_i) = integral of N(decode(x_i, z), s^2) N(z; 0, 1) dz. Features are those that the network reads."""

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(nn.Linear(2 * features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * latent))
        self.centre, self.noise = nn.Linear(features, HIDDEN), nn.Linear(latent, HIDDEN, bias=False)
        self.out = nn.Linear(HIDDEN, features)
        self.log_variance = nn.Parameter(torch.zeros(()))
        self.requires_grad_(False)  # but while it is fitted

    def decode(self, centre: Float[Tensor, "... N H"], z: Float[Tensor, "... N Z"]) -> Float[Tensor, "... N F"]:
        """The mean of p(x_j | x_i, z), from ``self.centre(x_i)``."""
        return self.out(F.relu(centre + self.noise(z)))

    def draw(self, centre: Float[Tensor, "... N H"]) -> Float[Tensor, "... N F"]:
        """A neighbour's features for every node: z at random while training, at its mean otherwise."""
        shape = (*centre.shape[:-1], self.latent)
        z = torch.randn(shape, device=centre.device) if self.training else torch.zeros(shape, device=centre.device)
        return self.decode(centre, z)

    def loss(self, x: Float[Tensor, "P F"], near: Float[Tensor, "P F"]) -> Float[Tensor, ""]:
        """The negative evidence bound of neighbours ``near`` given centres ``x``, a mean over pairs and features."""
        mean, spread = self.encoder(torch.cat([x, near], -1)).chunk(2, -1)
        spread = spread.clamp(-LIMIT, LIMIT)
        found = self.decode(self.centre(x), mean + torch.randn_like(mean) * (0.5 * spread).exp())
        noise = self.log_variance.clamp(-LIMIT, LIMIT)
        fit = 0.5 * ((found - near).square() * (-noise).exp() + noise).sum(-1)
        apart = 0.5 * (mean.square() + spread.exp() - spread - 1).sum(-1)
        return (fit + apart).mean() / x.shape[-1]


def fit_neighbours(
    generator: NeighbourFeatures, scaled: Callable[[Tensor], Tensor], graph: Graph, steps: int = STEPS
) -> float:
    """Fits the generator on random edges, both ends read through ``scaled``; returns its last mean loss.

    Targets have no part in it, nor has torch's random state: the draws are its own, so fitting again gives the same.
    """
    random = np.random.default_rng(0)
    generator.requires_grad_(True)
    optimizer, losses = torch.optim.Adam(generator.parameters(), lr=2e-3), []
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        for _ in range(STEPS if graph.arcs else 0):
            near, own = graph.edges[:, random.integers(0, graph.arcs, PAIRS)]
            with torch.no_grad():
                a, b = (scaled(torch.from_numpy(rows_of(graph.features, at))) for at in (own, near))
            loss = generator.loss(a, b)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    generator.requires_grad_(False)
    return float(np.mean(losses[-50:])) if losses else float("nan")


def disagreement(outputs: Float[Tensor, "D n T"], temperature: float = 0.5) -> Float[Tensor, ""]:
    """Mean squared distance of each draw's class shares to their sharpened mean, to which no gradient flows."""
    share = outputs.softmax(-1)
    goal = share.mean(0).detach() ** (1 / temperature)
    goal = goal / goal.sum(-1, keepdim=True)
    return (share - goal).square().sum(-1).mean()
