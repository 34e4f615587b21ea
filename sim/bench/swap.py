"""Bench of the paged cache that swaps: it plays the mover."""

import random
from collections.abc import Mapping
from typing import Any

from ...accelerators.config import block_count
from ..golden.cache import record_beats
from ..golden.swap import SwapTables
from .paged import refused
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["SwapControllerBench"]

EXTEND, FORK, FREE, MARK, SWAP_OUT, SWAP_IN = range(6)
COUNTERS = ("rows_out", "rows_in", "moves", "clean_blocks")


class SwapControllerBench(UnitBench):
    """A script of commands and requests, each offered when the one before it was taken: so their order is known. While a swap is under
    way, only what comes out alike before and after its end is offered: reads, requests that wait, and, while a sequence
    comes back, commands about others."""

    patience = 4000
    longest_move = 60
    steps = 80

    def __init__(self, config: Any):
        super().__init__(config)
        self.sequences, self.block_size = config.sequences, config.block_size
        self.blocks = self.slots = block_count(config, self.block_size, self.sequences)
        self.beats = record_beats(config.max_head_dim, kv_bits=config.kv_bits, bus_bits=config.bus_bits)
        self.head_stride = self.blocks * self.block_size * self.beats * config.bus_bytes

    def constants(self) -> Mapping[str, int]:
        return {"record_beats": self.beats, "head_stride": self.head_stride}

    script: list[tuple[str | None, Any]]  # (stream, item), or (None, swaps that must have ended)
    failing: set[int]
    delays: random.Random | None

    def _start(self) -> None:
        self.script, self.failing, self.error = [], set(), 0
        self.tables = SwapTables(sequences=self.sequences, max_context=self.config.max_context, block_size=self.block_size,
                                 blocks=self.blocks, slots=self.slots)
        self.items: Items = {"o_done": [], "o_swapped": [], "o_move": [], "o_copy": [], "o_read": [], "o_write": []}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self._start()
        self.delays = random.Random(rng.getrandbits(32))
        self._random(rng, self.steps)
        return {}

    def _random(self, rng: random.Random, steps: int) -> None:
        moving, leaves = None, False  # the sequence of a swap that may still be under way
        for _ in range(steps):
            kinds, shares = ("extend", "fork", "free", "mark", "out", "in", "read", "write"), (7, 3, 1, 1, 6, 6, 5, 4)
            kind = rng.choices(kinds, shares)[0]
            sequence, other = rng.randrange(self.sequences), rng.randrange(self.sequences)
            if moving is not None and kind in kinds[:4]:
                if leaves or moving in (sequence, other):
                    sequence, moving = moving, None  # waits
            elif moving is not None and kind == "write" and leaves:
                kind = "read"
            if moving is not None and kind in ("read", "write") and rng.random() < 0.5:
                sequence = moving
            length = self.tables.lengths[sequence] or self.tables.cache.sequences[sequence].length
            if kind == "extend":
                self.command(EXTEND, sequence, other, rng.choice((0, 1, 1, self.block_size, rng.randint(0, 5 * self.block_size),
                                                                  rng.randint(0, self.config.max_context))))
            elif kind == "fork":
                there = self.tables.cache.sequences[other].length
                if rng.random() < 0.7:
                    self.command(FREE, sequence, other, 0)
                self.command(FORK, sequence, other, rng.choice((there, rng.randint(0, there), min(there + 1, self.config.max_context))))
            elif kind in ("free", "mark"):
                self.command(FREE if kind == "free" else MARK, sequence, other, rng.randint(0, length))
            elif kind in ("out", "in"):
                waiting = [each for each, out in enumerate(self.tables.lengths) if bool(out) == (kind == "in")]
                if waiting and rng.random() < 0.8:
                    sequence = rng.choice(waiting)
                moving, leaves = self.swap(SWAP_OUT if kind == "out" else SWAP_IN, sequence, fails=rng.random() < 0.1), kind == "out"
            else:
                position = rng.randint(0, length)
                count = rng.choice((0, min(1, length - position), length - position, rng.randint(0, length - position)))
                self.request(kind == "write", sequence, rng.getrandbits(16) * self.config.bus_bytes, rng.randrange(8), position, count)

    def command(self, command: int, sequence: int, other: int = 0, count: int = 0) -> None:
        self.script.append(("i_command", {"command": command, "sequence": sequence, "other": other, "count": count}))
        copy = None
        if command == EXTEND:
            done, copy = self.tables.extend(sequence, count)
        elif command == FORK:
            done = self.tables.fork(sequence, other, count)
        else:
            done = self.tables.free(sequence) if command == FREE else self.tables.mark(sequence, count)
        self.items["o_done"].append(vars(done))
        if copy:
            self.items["o_copy"].append(vars(copy))

    def swap(self, command: int, sequence: int, fails: bool = False) -> int | None:
        """The sequence, if it moves and does so without an error."""
        self.script.append(("i_command", {"command": command, "sequence": sequence, "other": 0, "count": 0}))
        done = self.tables.swap_out(sequence) if command == SWAP_OUT else self.tables.swap_in(sequence)
        self.items["o_done"].append(vars(done))
        swap = self.tables.swap
        if swap is None:
            return None
        moves = [vars(move) for move in swap.moves]
        fails = fails and bool(moves)
        if fails:
            self.failing.add(len(self.items["o_move"]) + len(moves) // 2)
        self.items["o_move"] += moves
        self.items["o_swapped"].append({"sequence": sequence, "error": int(fails)})
        if fails:
            self.wait()
        self.tables.finish(fails)
        return None if fails else sequence

    def wait(self) -> None:
        """What follows is offered when all swaps have ended."""
        self.script.append((None, len(self.items["o_swapped"])))

    def request(self, write: int, sequence: int, base: int, head: int, position: int, count: int) -> None:
        item = {"write": int(write), "sequence": sequence, "base": base, "head": head, "position": position, "count": count}
        self.script.append(("i_request", item))
        for run in self.tables.request(sequence, position, count, write=bool(write)):
            if run is None:
                self.error = 1
                stream, answer = refused(bool(write))
                self.items[stream].append(answer)
                continue
            start, rows, at = run
            row = self.beats * self.config.bus_bytes
            burst = {"address": (base + head * self.head_stride + start * row) % (1 << 32), "beats": rows * self.beats, "error": 0}
            last = {"position": at, "count": rows, "last": int(at + rows == position + count)}
            self.items["o_write" if write else "o_read"].append(burst if write else burst | last)

    def boundary(self) -> Items:
        """Whole contexts in blocks that do not lie in order; all slots and one too few, no block left; shared blocks; the
        last slot and the first one are not one run; commands and sequences that there are not."""
        self._start()
        self.delays = random.Random(0)
        context, size = self.config.max_context, self.block_size
        none = [(EXTEND, each) for each in range(self.sequences, 1 << (self.sequences - 1).bit_length())]
        for command, sequence in ((6, 0), (7, 0), *none):
            self.script.append(("i_command", {"command": command, "sequence": sequence, "other": 0, "count": 0}))
            self.items["o_done"].append({"error": 8, "length": 0})
        for command in (SWAP_OUT, SWAP_IN):
            self.swap(command, 0)
        for _ in range(context // size // 2):
            for sequence in (0, 1):
                self.command(EXTEND, sequence, 0, size)
        self.command(FREE, 1)
        self.command(EXTEND, 0, 0, context - size * (context // size // 2) - 1)
        for command in (SWAP_OUT, SWAP_IN, SWAP_OUT, SWAP_OUT, SWAP_IN):
            self.swap(command, 0)
        self.request(1, 0, 0, 0, size - 1, 2)
        self.swap(SWAP_OUT, 0)
        self.command(EXTEND, 0, 0, 1)
        self.command(FORK, 0, 1)
        self.command(MARK, 0)
        self.request(0, 0, 0, 0, 0, 1)
        for sequence in range(1, self.sequences):
            self.command(EXTEND, sequence, 0, context)
            self.swap(SWAP_OUT, sequence)
            self.wait()
        self.swap(SWAP_IN, 0)
        self.swap(SWAP_IN, 1)
        self.command(FREE, 1)
        self.swap(SWAP_IN, 0)
        self.command(FORK, 1, 0, context - 1)
        self.swap(SWAP_OUT, 0)
        self.wait()
        self.command(EXTEND, 1, 0, 1)
        self.swap(SWAP_OUT, 0)
        self.command(FREE, 1)
        self.swap(SWAP_OUT, 0, fails=True)
        self.swap(SWAP_OUT, 0)
        self.swap(SWAP_IN, 0, fails=True)
        for sequence in range(self.sequences):
            self.command(FREE, sequence)
        return {}

    def begin(self, stimulus: Items) -> None:
        self.place, self.waiting, self.moves, self.swaps, self.wanted, self.left = 0, False, 0, 0, 0, -1

    def offers(self) -> Items:
        items: Items = {}
        if self.left >= 0:
            self.left -= 1
            if self.left < 0:
                items["i_moved"] = [{"error": int(self.moves - 1 in self.failing)}]
        while not self.waiting and self.place < len(self.script):
            stream, item = self.script[self.place]
            if stream == "i_command" and self._holds():
                break
            if stream is not None:
                self.waiting = True
                items[stream] = [item]
            elif self.swaps < item:
                break
            else:
                self.place += 1
        return items

    def _holds(self) -> bool:
        """Whether the next command must not be offered yet."""
        return False

    def accepted(self, stream: str, payload: Any) -> Items:
        if stream in ("i_command", "i_request"):
            self.place, self.waiting = self.place + 1, False
        return {}

    def react(self, stream: str, payload: Any) -> Items:
        if stream == "o_move":
            self.moves += 1
            self.left = self.delays.randrange(self.longest_move) if self.delays else 9
        self.swaps += stream == "o_swapped"
        return {}

    def expected(self, stimulus: Items) -> Items:
        return self.items

    def levels(self, stimulus: Items) -> dict[str, int]:
        return {"error": self.error, "free": self.tables.cache.pool.free, "room": self.tables.room, **self.tables.counters}

    def latency_stimulus(self) -> Items:
        self._start()
        self.delays = None
        for blocks in (1, 2):
            self.command(EXTEND, 0, 0, blocks * self.block_size)
            self.command(FREE, self.sequences - 1)
            for write in (0, 1) if blocks == 1 else ():
                self.request(write, 0, 0, 0, 0, self.block_size)
                for _ in range(10):  # meanwhile its burst leaves
                    self.command(FREE, self.sequences - 1)
            for command in (SWAP_OUT, SWAP_IN):
                self.swap(command, 0)
            self.command(MARK, 0)
        return {}

    def measure(self, trace: Trace) -> dict[str, int]:
        commands, moves = trace.accepted["i_command"], trace.delivered["o_move"]
        places = [k for k, (_, item) in enumerate(each for each in self.script if each[0] == "i_command")
                  if item["command"] in (SWAP_OUT, SWAP_IN)]
        one_out, one_in, three_out, three_in = (move - commands[place] for move, place in zip(moves, places, strict=True))
        assert not (three_out - one_out) % 2 and not (three_in - one_in) % 2
        read, write = (trace.delivered[stream][0] - trace.accepted["i_request"][k] for k, stream in enumerate(("o_read", "o_write")))
        return {"read": read, "write": write, "swap_out": one_out, "out_block": (three_out - one_out) // 2, "swap_in": one_in,
                "in_block": (three_in - one_in) // 2}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return attributes["latency"]
