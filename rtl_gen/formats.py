"""Named changes of the number formats of a configuration."""

from dataclasses import replace

from ..accelerators.config import AcceleratorConfig

__all__ = ["high_precision"]


def high_precision(config: AcceleratorConfig) -> AcceleratorConfig:
    """``config`` with 16-bit K/V and LM head, 32-bit embedding, finer probabilities and logits.

    What remains is the int8 quantization that the checkpoint was trained with, so a disagreement with another program that
    stays is not the formats' cost.
    """
    return replace(config, name=config.name + "_high_precision", kv_bits=16, head_bits=16, head_activation_bits=16,
                   embedding_bits=32, probability_bits=20, exp_segments=256, logit_frac_bits=16)
