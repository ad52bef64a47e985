"""The network: llama architecture, with the names, shapes and RoPE pairs of its GGUF files."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Shape:
    vocab: int = 4096
    layers: int = 6
    width: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    hidden: int = 688
    context: int = 4096
    rope_base: float = 100000.0
    epsilon: float = 1e-5

    def header(self, name):
        """What GGUF and llama.cpp call these numbers."""
        return {
            "general.architecture": "llama",
            "general.name": name,
            "llama.context_length": self.context,
            "llama.embedding_length": self.width,
            "llama.block_count": self.layers,
            "llama.feed_forward_length": self.hidden,
            "llama.vocab_size": self.vocab,
            "llama.rope.dimension_count": self.head_dim,
            "llama.rope.freq_base": self.rope_base,
            "llama.attention.head_count": self.heads,
            "llama.attention.head_count_kv": self.kv_heads,
            "llama.attention.key_length": self.head_dim,
            "llama.attention.value_length": self.head_dim,
            "llama.attention.layer_norm_rms_epsilon": self.epsilon,
        }


class RmsNorm(nn.Module):
    def __init__(self, width, epsilon):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.epsilon)
        return x * scale.type_as(x) * self.weight.type_as(x)


def rotate(x, angles):
    """RoPE on neighbouring pairs. x [batch, length, heads, head_dim]; angles (cos, sin) [batch, length, 1, head_dim / 2]."""
    cos, sin = angles
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def attention(q, k, v):
    """
    Causal attention. q [batch, heads, length, head_dim]; k, v with fewer heads. torch before 2.0
    has no fused kernel: there, queries go in blocks that read only the keys before them.
    """
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    q = q * q.shape[-1] ** -0.5
    length, block = q.shape[2], 256
    future = torch.full((block, block), float("-inf")).triu(1)
    outs = []
    for start in range(0, length, block):
        end = min(start + block, length)
        scores = q[:, :, start:end] @ k[:, :, :end].transpose(-1, -2)
        scores[..., start:] += future[: end - start, : end - start]
        outs.append(scores.softmax(-1) @ v[:, :, :end])
    return torch.cat(outs, 2)


def attention_loss(q, k, head, targets):
    """
    Mean of -log(attention weight) that one head gives to the position it should look at.
    q, k as for `attention`; targets int64 [batch, length], -1 where nothing is asked.
    """
    query, key = q[:, head], k[:, head * k.shape[1] // q.shape[1]]
    scores = (query @ key.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    length = scores.shape[-1]
    future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    scores = scores.masked_fill(future, float("-inf"))
    nats = F.cross_entropy(
        scores.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum"
    )
    return nats / (targets >= 0).sum().clamp(min=1)


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        linear = lambda n_in, n_out: nn.Linear(n_in, n_out, bias=False)
        self.shape = s
        self.attn_norm = RmsNorm(s.width, s.epsilon)
        self.attn_q = linear(s.width, s.heads * s.head_dim)
        self.attn_k = linear(s.width, s.kv_heads * s.head_dim)
        self.attn_v = linear(s.width, s.kv_heads * s.head_dim)
        self.attn_output = linear(s.heads * s.head_dim, s.width)
        self.ffn_norm = RmsNorm(s.width, s.epsilon)
        self.ffn_gate = linear(s.width, s.hidden)
        self.ffn_up = linear(s.width, s.hidden)
        self.ffn_down = linear(s.hidden, s.width)

    def forward(self, x, angles, lessons=()):
        """lessons: (head, targets) pairs. Returns (x, the sum of their attention losses)."""
        batch, length, _ = x.shape
        heads = lambda t: t.view(batch, length, -1, self.shape.head_dim)
        h = self.attn_norm(x)
        q, k = rotate(heads(self.attn_q(h)), angles), rotate(heads(self.attn_k(h)), angles)
        v = heads(self.attn_v(h))
        q, k = q.type_as(v), k.type_as(v)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        loss = sum(attention_loss(q, k, head, targets) for head, targets in lessons)
        out = attention(q, k, v)
        x = x + self.attn_output(out.transpose(1, 2).reshape(batch, length, -1))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h)), loss


class Model(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.shape = s
        self.token_embd = nn.Embedding(s.vocab, s.width)
        self.blk = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.output_norm = RmsNorm(s.width, s.epsilon)
        frequencies = s.rope_base ** (-torch.arange(0, s.head_dim, 2).float() / s.head_dim)
        angles = torch.arange(s.context).float()[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        nn.init.normal_(self.token_embd.weight, std=0.02)
        for layer in self.blk:
            for name, weight in layer.named_parameters():
                if weight.ndim == 2:
                    nn.init.normal_(weight, std=0.02)
            for linear in (layer.attn_output, layer.ffn_down):
                nn.init.normal_(linear.weight, std=0.02 * (2 * s.layers) ** -0.5)

    def forward(self, ids, positions, lessons={}):
        """
        ids, positions int64 [batch, length]; lessons: {layer: [(head, targets)]}.
        Returns (the last hidden states, normed [batch, length, width], the sum of attention losses).
        """
        x = self.token_embd(ids)
        angles = tuple(t[positions][:, :, None].type_as(x) for t in (self.cos, self.sin))
        total = 0.0
        for i, layer in enumerate(self.blk):
            x, loss = layer(x, angles, lessons.get(i, ()))
            total = total + loss
        return self.output_norm(x), total

    def logits(self, hidden):
        return hidden @ self.token_embd.weight.T
