"""Benches of the block pool and of the paged cache."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

from ...accelerators.config import block_count
from ..golden.cache import record_beats
from ..golden.paged import BlockPool, PagedTables
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["BlockPoolBench", "PagedCacheBench", "refused"]

ALLOCATE, SHARE, RELEASE = range(3)
EXTEND, FORK, FREE, COMPARE = range(4)
SEQUENCES, BLOCK_SIZE = 4, 16


def refused(write: bool) -> tuple[str, dict[str, int | None]]:
    """The stream and the item that answer a request that is refused."""
    answer: dict[str, int | None] = {"address": None, "beats": 0, "error": 1}
    return ("o_write", answer) if write else ("o_read", answer | {"position": None, "count": 0, "last": 1})


class BlockPoolBench(UnitBench):
    """Random commands; blocks are known from the golden model, so most commands are about blocks in use."""

    asked = (0, 1)

    def constants(self) -> Mapping[str, int]:
        first, second = self.asked
        return {"asked": first | second << (block_count(self.config, BLOCK_SIZE, SEQUENCES) - 1).bit_length()}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        pool, commands = BlockPool(block_count(self.config, BLOCK_SIZE, SEQUENCES)), []
        for _ in range(6):
            shares = rng.choice(((8, 2, 1), (2, 4, 4), (1, 1, 8)))
            for _ in range(rng.randint(10, 120)):
                used = [block for block, count in enumerate(pool.counts) if count]
                block = rng.choice(used) if used and rng.random() < 0.9 else rng.randrange(pool.blocks)
                commands.append({"command": rng.choices(range(3), shares)[0], "block": block})
                self._answer(pool, commands[-1])
        return {"i": commands}

    def boundary(self) -> Items:
        """All blocks and one more, twice; the most owners, and one more; none, and one fewer; a command that does not exist."""
        blocks = block_count(self.config, BLOCK_SIZE, SEQUENCES)
        everything = [{"command": ALLOCATE, "block": 0}] * (blocks + 1)
        back = [{"command": RELEASE, "block": block} for block in (*range(blocks), 0)]
        return {"i": [{"command": command, "block": block} for command in (SHARE, RELEASE, RELEASE + 1) for block in (0, blocks - 1)]
                + everything + [{"command": SHARE, "block": 1}] * 256 + [{"command": RELEASE, "block": 1}] * 256 + back + everything}

    def expected(self, stimulus: Items) -> Items:
        pool = BlockPool(block_count(self.config, BLOCK_SIZE, SEQUENCES))
        return {"o": [self._answer(pool, command) for command in stimulus["i"]]}

    @staticmethod
    def _answer(pool: BlockPool, command: dict[str, int]) -> dict[str, int | None]:
        block = command["block"]
        if command["command"] > RELEASE:
            return {"block": block, "count": None, "refused": 1}
        if command["command"] == ALLOCATE:
            given = pool.allocate()
            return {"block": given.block, "count": 1, "refused": 0} if given else {"block": None, "count": 0, "refused": 1}
        return vars((pool.share if command["command"] == SHARE else pool.release)(block))

    def levels(self, stimulus: Items) -> dict[str, int]:
        pool = BlockPool(block_count(self.config, BLOCK_SIZE, SEQUENCES))
        for command in stimulus["i"]:
            self._answer(pool, command)
        counts = [pool.counts[block] for block in self.asked]
        return {"free": pool.free} | ({"shared": sum((count > 1) << k for k, count in enumerate(counts))} if all(counts) else {})


class PagedCacheBench(UnitBench):
    """A script of commands and requests, each offered when the one before it was taken: so their order is known."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.beats = record_beats(config.max_head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
        self.head_stride = block_count(config, BLOCK_SIZE, SEQUENCES) * BLOCK_SIZE * self.beats * config.bus_bytes

    def constants(self) -> Mapping[str, int]:
        return {"record_beats": self.beats, "head_stride": self.head_stride}

    script: list[tuple[str, dict[str, int]]]

    def _tables(self) -> PagedTables:
        return PagedTables(sequences=SEQUENCES, max_context=self.config.max_context, block_size=BLOCK_SIZE,
                           blocks=block_count(self.config, BLOCK_SIZE, SEQUENCES))

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.script = []
        tables = self._tables()
        for _ in range(80):
            sequence = rng.randrange(SEQUENCES)
            length = tables.sequences[sequence].length
            kind = rng.choices(("extend", "fork", "free", "compare", "read", "write"), (6, 3, 2, 4, 6, 3))[0]
            if kind == "extend":
                count = rng.choice((0, 1, 1, 1, 16, rng.randint(0, 40), rng.randint(0, self.config.max_context)))
                self._do(tables, EXTEND, sequence, 0, count)
            elif kind == "fork":
                other = rng.randrange(SEQUENCES)
                if rng.random() < 0.8:
                    self._do(tables, FREE, sequence, 0, 0)
                at_most = tables.sequences[other].length
                self._do(tables, FORK, sequence, other, rng.choice((at_most, rng.randint(0, at_most), min(at_most + 1,
                                                                    self.config.max_context))))
            elif kind == "free":
                self._do(tables, FREE, sequence, 0, 0)
            elif kind == "compare":
                other = rng.randrange(SEQUENCES)
                both = min(length, tables.sequences[other].length)
                self._do(tables, COMPARE, sequence, other, rng.choice((0, both, rng.randint(0, both), min(BLOCK_SIZE, both),
                                                                       min(both + 1, self.config.max_context))))
            else:
                position = rng.randint(0, length)
                count = rng.choice((0, min(1, length - position), length - position, rng.randint(0, length - position),
                                    min(length - position + 1, self.config.max_context - position)))
                self._ask(kind == "write", sequence, rng.getrandbits(16) * self.config.bus_bytes, rng.randrange(8), position, count)
        return {}

    def boundary(self) -> Items:
        """A sequence of the full context, in blocks that do not lie in order; shared whole; every other block its own."""
        self.script = []
        tables, context = self._tables(), self.config.max_context
        for _ in range(context // BLOCK_SIZE // 2):
            for sequence in (0, 1):
                self._do(tables, EXTEND, sequence, 0, BLOCK_SIZE)
        self._do(tables, EXTEND, 0, 0, context)
        self._do(tables, FREE, 1, 0, 0)
        self._do(tables, EXTEND, 0, 0, context - tables.sequences[0].length)
        self._do(tables, FORK, 1, 0, context)
        self._do(tables, FORK, 2, 0, context - 1)
        self._do(tables, FORK, 3, 2, BLOCK_SIZE + 1)
        for sequence, other, count in ((0, 1, context), (2, 1, context), (2, 1, context - 1), (1, 3, BLOCK_SIZE + 1), (0, 0, context)):
            self._do(tables, COMPARE, sequence, other, count)
        for sequence in range(SEQUENCES):
            for write in (0, 1):
                self._ask(write, sequence, (1 << 32) - self.config.bus_bytes, 255, 0, tables.sequences[sequence].length)
        self._do(tables, EXTEND, 3, 0, 1)
        self._do(tables, EXTEND, 2, 0, 1)
        for count in (BLOCK_SIZE, BLOCK_SIZE + 1):
            self._do(tables, COMPARE, 3, 2, count)
        self._ask(1, 3, 0, 0, BLOCK_SIZE + 1, 1)
        self._ask(1, 2, 0, 0, context - 1, 1)
        for sequence in (0, 1, 2, 3, 3):
            self._do(tables, FREE, sequence, 0, 0)
        return {}

    def _do(self, tables: PagedTables, command: int, sequence: int, other: int, count: int) -> None:
        self.script.append(("i_command", {"command": command, "sequence": sequence, "other": other, "count": count}))
        self._apply(tables, self.script[-1][1])

    def _ask(self, write: int, sequence: int, base: int, head: int, position: int, count: int) -> None:
        self.script.append(("i_request", {"write": int(write), "sequence": sequence, "base": base, "head": head,
                                          "position": position, "count": count}))

    @staticmethod
    def _apply(tables: PagedTables, command: dict[str, int]) -> tuple[Any, Any]:
        kind, sequence = command["command"], command["sequence"]
        if kind == EXTEND:
            return tables.extend(sequence, command["count"])
        if kind == FREE:
            return tables.free(sequence), None
        return (tables.fork if kind == FORK else tables.compare)(sequence, command["other"], command["count"]), None

    def _outcome(self) -> Iterator[tuple[str, Any]]:
        """Every output item with its stream; ``error`` for the sticky level."""
        tables = self._tables()
        for stream, item in self.script:
            if stream == "i_command":
                done, copy = self._apply(tables, item)
                if copy is not None:
                    yield "o_copy", vars(copy)
                yield "o_done", vars(done)
                continue
            place = {name: item[name] for name in ("sequence", "base", "head", "position", "count")}
            for command in tables.commands(**place, write=bool(item["write"]), record_beats=self.beats,
                                           head_stride=self.head_stride, bus_bits=self.config.bus_bits):
                if command is None:
                    yield "error", 1
                    yield refused(bool(item["write"]))
                else:
                    burst, where = command
                    yield ("o_write", vars(burst) | {"error": 0}) if item["write"] else ("o_read", vars(burst) | where | {"error": 0})
        yield "free", tables.pool.free

    def begin(self, stimulus: Items) -> None:
        self.place, self.waiting = 0, False

    def offers(self) -> Items:
        if self.waiting or self.place == len(self.script):
            return {}
        self.waiting = True
        stream, item = self.script[self.place]
        return {stream: [item]}

    def accepted(self, stream: str, payload: Any) -> Items:
        self.place, self.waiting = self.place + 1, False
        return {}

    def expected(self, stimulus: Items) -> Items:
        items: Items = {"o_done": [], "o_copy": [], "o_read": [], "o_write": []}
        for stream, item in self._outcome():
            if stream in items:
                items[stream].append(item)
        return items

    def levels(self, stimulus: Items) -> dict[str, int]:
        outcome = list(self._outcome())
        return {"error": int(("error", 1) in outcome), "free": outcome[-1][1]}

    def latency_stimulus(self) -> Items:
        self.script = []
        tables = self._tables()
        for command in ((EXTEND, 0, 0, 0), (EXTEND, 0, 0, BLOCK_SIZE), (EXTEND, 0, 0, 3 * BLOCK_SIZE - 2), (EXTEND, 0, 0, 1),
                        (FORK, 1, 0, 0), (FORK, 1, 0, 1), (FREE, 1, 0, 0), (FORK, 1, 0, 4 * BLOCK_SIZE - 1),
                        (COMPARE, 1, 0, 0), (COMPARE, 1, 0, BLOCK_SIZE), (COMPARE, 1, 0, 3 * BLOCK_SIZE), (EXTEND, 1, 0, 1),
                        (FREE, 2, 0, 0), (FREE, 1, 0, 0), (EXTEND, 0, 0, 1), (EXTEND, 2, 0, BLOCK_SIZE), (FREE, 3, 0, 0)):
            self._do(tables, *command)
        for write, sequence, head in ((0, 3, 0), (0, 3, 0), (0, 0, 0), (1, 0, 0), *((1, 2, head) for head in range(4))):
            self._ask(write, sequence, 0, head, 0, BLOCK_SIZE if sequence != 3 else 0)
        return {}

    def measure(self, trace: Trace) -> dict[str, int]:
        none, one, three, tail, fork, forked, _, fork_four, nothing, first, third, copy, free, free_four, owned, *_ = (
            end - start for start, end in zip(trace.accepted["i_command"], trace.delivered["o_done"], strict=True))
        requests, written = trace.accepted["i_request"][2:], trace.delivered["o_write"]
        read, forked_write, write, again = (end - start for start, end in zip(
            (*requests[:3], requests[4]), (trace.delivered["o_read"][0], *written[:2], written[3]), strict=True))
        assert nothing == fork and none == one == tail == owned and fork_four - fork == 4 * (forked - fork) and forked_write == write
        return {"read": read, "write": write, "again": again, "interval": requests[5] - requests[4],
                "extend": none, "extend_block": (three - one) // 2, "copy": copy - none, "fork": fork, "fork_block": forked - fork,
                "free": free, "free_block": (free_four - free) // 4,
                "compare": first - (third - first) // 2, "compare_block": (third - first) // 2}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {**attributes["latency"], "interval": attributes["interval"]}
