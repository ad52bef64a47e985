"""Muon (Jordan et al. 2024): momentum, made orthogonal by a Newton-Schulz iteration."""

import torch


def orthogonalize(update, dtype, steps=5):
    """The nearest matrix with singular values near 1, by the quintic iteration of the Muon paper."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update.to(dtype)
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).type_as(update)


class Muon(torch.optim.Optimizer):
    """For the matrices inside the network; embeddings and norms take AdamW."""

    def __init__(self, params, lr, dtype=torch.float32, momentum=0.95, weight_decay=0.01):
        """dtype: what the products are computed in"""
        self.dtype = dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                m = state["momentum"].mul_(group["momentum"]).add_(p.grad)
                update = orthogonalize(p.grad.add(m, alpha=group["momentum"]), self.dtype)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)
