"""Fixed points whose solutions are known, and references written without the library."""

import torch


def linear_problem(batch=3, n=6, norm=0.9, dtype=torch.float64):
    """f(z) = W z + x with its solution and the inverse of I - W."""
    W = torch.randn(n, n, dtype=dtype)
    W = norm * W / torch.linalg.matrix_norm(W, 2)
    x = torch.randn(batch, n, dtype=dtype)
    inverse = torch.linalg.inv(torch.eye(n, dtype=dtype) - W)
    return (lambda z, x: z @ W.T + x), x, x @ inverse.T, inverse


def tanh_problem(batch=3, n=6, norm=0.9, dtype=torch.float64):
    """f(z) = tanh(W z) + x."""
    W = torch.randn(n, n, dtype=dtype)
    W = norm * W / torch.linalg.matrix_norm(W, 2)
    x = torch.randn(batch, n, dtype=dtype)
    return (lambda z, x: torch.tanh(z @ W.T) + x), x, W


def broyden_by_the_book(g, z, n_steps):
    """One sample, dense, by the textbook update of the inverse: iterates and estimates."""
    B = torch.eye(len(z), dtype=z.dtype)
    zs, Bs, residual = [z], [B], g(z)
    for _ in range(n_steps):
        s = -B @ residual
        z = z + s
        new = g(z)
        y = new - residual
        B = B + torch.outer(s - B @ y, s @ B) / (s @ B @ y)
        residual = new
        zs.append(z)
        Bs.append(B)
    return zs, Bs
