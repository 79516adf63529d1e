"""
A transformer of one layer
==========================

One block of causal attention whose output is its own input: a transformer of any depth with the
parameters of one layer. It learns to continue a text letter by letter.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_diabetes, load_digits, load_wine
from torch import nn
from torch.nn import functional

from hoag_shine.deq import DEQ, VariationalDropout

torch.manual_seed(0)

text = "".join(load().DESCR for load in (load_diabetes, load_digits, load_wine))
alphabet = {letter: i for i, letter in enumerate(sorted(set(text)))}
codes = torch.tensor([alphabet[letter] for letter in text])
length = 24
windows = codes.unfold(0, length + 1, length)
held_out = torch.arange(len(windows)) % 5 == 0


class Block(nn.Module):
    """Attention to earlier letters, then a perceptron, with one dropout mask in all steps."""

    def __init__(self, width):
        super().__init__()
        self.keys, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = VariationalDropout(0.1)

    def forward(self, z, x):
        q, k, v = self.keys(z).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        z = self.norms[0](x + self.dropout(self.mix(mixed)))
        return self.norms[1](z + self.perceptron(z))


class Transformer(nn.Module):
    """Letters and their places, a fixed point, and scores of the next letter."""

    def __init__(self, width=32):
        super().__init__()
        self.letters = nn.Embedding(len(alphabet), width)
        self.places = nn.Parameter(0.1 * torch.randn(length, width))
        self.deq = DEQ(Block(width), max_iter=12, tol=1e-3)
        self.score = nn.Linear(width, len(alphabet))

    def forward(self, codes):
        x = self.letters(codes) + self.places
        z, info = self.deq(torch.zeros_like(x), x)
        return self.score(z), info


def loss_of(model, rows):
    scores, info = model(rows[:, :-1])
    return functional.cross_entropy(scores.flatten(0, 1), rows[:, 1:].flatten()), info


# %%
# The default backward measures how far each gradient is from the implicit one.

model = Transformer()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
train, losses = windows[~held_out], []
for _ in range(150):
    rows = train[torch.randint(len(train), (32,))]
    optimizer.zero_grad()
    loss, info = loss_of(model, rows)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item())
print(info)
print(f"largest residual of the gradient's linear systems: {info.backward.residual.max():.3f}")

# %%
# The held-out windows, beside guesses from the frequencies of letters alone.

with torch.no_grad():
    error = loss_of(model.eval(), windows[held_out])[0].item()
frequencies = torch.bincount(train.flatten(), minlength=len(alphabet)) + 1.0
guess = (frequencies / frequencies.sum()).log()[windows[held_out][:, 1:]].mean().neg().item()
print(f"cross-entropy of held-out letters: {error:.2f}, by frequencies: {guess:.2f}")

fig, ax = plt.subplots()
ax.plot(losses, label="training")
ax.axhline(error, color="C1", label="held out")
ax.axhline(guess, color="grey", linestyle=":", label="frequencies of letters")
ax.set(xlabel="step", ylabel="cross-entropy")
ax.legend()
