"""Finds the first operation whose result differs between the simulated accelerator and the golden model."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ...accelerators.config import AcceleratorConfig
from ...accelerators.control.isa import Flag, Instruction, Opcode, decode_program
from ...accelerators.core import observe_layout
from ...rtl_gen.image import Image
from ..golden.machine import Machine

__all__ = ["Difference", "first_difference"]


@dataclass(frozen=True)
class Difference:
    """Where hardware and golden model part: chunk, operation, token of the chunk, and the first elements that differ."""

    chunk: int
    operation: str
    opcode: str
    position: int
    element: int
    expected: list[int]
    actual: list[int]

    def __str__(self) -> str:
        return (f"chunk {self.chunk}, {self.operation} ({self.opcode}), position {self.position}: element {self.element} and "
                f"following should be {self.expected}, are {self.actual}")


def _expected(image: Image, prompt: Sequence[int], generated: Sequence[int], fill_context: int
              ) -> Iterator[tuple[int, Instruction, int, list[np.ndarray]]]:
    """(chunk, instruction, position of the first token, results of its tokens) in the order in which hardware works."""
    results: dict[int, list[np.ndarray]] = {}
    machine = Machine(image, trace=lambda tag, position, values: results.setdefault(tag, []).append(values.copy()))
    if fill_context:
        machine.fill_cache(fill_context)
    program = list(decode_program(image.data[image.program_address:].tobytes()))
    left = iter(prompt)
    chunks = [list(islice(left, count)) for count in image.prompt_chunks(len(prompt), fill_context)]
    final = len(chunks) - 1
    chunks += [[token] for token in generated]
    for number, tokens in enumerate(chunks):
        results.clear()
        position = machine.position
        machine.chunk(tokens)
        for op in program[:-1]:
            if number >= final or Flag.LAST_CHUNK not in op.flags:
                yield number, op, position, results[op.tag]


def _words(op: Instruction, results: list[np.ndarray], config: AcceleratorConfig) -> np.ndarray:
    """The result as the accelerator shows it, ``[words, elements]``, elements that say nothing left out."""
    if op.opcode is Opcode.HEAD:
        values = results[0]
        return np.stack([values & 0xFFFFFFFF, values >> 32], axis=1)
    if op.opcode is Opcode.LINEAR:
        rows = config.table_rows
        return np.concatenate([values.reshape(-1, rows) for values in results], axis=1)
    if op.opcode is Opcode.ATTEND:  # hardware order: KV head, token, query head of the group
        heads = np.stack(results).reshape(len(results), op.count, op.group, -1).transpose(1, 0, 2, 3)
        tiled = []
        for head in heads:
            for first in range(0, len(results), op.tiles):
                tiled.append(head[first:first + op.tiles].reshape(-1, config.vector_lanes))
        return np.concatenate(tiled)
    if op.opcode is Opcode.ROPE:
        words = np.stack(results).reshape(-1, 2, op.words // 2, config.vector_lanes)
        return words.transpose(0, 2, 1, 3).reshape(-1, config.vector_lanes)
    return np.concatenate([values.reshape(-1, config.vector_lanes) for values in results])


def first_difference(image: Image, observed: Path, prompt: Sequence[int], generated: Sequence[int],
                     fill_context: int = 0) -> Difference | None:
    """Compare the file that the driver wrote with the golden model's results; None if all that was observed agrees.

    ``fill_context``: positions of ``Machine.fill_cache`` that the run started behind.
    """
    config = image.config
    elements = observe_layout(config)["elements"].width // 32
    records = np.fromfile(observed, dtype="<i4").reshape(-1, 1 + elements)
    # Operations of two chunks in flight mix, but those of one tag come in the order of the chunks.
    values = {int(tag): records[records[:, 0] == tag, 1:].astype(np.int64) for tag in np.unique(records[:, 0])}
    rows: Counter[int] = Counter()
    for chunk, op, position, results in _expected(image, prompt, generated, fill_context):
        words = _words(op, results, config)
        row, rows[op.tag] = rows[op.tag], rows[op.tag] + len(words)
        here = values.get(op.tag, records[:0, 1:])[row:row + len(words), :words.shape[1]].copy()
        if op.opcode is Opcode.HEAD:
            here[:, 0] &= 0xFFFFFFFF
        wrong = np.argwhere(here != words[:len(here)])
        if len(wrong):
            word, element = map(int, wrong[0])
            return Difference(chunk, image.operations[op.tag], op.opcode.name, position, word * words.shape[1] + element,
                              words[word].tolist(), here[word].tolist())
    return None
