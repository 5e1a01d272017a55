"""The train step of PDDM in plain PyTorch, a baseline for speed."""

from collections.abc import Callable

import numpy as np
import torch
from pytorch_metric_learning import losses, miners
from torch import nn
from torch.nn import functional


def small_cnn(size: int) -> nn.Sequential:
    """The small network with its head: unit-length embeddings of 64."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 64):
        for stride in (2, 1):
            convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
            layers += [convolution, nn.GroupNorm(8, width), nn.SiLU()]
            channels = width
    head = nn.Linear(channels * (size // 8) ** 2, 64), nn.BatchNorm1d(64, affine=False)
    return nn.Sequential(*layers, nn.Flatten(), *head)


class PDDM(nn.Module):
    """The PDDM unit, on pairs of any leading shape."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.difference, self.mean = nn.Linear(d, width), nn.Linear(d, width)
        self.joint, self.score = nn.Linear(2 * width, width), nn.Linear(width, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Scores [...] of pairs [..., d]."""
        u = functional.normalize(torch.relu(self.difference((x - y).abs())), dim=-1)
        v = functional.normalize(torch.relu(self.mean((x + y) / 2)), dim=-1)
        return self.score(torch.relu(self.joint(torch.cat([u, v], -1)))).squeeze(-1)


def pddm_loss(unit: PDDM, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The double-header hinges of every positive pair, with negatives mined by score."""
    same = labels[:, None] == labels
    with torch.no_grad():
        negative = unit(x[:, None], x[None]).masked_fill(same, -torch.inf).argmax(1)
    i, j = torch.nonzero(torch.triu(same, 1), as_tuple=True)
    k, l = negative[i], negative[j]  # noqa: E741

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (x[a] - x[b]).square().sum(-1)

    ij, ik, jl = (unit(x[a], x[b]) for a, b in ((i, j), (i, k), (j, l)))
    metric = torch.relu(0.5 + ik - ij) + torch.relu(0.5 + jl - ij)
    near = distance(i, j)
    embedding = torch.relu(1 + near - distance(i, k)) + torch.relu(1 + near - distance(j, l))
    return (metric + embedding).mean()


def torch_step(images: np.ndarray, labels: np.ndarray, objective: str) -> Callable[[], float]:
    """A step of AdamW with clipped gradients; its loss."""
    torch.manual_seed(0)
    network, unit = small_cnn(images.shape[1]).to(memory_format=torch.channels_last), PDDM(64, 32)
    parameters = [*network.parameters(), *unit.parameters()]
    optimizer = torch.optim.AdamW(parameters, 3e-3, weight_decay=1e-4)
    pixels, classes = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
    miner = miners.MultiSimilarityMiner(epsilon=0.1)
    multi_similarity = losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)

    def step() -> float:
        optimizer.zero_grad()
        x = functional.normalize(network(pixels.to(torch.float32) / 255), dim=-1)
        if objective == "pddm":
            loss = pddm_loss(unit, x, classes)
        else:
            loss = multi_similarity(x, classes, miner(x, classes))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        return loss.item()

    return step
