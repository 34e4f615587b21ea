"""Named changes of the number formats of a configuration, and what formats of the KV cache take."""

from dataclasses import replace

from ..accelerators.config import AcceleratorConfig
from ..accelerators.kv_records import fp16_record_beats, record_beats
from ..accelerators.model_shape import ModelShape
from .tensors import in_words

__all__ = ["cache_bytes", "high_precision", "storage_name"]


def storage_name(config: AcceleratorConfig) -> str:
    """Format of the elements of the configuration's K/V records, as ``cache_bytes`` calls it."""
    return f"int{config.stored_kv_bits}"


def cache_bytes(model: ModelShape, config: AcceleratorConfig) -> dict[str, int]:
    """Bytes that a token takes in the KV cache of one layer in each format, with scales and padding to bus words.

    fp16 is for designs with an attention of their own (``accelerators/cache/fp16.py``).
    """
    bus, head_dim = config.bus_bits, in_words(model, config).head_dim
    beats = {f"int{bits}": record_beats(head_dim, kv_bits=bits, bus_bits=bus) for bits in (4, 8, 16)}
    beats["fp16"] = fp16_record_beats(head_dim, bus)
    return {name: model.kv_heads * words * config.bus_bytes for name, words in beats.items()}


def high_precision(config: AcceleratorConfig) -> AcceleratorConfig:
    """``config`` with 16-bit K/V and LM head, 32-bit embedding, finer probabilities and logits.

    What remains is the int8 quantization that the checkpoint was trained with, so a disagreement with another program that
    stays is not the formats' cost.
    """
    return replace(config, name=config.name + "_high_precision", kv_bits=16, head_bits=16, head_activation_bits=16,
                   embedding_bits=32, probability_bits=20, exp_segments=256, logit_frac_bits=16)
