"""A small convolutional network for 8 by 8 grey pictures."""

from __future__ import annotations

import torch
from torch import nn

from digits.data import Pictures


def train(pictures: Pictures, *, epochs: int) -> nn.Module:
    """Trains for `epochs` passes over the pictures; the same network every time.

    Takes float32 (n, 1, 8, 8), 0..1; gives ten scores a picture, float32 (n, 10), not normalized.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a network this small spends its time waiting for other threads
    network = nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    inputs, targets = torch.from_numpy(pictures.tensors()), torch.from_numpy(pictures.digits)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    return network.eval()
