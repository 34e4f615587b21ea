"""Trace of the paged cache and its pool: sequences that grow, fork, write, read, end, and ask for what they cannot have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from amaranth.lib import wiring

from ...accelerators.cache.paged import PagedCache
from ...accelerators.cache.paged_formats import SequenceCommand, SequenceError
from ...accelerators.cache.swap_formats import SwapError
from ...accelerators.config import AcceleratorConfig
from ...rtl_gen.emit import emit
from .player import Event
from .records import Judgement, Place, Trace

__all__ = ["PagedTrace"]

LAYERS, HEADS, MOST_OWNERS = 2, 2, 255


@dataclass(eq=False)
class _Block:
    """A block as its owners know it: without a number."""

    owners: int = 1


@dataclass
class _Sequence:
    length: int = 0
    blocks: list[_Block] = field(default_factory=list)
    content: dict[tuple[int, int], list[int]] = field(
        default_factory=lambda: {(layer, head): [] for layer in range(LAYERS) for head in range(HEADS)})


class PagedTrace(Trace):
    """The model has sequences of tokens and counts blocks; it knows nothing of free lists or of the order in which blocks are given.

    Numbers of blocks are learned from addresses. Two blocks that are both in use must not have the same number: so a block that is
    given out twice, or too early, is found, also where it does no harm. ``free`` must be what nobody has: so is one that is lost.
    """

    kinds: tuple[str, ...] = ("extend", "fork", "free", "read", "write", "bad")
    shares: tuple[tuple[int, ...], ...] = ((12, 4, 1, 5, 3, 2), (6, 5, 4, 8, 3, 2), (6, 5, 4, 8, 3, 2), (2, 2, 8, 5, 2, 1))
    """Of ``kinds``, while sequences grow, come and go, end."""
    cycles_per_block = 6
    errors: type[SequenceError] | type[SwapError] = SequenceError

    def __init__(self, config: AcceleratorConfig, seed: int, operations: int, *, sequences: int = 5, block_size: int = 16,
                 blocks: int = 23, component: Callable[..., wiring.Component] = PagedCache):
        super().__init__(emit(component(config, sequences=sequences, block_size=block_size, blocks=blocks), "traced_paged_cache",
                              config), seed, quiet=32 + self.cycles_per_block * (config.max_context // block_size))
        self.size, self.most = block_size, config.max_context
        self.known_sequences = 1 << (sequences - 1).bit_length()  # that a command can name
        self.blocks = self.free = blocks
        self.sequences = [_Sequence() for _ in range(sequences)]
        self.beats = self.random.choice((2, 5, config.max_record_beats))
        record = self.beats * self.bytes_per_beat
        stride = blocks * block_size * record
        self.places = {(layer, head): Place(0x1000 + layer * (HEADS * stride + 4096), head, stride, record)
                       for layer in range(LAYERS) for head in range(HEADS)}
        self.set(record_beats=self.beats, head_stride=stride)
        self.latest: tuple[int, int, int] | None = None
        self.numbers: dict[_Block, int] = {}  # of blocks in use, as they are learned, and the other way round
        self.numbered: dict[int, _Block] = {}
        self.filled: dict[int, int] = {}  # when a block had the rows that it was given by a copy
        while self.operations < operations:
            shares = self.random.choice(self.shares)
            for _ in range(self.random.randint(5, 300)):
                self.step(self.random.choices(self.kinds, shares)[0])
                if self.random.random() < 0.1:
                    self.settle(free=self.free)
            self.random.choice((self.take_all, self.share_most, lambda: None))()
        self.take_all()

    # What a user may do.

    def step(self, kind: str) -> None:
        rng, number = self.random, self.random.randrange(len(self.sequences))
        mine = self.sequences[number]
        if kind == "extend":
            self.extend(number, rng.choice((1, 1, 1, 2, self.size, rng.randint(0, 3 * self.size))))
        elif kind == "fork":
            if rng.random() < 0.7:
                self.end(number)
            other = rng.randrange(len(self.sequences))
            length = self.sequences[other].length
            self.fork(number, other, rng.choice((length, rng.randint(0, length), length - length % self.size)))
        elif kind == "free":
            self.end(number)
        elif kind in ("read", "write") and self.latest and rng.random() < 0.3:
            self.repeat(kind == "write", *self.latest)
        elif kind in ("read", "write"):
            position = rng.randint(0, mine.length)
            count = rng.choice((mine.length - position, rng.randint(0, mine.length - position), min(1, mine.length - position)))
            self.latest = number, position, count
            for _ in range(rng.choice((1, 1, 3))):
                self.rows(kind == "write", number, rng.choice(list(self.places)), position, count)
        else:
            rng.choice((self.unknown, self.too_long, self.beyond))(number)

    def repeat(self, write: bool, number: int, position: int, count: int) -> None:
        """A request as one before it: meanwhile the sequence may have other rows, or fewer."""
        if position + count <= self.sequences[number].length:
            self.rows(write, number, self.random.choice(list(self.places)), position, count)
        else:
            self.refuse(write, number, position, count)

    def unknown(self, number: int) -> None:
        """Commands and requests for sequences that are not there, and a command that is none."""
        rng = self.random
        stranger = rng.randrange(len(self.sequences), self.known_sequences) if self.known_sequences > len(self.sequences) else None
        kind = rng.randrange(5)
        if stranger is None or kind == 4:
            self.command(rng.randrange(len(SequenceCommand), 8), number, 0, 1, SequenceError.UNKNOWN, self.sequences[number].length)
        elif kind < 3:
            self.command(kind, stranger, number, rng.randint(0, self.most), SequenceError.UNKNOWN, 0)
        else:
            self.refuse(rng.getrandbits(1), stranger, 0, rng.randint(1, self.most))
        if stranger is not None:
            self.command(SequenceCommand.FORK, number, stranger, 0, SequenceError.UNKNOWN, self.sequences[number].length)

    def too_long(self, number: int) -> None:
        mine = self.sequences[number]
        if mine.length:
            self.extend(number, self.random.randint(self.most - mine.length + 1, self.most))
        elif not mine.blocks:
            other = self.random.randrange(len(self.sequences))
            if (longer := self.sequences[other].length + 1) <= self.most:
                self.fork(number, other, self.random.randint(longer, self.most))

    def beyond(self, number: int) -> None:
        position = self.random.randint(0, self.most)
        if position + self.most > (length := self.sequences[number].length):
            self.refuse(self.random.getrandbits(1), number, position, self.random.randint(max(0, length - position + 1), self.most))

    def take_all(self) -> None:
        """All blocks come back, and each is given once."""
        for number in range(len(self.sequences)):
            self.end(number)
        self.settle(free=self.blocks)
        number = 0
        while self.free and number < len(self.sequences):
            self.extend(number, min(self.free * self.size, self.most))
            number += 1
        self.settle(free=self.free)
        if self.free == 0:
            self.extend(number % len(self.sequences), self.size)
        self.settle(free=self.free)

    def share_most(self) -> None:
        """One sequence shared with all others: with more than 255 of them, as often as can be, and once more."""
        self.end(0)
        self.extend(0, self.random.randint(1, 2 * self.size))
        for number in range(1, len(self.sequences)):
            self.end(number)
            self.fork(number, 0, self.sequences[0].length)
        self.settle(free=self.free)

    # The model.

    def command(self, command: int, sequence: int, other: int, count: int, error: SequenceError | SwapError, length: int) -> None:
        self.seen[error.name] += 1
        code = self.errors[error.name]

        def judge(judgement: Judgement) -> None:
            done = judgement.next("o_done")
            judgement.check(done == {"error": code, "length": length}, f"answered {done}, not error {code}, length {length}")

        self.request("i_command", {"command": command, "sequence": sequence, "other": other, "count": count}, judge)

    def extend(self, number: int, count: int) -> None:
        mine, error = self.sequences[number], SequenceError.NONE
        old = mine.length
        if old + count > self.most:
            self.command(SequenceCommand.EXTEND, number, 0, count, SequenceError.TOO_LONG, old)
            return
        if old % self.size and count and mine.blocks[old // self.size].owners > 1:
            if self.free:
                self.copy(number, old // self.size, old % self.size)
            else:
                error = SequenceError.NO_BLOCK
        while error == SequenceError.NONE and len(mine.blocks) * self.size < old + count:
            if self.free:
                self.free -= 1
                mine.blocks.append(_Block())
            else:
                error = SequenceError.NO_BLOCK
        if error == SequenceError.NONE:
            mine.length += count
        self.command(SequenceCommand.EXTEND, number, 0, count, error, mine.length)
        if error == SequenceError.NONE:
            for key, tokens in mine.content.items():
                tokens += [0] * count  # until they are written
                self.rows(True, number, key, old, count)

    def copy(self, number: int, index: int, rows: int) -> None:
        """The sequence gets its own copy of a block."""
        mine = self.sequences[number]
        source, target = mine.blocks[index], _Block()
        self.free -= 1
        source.owners -= 1
        self.seen["copied"] += 1
        mine.blocks[index] = target

        def judge(judgement: Judgement) -> None:
            event = judgement.event("o_copy")
            copy = event.payload
            self.filled[copy["target"]] = event.cycle
            judgement.check(copy["rows"] == rows, f"copies {copy['rows']} rows, not {rows}")
            self.learn(judgement, source, copy["source"])
            self.learn(judgement, target, copy["target"])
            for place in self.places.values():
                for row in range(rows):
                    judgement.memory[place.address(copy["target"] * self.size + row)] = judgement.memory[
                        place.address(copy["source"] * self.size + row)]

        self.judge("copy", judge)

    def fork(self, number: int, other: int, count: int) -> None:
        mine, theirs = self.sequences[number], self.sequences[other]
        shared = theirs.blocks[:-(-count // self.size)]
        error, length = SequenceError.NONE, mine.length
        if count > theirs.length:
            error = SequenceError.TOO_LONG
        elif mine.length or mine.blocks:
            error = SequenceError.NOT_EMPTY
        elif any(block.owners == MOST_OWNERS for block in shared):
            error = SequenceError.SHARED_TOO_OFTEN
        else:
            for block in shared:
                block.owners += 1
            mine.blocks, mine.length, length = list(shared), count, count
            mine.content = {key: tokens[:count] for key, tokens in theirs.content.items()}
        self.command(SequenceCommand.FORK, number, other, count, error, length)

    def end(self, number: int) -> None:
        gone = []
        for block in self.sequences[number].blocks:
            block.owners -= 1
            if not block.owners:
                self.free += 1
                gone.append(block)
        self.sequences[number] = _Sequence()
        self.command(SequenceCommand.FREE, number, 0, 0, SequenceError.NONE, 0)
        self.judge("blocks given back", lambda judgement: self.forget(gone))

    def refuse(self, write: int, number: int, position: int, count: int) -> None:
        self.fails = True
        self.seen["refused"] += 1
        self.request("i_request", {"write": write, "base": 0, "head": 0, "position": position, "count": count, "sequence": number},
                     lambda judgement: judgement.refused("o_write" if write else "o_read"))

    def rows(self, write: bool, number: int, key: tuple[int, int], position: int, count: int) -> None:
        """Rows of a head: read, or written with new tokens, up to the first block that others have too."""
        mine, place = self.sequences[number], self.places[key]
        blocks = [mine.blocks[each // self.size] for each in range(position, position + count)]
        done = next((k for k, block in enumerate(blocks) if block.owners > 1), count) if write else count
        self.fails |= done < count
        self.seen["stopped at a shared block" if done < count else "written" if write else "read"] += 1
        tokens = mine.content[key][position:position + done]
        if write:
            tokens = mine.content[key][position:position + done] = [self.token() for _ in range(done)]

        def judge(judgement: Judgement) -> None:
            addresses = judgement.rows("o_write" if write else "o_read", place, position, done)
            for k, (address, block) in enumerate(zip(addresses, blocks, strict=False)):
                row, rest = divmod((address - place.address(0)) % (1 << 32), place.record)
                judgement.check(rest == 0 and row % self.size == (position + k) % self.size, f"address {address:#x} of position "
                                f"{position + k}")
                self.learn(judgement, block, row // self.size)
                judgement.check(judgement.cycles[k] > self.filled.get(row // self.size, -1),
                                f"position {position + k} was not there yet")
            (judgement.written if write else judgement.read)(addresses, tokens)
            if done < count:
                judgement.refused("o_write")

        self.request("i_request", {"write": int(write), "base": place.base, "head": place.head, "position": position, "count": count,
                                   "sequence": number}, judge)

    # Numbers of blocks: looked at when the trace is judged.

    def learn(self, judgement: Judgement, block: _Block, number: int) -> None:
        if block not in self.numbers:
            judgement.check(number < self.blocks, f"block {number} of {self.blocks}")
            judgement.check(number not in self.numbered, f"block {number} belongs to another sequence")
            self.numbers[block], self.numbered[number] = number, block
        judgement.check(self.numbers[block] == number, f"block {number} is not its own, {self.numbers[block]}")

    def forget(self, blocks: list[_Block]) -> None:
        for block in blocks:
            if block in self.numbers:
                del self.numbered[self.numbers.pop(block)]

    def check(self, events: Sequence[Event]) -> None:
        self.numbers.clear()
        self.numbered.clear()
        self.filled.clear()
        super().check(events)
