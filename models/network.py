"""The network that is trained: BitNet b1.58 (BitNetForCausalLM) with quantization in the forward pass.

The forward pass computes what the exported checkpoint computes: ternary weights with one scale per matrix
(`weight_scale` = mean of the magnitudes), int8 activations with one scale per token, exact integer products,
all else in float32. The backward pass treats both roundings as the identity (straight-through estimator) and
runs its matrix products in bfloat16, which only adds a little noise to the gradients.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Dimensions of the network, under the names they have in config.json."""

    vocab_size: int = 1024
    hidden_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 48
    intermediate_size: int = 528
    max_position_embeddings: int = 512
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Ternary int8 matrix and its scale: W = clip(round(weight / scale), -1, 1), scale = mean |weight|."""
    scale = weight.abs().mean().clamp(min=1e-5)
    return (weight / scale).round().clamp(-1, 1).to(torch.int8), scale


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 activations and one scale per token: s = 127 / max(max |x|, 1e-5), x_q = round(x s)."""
    scale = 127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
    return (x * scale).round().clamp(-128, 127).to(torch.int8), scale


class _TernaryProduct(torch.autograd.Function):
    """Products of one input with several ternary matrices: quantize once, multiply once, split."""

    @staticmethod
    def forward(ctx, x: Tensor, *weights: Tensor) -> Tensor:
        shape = x.shape
        x_q, x_scale = quantize_activations(x.reshape(-1, shape[-1]))
        ternary = [quantize_weight(weight) for weight in weights]
        w_q = torch.cat([matrix for matrix, _ in ternary])
        w_scale = torch.cat([scale.expand(len(matrix)) for matrix, scale in ternary])
        sums = torch._int_mm(x_q, w_q.t().contiguous())
        ctx.save_for_backward(x_q, x_scale, w_q, w_scale)
        ctx.rows = [len(weight) for weight in weights]
        return (sums / x_scale * w_scale).reshape(*shape[:-1], -1)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x_q, x_scale, w_q, w_scale = ctx.saved_tensors
        shape = gradient.shape
        gradient = gradient.reshape(-1, shape[-1])
        to_x = (gradient * w_scale).bfloat16() @ w_q.bfloat16()
        to_w = (gradient / x_scale).bfloat16().t() @ x_q.bfloat16()
        return to_x.float().reshape(*shape[:-1], -1), *to_w.float().split(ctx.rows)


class _Logits(torch.autograd.Function):
    """hidden @ embeddings^T in float32, with bfloat16 products in the backward pass."""

    @staticmethod
    def forward(ctx, hidden: Tensor, embeddings: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, embeddings)
        return hidden @ embeddings.t()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        hidden, embeddings = ctx.saved_tensors
        gradient = gradient.bfloat16()
        return (gradient @ embeddings.bfloat16()).float(), (gradient.t() @ hidden.bfloat16()).float()


class RMSNorm(nn.Module):
    """gain * x * rsqrt(mean(x^2) + eps)"""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


class TernaryLinear(nn.Module):
    """Holds the float weight from which the ternary matrix is made; multiplied by `_TernaryProduct`."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * gain / inputs**0.5)


def rope_tables(shape: Shape) -> tuple[Tensor, Tensor]:
    """cos and sin of position * frequency, [positions, head_dim], both halves alike."""
    frequency = 1.0 / shape.rope_theta ** (torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
    angle = torch.arange(shape.max_position_embeddings).float()[:, None] * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, dimension i paired with i + head_dim / 2."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


class Attention(nn.Module):
    """Causal grouped-query attention with a norm before the output projection."""

    def __init__(self, shape: Shape, residual_gain: float):
        super().__init__()
        self.shape = shape
        heads = shape.num_attention_heads * shape.head_dim
        kv_heads = shape.num_key_value_heads * shape.head_dim
        self.q_proj = TernaryLinear(shape.hidden_size, heads)
        self.k_proj = TernaryLinear(shape.hidden_size, kv_heads)
        self.v_proj = TernaryLinear(shape.hidden_size, kv_heads)
        self.o_proj = TernaryLinear(heads, shape.hidden_size, residual_gain)
        self.attn_sub_norm = RMSNorm(heads, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        shape = self.shape
        qkv = _TernaryProduct.apply(x, self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)
        qkv = qkv.view(batch, length, -1, shape.head_dim).transpose(1, 2)
        q, k, v = qkv.split(
            [shape.num_attention_heads, shape.num_key_value_heads, shape.num_key_value_heads], dim=1
        )
        group = shape.num_attention_heads // shape.num_key_value_heads
        k, v = rotate(k, cos, sin).repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        mixed = functional.scaled_dot_product_attention(rotate(q, cos, sin), k, v, is_causal=True)
        mixed = self.attn_sub_norm(mixed.transpose(1, 2).reshape(batch, length, -1))
        return _TernaryProduct.apply(mixed, self.o_proj.weight)


class FeedForward(nn.Module):
    """down(norm(relu(gate)^2 * up))"""

    def __init__(self, shape: Shape, residual_gain: float):
        super().__init__()
        self.gate_proj = TernaryLinear(shape.hidden_size, shape.intermediate_size)
        self.up_proj = TernaryLinear(shape.hidden_size, shape.intermediate_size)
        self.down_proj = TernaryLinear(shape.intermediate_size, shape.hidden_size, residual_gain)
        self.ffn_sub_norm = RMSNorm(shape.intermediate_size, shape.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = _TernaryProduct.apply(x, self.gate_proj.weight, self.up_proj.weight).chunk(2, dim=-1)
        return _TernaryProduct.apply(self.ffn_sub_norm(gate.relu().square() * up), self.down_proj.weight)


class Layer(nn.Module):
    """One decoder layer: attention and feed-forward, each after a norm and added to its input."""

    def __init__(self, shape: Shape):
        super().__init__()
        residual_gain = (2 * shape.num_hidden_layers) ** -0.5
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape, residual_gain)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = FeedForward(shape, residual_gain)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Network(nn.Module):
    """The decoder; parameter names are those of the checkpoint without the prefix `model.`."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.05)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        cos, sin = rope_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [batch, length, vocab] for tokens [batch, length]."""
        length = tokens.shape[1]
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length])
        hidden = self.norm(x)
        flat = _Logits.apply(hidden.reshape(-1, hidden.shape[-1]), self.embed_tokens.weight)
        return flat.view(*tokens.shape, -1)
