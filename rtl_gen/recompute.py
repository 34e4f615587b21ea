"""Selective recompute as a host does it (CacheBlend, arXiv:2405.16444): the cache of a text, computed alone, is reused behind another
prefix, and the tokens whose values deviate most there are computed again.

Four kinds of runs on one memory, for a text of n tokens that begins at position ``start``:

1. The prefix, by the image's program.
2. The text alone, by ``alone``: nothing is before it, but its keys have the rotary positions from ``start`` on and its rows lie where
   the text will be. Those of the layer that is compared go to ``kept``. (A host that has the cache of the text copies it instead.)
3. The text behind the prefix up to that layer, by ``listing``: layers 0 to ``layer`` are complete then, and the list leaves.
4. Each piece of neighbours of the list, in rising order, by the image's program: a token sees those before it as they are by then, so
   this is what computing all of the list layer after layer would give. What follows the text is one more such run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..accelerators.cache.recompute import SHARES
from ..accelerators.checks import check_int
from ..accelerators.control.isa import Flag, Instruction, Opcode, decode_program
from ..sim.golden.machine import Machine
from ..sim.native.run import Run
from ..sim.native.session import Session
from .image import Image

__all__ = ["Blended", "Reuse", "blend", "golden_blend", "pieces"]


@dataclass(frozen=True)
class Blended:
    """``listed``: numbers of the text's tokens that were computed again; ``values``: (token, logit) of those generated behind it."""

    listed: list[int]
    values: list[tuple[int, int]]


@dataclass(frozen=True)
class Reuse:
    """A text whose cache is reused.

    Parameters
    ----------
    image : Image
        For a configuration with ``selective_recompute``.
    start, tokens : int
        Position of the text's first token, its length.
    layer : int
        Whose values are compared. CacheBlend takes the second one, 1: those of the first layer do not depend on what is before a text.
    """

    image: Image
    start: int
    tokens: int
    layer: int = 1

    def __post_init__(self) -> None:
        if not self.image.config.selective_recompute:
            raise ValueError(f"preset {self.image.config.name!r} has no selective recompute")
        check_int("layer", self.layer, 0, self.image.model.layers - 1)
        check_int("tokens", self.tokens, 1, self.image.kv_capacity // 2)
        check_int("start", self.start, 0, self.image.kv_capacity - 2 * self.tokens)

    @property
    def program(self) -> list[Instruction]:
        return list(decode_program(self.image.data[self.image.program_address:].tobytes()))

    @property
    def row_bytes(self) -> int:
        return self.image.kv_record_beats * self.image.config.bus_bytes

    @property
    def appends(self) -> list[Instruction]:
        """APPEND of each layer."""
        return [op for op in self.program if op.opcode is Opcode.APPEND]

    @property
    def kept(self) -> int:
        """Byte address of the rows that are compared: the last positions of the layer's cache, which stay free."""
        return self.appends[self.layer].address + (self.image.kv_capacity - self.tokens) * self.row_bytes

    def address(self, layer: int) -> int:
        """Where the rows of the text are when it was computed alone."""
        return self.kept if layer == self.layer else self.appends[layer].address + self.start * self.row_bytes

    def alone(self) -> list[Instruction]:
        """The image's program, for the text alone."""
        layers = {op.address: layer for layer, op in enumerate(self.appends)}
        program = []
        for op in self.program:
            if op.opcode is Opcode.ROPE:
                op = replace(op, address=op.address + self.start * op.beats * self.image.config.bus_bytes)
            if op.opcode in (Opcode.APPEND, Opcode.ATTEND):
                op = replace(op, address=self.address(layers[op.address]))
            program.append(op)
        return program

    def listing(self, exponent: int, share: int) -> list[Instruction]:
        """The image's program up to the rows of ``layer``, then the list of the ``share`` (in 1 / 256) of the tokens; values are
        compared in steps of ``2**exponent`` (``sim/golden/select.py: grid_exponent``)."""
        check_int("share", share, 0, SHARES)
        append, program = self.appends[self.layer], self.program
        attend = next(op for op in program if op.opcode is Opcode.ATTEND)
        until = program.index(append) + 1
        return [*program[:until],
                Instruction(Opcode.DEVIATE, Flag.LAST_CHUNK, tag=append.tag, address=append.address, source=self.kept & 0xFFFF,
                            destination=self.kept >> 16, count=append.count, words=append.words, beats=attend.beats, rows=self.tokens,
                            tiles=share, scalar_a=(1 << 23, exponent)),
                program[-1]]


def pieces(listed: Sequence[int]) -> list[range]:
    """Neighbours of a rising list."""
    found: list[range] = []
    for index in listed:
        begin = found.pop().start if found and found[-1].stop == index else index
        found.append(range(begin, index + 1))
    return found


def blend(session: Session, reuse: Reuse, programs: tuple[int, int], prefix: Sequence[int], text: Sequence[int],
          question: Sequence[int], count: int) -> Blended:
    """The four kinds of runs on an accelerator; ``count`` tokens are generated behind ``question``.

    ``programs``: byte addresses of ``alone`` and ``listing``. Raises ``RuntimeError`` if a run fails.
    """
    def run(tokens: Sequence[int], start: int, program: int | None = None, count: int = 1) -> Run:
        done = session.prompt(tokens, count, start_position=start, program_address=program)
        if done.error:
            raise RuntimeError(done.error)
        return done

    if prefix:
        run(prefix, 0)
    run(text, 0, programs[0])
    listed = [token.token for token in run(text, reuse.start, programs[1]).tokens]
    for piece in pieces(listed):
        run(text[piece.start:piece.stop], reuse.start + piece.start)
    return Blended(listed, [(token.token, token.value) for token in run(question, reuse.start + reuse.tokens, count=count).tokens])


def golden_blend(reuse: Reuse, listing: list[Instruction], prefix: Sequence[int], text: Sequence[int], question: Sequence[int],
                 count: int) -> Blended:
    """The same by the golden model."""
    machine = Machine(reuse.image)

    def run(tokens: Sequence[int], start: int, program: list[Instruction]) -> None:
        machine.program, machine.position = program, start
        machine.chunk(tokens)

    if prefix:
        run(prefix, 0, reuse.program)
    run(text, 0, reuse.alone())
    for layer, append in enumerate(reuse.appends):
        if layer != reuse.layer:
            machine.copy_rows(reuse.address(layer), append.address, reuse.start, reuse.tokens)
    run(text, reuse.start, listing)
    listed = machine.listed
    for piece in pieces(listed):
        run(text[piece.start:piece.stop], reuse.start + piece.start, reuse.program)
    machine.program, machine.position = reuse.program, reuse.start + reuse.tokens
    return Blended(listed, [(step.token, step.value) for step in machine.generate(question, count)])
