"""Programs whose attention has a unified maximum (``docs/attention.md``, "Unified maximum")."""

from dataclasses import replace

from ..accelerators.control.isa import Instruction, Opcode
from .image import Image
from .split import program_of, with_program

__all__ = ["unify_maximum"]


def unify_maximum(image: Image, maximum: int, *, fallback: bool = True) -> Image:
    """``image`` with a program whose ATTENDs have a unified maximum (FlashDecoding++, arXiv:2311.01282, section 3).

    Parameters
    ----------
    image : Image
    maximum : int
        Base-2 logit, -128 to 127: it should be above all logits, and the first row of a text at most ``unified_window`` below it.
    fallback : bool
        Behind each ATTEND there is one with a running maximum, which is done if a lane came to a row above the unified one: the results
        of all its lanes then are those of a running maximum, bit for bit. Where no lane did, those of the unified maximum stay, which
        are the same but for rounding. If false, a lane that comes to such a row goes on from it with a running maximum.

    Raises ``ValueError`` for an accelerator that has no unified maximum, for a ``maximum`` out of its range, and for an ATTEND that has
    one, or is split or a fallback.
    """
    if not image.config.attention_modes:
        raise ValueError(f"programs of {image.config.name!r} cannot have a unified maximum: it needs attention_modes")
    program: list[Instruction] = []
    for op in program_of(image):
        if op.opcode is Opcode.ATTEND:
            if op.rows or op.splits:
                raise ValueError(f"ATTEND (tag {op.tag}) has a unified maximum already, or is split or a fallback")
            program.append(replace(op, rows=1, shift=maximum))
            if not fallback:
                continue
            op = replace(op, fallback=1)
        program.append(op)
    return with_program(image, program)
