"""
An image as an implicit layer
=============================

An implicit neural representation is a network that maps coordinates to colours and thereby *is* an
image. One deep equilibrium layer with sines in it can be such a network: as deep as it likes, with
the parameters of a single layer. It is trained on half of the pixels of a photograph and asked for
the others.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch import nn

from hoag_shine.deq import DEQ

torch.manual_seed(0)


class Sine(nn.Module):
    """The f of the fixed point, z = sin(W z + x) / 2."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, z, x):
        return torch.sin(self.linear(z) + x) / 2


class Representation(nn.Module):
    """Waves of every place, a fixed point, and a colour from it."""

    def __init__(self, width=64, frequency=4.0):
        super().__init__()
        self.waves, self.colour = nn.Linear(2, width), nn.Linear(width, 3)
        nn.init.uniform_(self.waves.weight, -frequency, frequency)
        self.deq = DEQ(Sine(width), max_iter=12, tol=1e-3)

    def forward(self, places):
        x = self.waves(places)
        z, info = self.deq(torch.zeros_like(x), x)
        return self.colour(z), info


# %%
# A part of a photograph, 32 x 32 pixels; a chessboard of them is held out.

photograph = load_sample_image("flower.jpg")[100:356:8, 200:456:8] / 255.0
side = len(photograph)
steps = torch.linspace(-1, 1, side)
places = torch.cartesian_prod(steps, steps)
colours = torch.tensor(photograph, dtype=torch.float32).reshape(-1, 3)
held_out = torch.tensor(np.indices((side, side)).sum(0).ravel() % 2 == 1)

model = Representation()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for _ in range(90):
    optimizer.zero_grad()
    found, info = model(places[~held_out])
    (found - colours[~held_out]).square().mean().backward()
    optimizer.step()
print(info)

# %%
# It has learnt an image, and no list of pixels: those that it has not seen are nearer than the
# means of their four neighbours, all of which it has seen.

with torch.no_grad():
    painted = model(places)[0]
error = (painted - colours)[held_out].square().mean().item()
around = sum(np.roll(photograph, shift, axis) for shift in (1, -1) for axis in (0, 1)) / 4
neighbours = np.square(around - photograph).reshape(-1, 3)[held_out].mean()
print(f"error of unseen pixels: {error:.4f}, of the means of neighbours: {neighbours:.4f}")

fig, axes = plt.subplots(1, 3, figsize=(8, 3))
seen = colours.clone()
seen[held_out] = 1
for ax, image, title in zip(
    axes, (colours, seen, painted), ("photograph", "what it is trained on", "layer"), strict=True
):
    ax.imshow(image.reshape(side, side, 3).clamp(0, 1).numpy())
    ax.set_title(title)
    ax.set_axis_off()
