"""Bench of the front end of several sequences: steps whose batches extend, share and free sequences, some of them in vain."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...accelerators.control.entries import SWAP_IN, SWAP_OUT, Entry, EntryKind
from ...accelerators.control.isa import INSTRUCTION_BYTES, Instruction, Opcode, encode_program
from ..golden.batch import BatchFrontEnd, BatchOperation
from ..golden.cache import record_beats
from ..golden.frontend import FrontEnd, Settings
from ..golden.paged import PagedTables
from ..golden.swap import SwapTables
from .frontend import VOCABULARY, FrontEndBench, Generation, instruction_fields
from .trace import Trace
from .unit import Items

__all__ = ["BatchFrontEndBench"]

NOT_SET = ("kv_sinks", "kv_window", "kv_positions", "kv_threshold")


class BatchFrontEndBench(FrontEndBench):
    """Steps one after another without a reset between."""

    modules = ("llmrtl.sim.bench.menu", "llmrtl.sim.bench.batch_cases")

    def batch(self, rng: random.Random, golden: BatchFrontEnd) -> list[int]:
        """Entries for what ``golden`` has, most of which it takes."""
        config, words, left = self.config, [], self.config.token_lanes
        written: set[int] = set()
        changed: set[int] = set()  # by FORK or FREE
        for _ in range(rng.randint(1, 6)):
            begins = left == config.token_lanes
            if left > 1 and not config.swap_slots and rng.random() < (0.2 if begins else 0.4):
                group = self.group(rng, golden, left, written, changed)
                words += group[0]
                left -= group[1]
            sequence, other = rng.randrange(config.sequences), rng.randrange(config.sequences)
            kind = rng.choice((*[EntryKind.TOKENS] * (1 if begins else 3), EntryKind.FORK, EntryKind.FREE))
            if kind is EntryKind.TOKENS and left:
                count, feed = rng.choice((1, left, rng.randint(1, left))), rng.random() < 0.3
                count = 1 if feed else count
                words.append(Entry(kind, sequence, count, sample=rng.random() < 0.5, feed=feed).encode())
                words += [rng.randrange(VOCABULARY) for _ in range(0 if feed else count)]
                left -= count
                written.add(sequence)
            elif kind is EntryKind.FORK and left == config.token_lanes:
                length = golden.tables.sequences[other].length
                count = rng.choice((length, rng.randint(0, length), length // config.block_size * config.block_size,
                                    min(length + 1, config.max_context)))
                words.append(Entry(kind, sequence, count, other).encode())
                changed.add(sequence)
            elif kind is EntryKind.FREE and sequence not in written:
                way = rng.choice((0, SWAP_OUT, SWAP_OUT, SWAP_IN, SWAP_IN)) if config.swap_slots else 0
                words.append(Entry(kind, sequence, other=way).encode())
                changed.add(sequence)
        return words or [Entry(EntryKind.FREE, 0).encode()]

    def group(self, rng: random.Random, golden: BatchFrontEnd, left: int, written: set[int], changed: set[int]
              ) -> tuple[list[int], int]:
        """Entries of sequences that share blocks, and how many tokens they have; nothing if there are none."""
        size, tables = self.config.block_size, golden.tables
        assert isinstance(tables, PagedTables)
        there = [k for k in range(self.config.sequences) if k not in changed]
        if not there:
            return [], 0
        lead = rng.choice(there)
        both = {k: min(tables.sequences[k].length, tables.sequences[lead].length) // size for k in there}
        common = {k: max([n for n in range(most + 1) if not tables.compare(k, lead, n * size).error]) for k, most in both.items()}
        others = [k for k, blocks in common.items() if blocks]
        if not others:
            return [], 0
        members, used, words = [lead, *rng.choices(others, k=rng.randint(1, left - 1))], 0, []
        for k in members:
            count = 1 if rng.random() < 0.7 else rng.randint(1, max(1, left - used - len(members)))
            if used + count <= left:
                words += [Entry(EntryKind.TOKENS, k, count, sample=rng.random() < 0.5).encode(),
                          *(rng.randrange(VOCABULARY) for _ in range(count))]
                used += count
        written |= set(members)
        shared = size * rng.randint(1, min(common[k] for k in members))
        return [Entry(EntryKind.GROUP, 0, shared, len(members)).encode(), *words], used

    def of(self, rng: random.Random, words: list[int], layers: int = 1) -> Generation:
        """A step with this batch."""
        config = self.config
        code = encode_program(self.program(rng, layers))
        base = rng.randint(1, 1000) * INSTRUCTION_BYTES
        beats = record_beats(config.max_head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
        settings = Settings(
            program_address=base, prompt_address=base + len(code), prompt_length=len(words), start_position=rng.getrandbits(20),
            max_new_tokens=0, eos_token=rng.randrange(VOCABULARY), ignore_eos=rng.getrandbits(1), kv_capacity=rng.getrandbits(20),
            kv_record_beats=rng.randint(1, beats), kv_head_stride=rng.getrandbits(20) * config.bus_bytes)
        return Generation(settings, code, words, [(rng.randrange(VOCABULARY), rng.getrandbits(64)) for _ in range(config.token_lanes)])

    def program(self, rng: random.Random, layers: int = 1) -> list[Instruction]:
        """Records are written here: of some heads."""
        return [replace(op, count=rng.randint(1, 3)) if op.opcode is Opcode.APPEND else op for op in super().program(rng, layers)]

    def steps(self, rng: random.Random, count: int, begin: Sequence[list[int]] = ()) -> list[Generation]:
        """``begin``, then ``count`` steps of random batches."""
        golden, found = BatchFrontEnd(self.config), []
        for k in range(len(begin) + count):
            found.append(self.of(rng, begin[k] if k < len(begin) else self.batch(rng, golden)))
            self._step(golden, found[-1])
            assert not golden.error, f"the batch of step {k} is none: {golden.error!r}"
        return found

    def filled(self, sequence: int, blocks: int) -> list[list[int]]:
        """Batches that give an empty sequence so many blocks of positions."""
        lanes, left, found = self.config.token_lanes, blocks * self.config.block_size, []
        while left:
            count = min(lanes, left)
            found.append([Entry(EntryKind.TOKENS, sequence, count).encode(), *range(count)])
            left -= count
        return found

    @staticmethod
    def _step(golden: BatchFrontEnd, each: Generation) -> None:
        golden.step(each.settings, each.program, each.prompt, iter(each.sampled))

    def stimulus(self, rng: random.Random, case: str) -> Items:
        """From nothing; or from a sequence of a block or two, of which others have one or both."""
        blocks = rng.choice((0, 1, 2, 2))
        begin = self.filled(0, blocks)
        if blocks:
            size = self.config.block_size
            begin.append([Entry(EntryKind.FORK, k, rng.choice((size, rng.randint(size, blocks * size)))).encode()
                          for k in range(1, self.config.sequences)])
            begin[-1] += [word for k in rng.sample(range(self.config.sequences), 3)
                          for word in (Entry(EntryKind.TOKENS, k, 1).encode(), k)]
        return self.plan(*self.steps(rng, 6, begin))

    def boundary(self) -> Items:
        """A sequence up to its last position, and one more; shared whole; all lanes in one entry, one lane in each; all sampled. A
        group of all positions but the last ones, of a refused entry and an end before all have come. A copy of all rows but one."""
        rng, lanes, most = random.Random(0), self.config.token_lanes, self.config.max_context
        ids = [VOCABULARY - 1] * lanes
        found = [[Entry(EntryKind.TOKENS, 0, lanes, sample=k % 2 == 1).encode(), *ids] for k in range(most // lanes)]
        found.append([Entry(EntryKind.TOKENS, 0, 1, sample=True, feed=True).encode(),
                      Entry(EntryKind.FORK, 1, most, 0).encode(), Entry(EntryKind.TOKENS, 2, 1, sample=True).encode(), 0])
        found.append([word for k in range(lanes) for word in (Entry(EntryKind.TOKENS, 2 + k % 2, 1, sample=True).encode(), k)])
        size = self.config.block_size
        if self.config.swap_slots:  # whole and in part, clean and dirty, refused both ways
            out, back = ([Entry(EntryKind.FREE, k, other=way).encode() for k in range(self.config.sequences)]
                         for way in (SWAP_OUT, SWAP_IN))
            found += [out, back, out, [*back, Entry(EntryKind.TOKENS, 2, 1, sample=True).encode(), 1], [out[2], *back[1:]]]
            return self.plan(*(self.of(rng, words) for words in found))
        found.append([*(Entry(EntryKind.FREE, k).encode() for k in (2, 3)),
                      *(Entry(EntryKind.FORK, k, most - size).encode() for k in (2, 3)),
                      Entry(EntryKind.GROUP, 0, most - size, 3).encode(),
                      *(word for k in (0, 2, 3) for word in (Entry(EntryKind.TOKENS, k, 1).encode(), k)),
                      Entry(EntryKind.GROUP, 0, size, 9).encode(), Entry(EntryKind.TOKENS, 3, 1, sample=True).encode(), 2])
        found.append([Entry(EntryKind.FREE, 2).encode(), Entry(EntryKind.FORK, 2, most - 1, 0).encode(),
                      Entry(EntryKind.TOKENS, 2, 1, sample=True).encode(), 3])
        found.append([Entry(EntryKind.FREE, k).encode() for k in range(self.config.sequences)])
        return self.plan(*(self.of(rng, words) for words in found))

    def golden(self) -> FrontEnd:
        golden = BatchFrontEnd(self.config)
        for each in self.generations:
            self._step(golden, each)
        return golden

    def begin(self, stimulus: Items) -> None:
        super().begin(stimulus)
        self.ending = 0  # cycles until the executor is at the end of the program

    def control(self, cycle: int, level: Callable[[str], int]) -> Mapping[str, int]:
        ports = {name: value for name, value in super().control(cycle, level).items() if name not in NOT_SET}
        self.ending -= self.ending > 0
        return ports | {"program_done": int(self.ending == 1)}

    def react(self, stream: str, payload: Any) -> Items:
        if stream == "o_move":
            return {"i_moved": [{"error": 0}]}
        if stream == "o_operation":
            queued = self.reference.operations[self.queued]
            if queued.instruction.opcode is Opcode.END and not queued.final:
                self.ending = 1 + self.rng.choice((1, 5, 60))
        return super().react(stream, payload)

    def expected(self, stimulus: Items) -> Items:
        golden = self.golden()
        assert isinstance(golden, BatchFrontEnd)
        operations = []
        for queued in golden.operations:
            assert isinstance(queued, BatchOperation)
            operations.append({"instruction": instruction_fields(queued.instruction, self.config), "tokens": queued.tokens, "chunk": 0,
                               "positions": list(queued.positions), "sampled": queued.sampled})
        return super().expected(stimulus) | {
            "o_operation": operations, "o_copy": [vars(copy) for copy in golden.copies],
            "o_record": [{"address": read.address, "beats": read.beats} for read in golden.records],
            **({"o_move": [vars(move) for move in golden.moves]} if self.config.swap_slots else {})}

    def levels(self, stimulus: Items) -> dict[str, int]:
        golden = self.golden()
        assert isinstance(golden, BatchFrontEnd)
        swapped = golden.tables.counters if isinstance(golden.tables, SwapTables) else {}
        return super().levels(stimulus) | {"kv_free_blocks": golden.tables.pool.free,
                                           **{name: count for name, count in swapped.items() if name != "moves"}}

    def latency_stimulus(self) -> Items:
        return self.plan(self.of(random.Random(0), [Entry(EntryKind.TOKENS, 0, 1).encode(), 5]))

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"start": trace.raised["o_program"] - self.start_cycle}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"start": 2}
