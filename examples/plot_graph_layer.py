"""
An implicit graph network
=========================

In a graph network every node listens to its neighbours, and in a deep equilibrium layer it does so
until nothing changes: one layer sees the whole graph. The rows of its state are not separate
problems, so that ``batch_dims=0`` solves the state as one.

The nodes are images of digits, linked to those that look alike. One in twenty has a label.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import kneighbors_graph
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from hoag_shine.deq import DEQ, once_per_solve

torch.manual_seed(0)

X, y = load_digits(return_X_y=True)
X, y = X[:600] / 16, y[:600]
links = kneighbors_graph(X, 5).toarray()
links = torch.tensor(((links + links.T) > 0).astype("float32")) + torch.eye(len(X))
degrees = links.sum(1)
links /= (degrees[:, None] * degrees).sqrt()
pixels, labels = torch.tensor(X, dtype=torch.float32), torch.tensor(y)
labelled = torch.randperm(len(X))[: len(X) // 20]


class Messages(nn.Module):
    """The f of the fixed point, z = tanh(0.9 A z W + x), with A the links of the graph.

    The largest singular values of A and W are 1, so that f contracts.
    """

    def __init__(self, width):
        super().__init__()
        self.linear = spectral_norm(nn.Linear(width, width, bias=False))

    def forward(self, z, x):
        return torch.tanh(0.9 * links @ self.linear(z) + x)


class Network(nn.Module):
    """From pixels to the state of every node, and from that to ten scores."""

    def __init__(self, width=32):
        super().__init__()
        self.encode, self.score = nn.Linear(64, width), nn.Linear(width, 10)
        self.deq = DEQ(once_per_solve(Messages(width)), batch_dims=0, max_iter=30, tol=1e-3)

    def forward(self, pixels):
        x = links @ self.encode(pixels)
        z, info = self.deq(torch.zeros_like(x), x)
        return self.score(z), info


# %%
# All nodes are in the graph, and only the labelled ones in the loss.

model = Network()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
for _ in range(60):
    optimizer.zero_grad()
    scores, info = model(pixels)
    loss = functional.cross_entropy(scores[labelled], labels[labelled])
    loss.backward()
    optimizer.step()
print(info)
print(f"residual of the gradient's linear system: {info.backward.residual.max():.3f}")

# %%
# The others are named by their neighbourhood. A logistic regression sees each image alone.

others = torch.ones(len(X), dtype=torch.bool)
others[labelled] = False
with torch.no_grad():
    scores, _ = model(pixels)
accuracy = (scores.argmax(1) == labels)[others].float().mean().item()
alone = LogisticRegression(max_iter=1000).fit(X[labelled], y[labelled]).score(X[others], y[others])
print(f"accuracy of unlabelled nodes: {accuracy:.3f}, of a logistic regression: {alone:.3f}")

fig, ax = plt.subplots()
ax.semilogy(info.trace[:, 0])
ax.set(xlabel="step of Broyden's method", ylabel="relative residual of the whole graph")
