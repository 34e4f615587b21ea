"""Cases of the front end of several sequences beyond the menu: batches that are none."""

import random
from typing import Any

import cocotb

from ...accelerators.control.entries import Entry, EntryKind
from ...accelerators.control.errors import ErrorCause
from .agents import BenchFailure, bursts
from .batch import BatchFrontEndBench
from .environment import Environment
from .frontend import VOCABULARY


def spoiled(rng: random.Random, bench: BatchFrontEndBench, number: int) -> list[int]:
    """A list that is not a batch, behind an entry that is one."""
    lanes, sequences, size = bench.config.token_lanes, bench.config.sequences, bench.config.block_size
    bad = [
        [0], [Entry(EntryKind.TOKENS, rng.randrange(sequences), 0).encode()], [Entry(EntryKind.TOKENS, sequences, 1).encode(), 1],
        [Entry(EntryKind.TOKENS, 0, lanes + 1).encode(), *[1] * (lanes + 1)], [Entry(EntryKind.TOKENS, 0, 2, feed=True).encode()],
        [Entry(EntryKind.TOKENS, 0, 1).encode(), 1, Entry(EntryKind.TOKENS, 1, lanes).encode(), *[1] * lanes],
        [Entry(EntryKind.FORK, 1, size, sequences).encode()],
        [Entry(EntryKind.FREE, 0).encode(), Entry(EntryKind.TOKENS, 0, 1).encode(), 1, Entry(EntryKind.FORK, 1, 1, 0).encode()],
        [Entry(EntryKind.FREE, sequences).encode()], [Entry(EntryKind.TOKENS, 0, 2).encode(), 1],
        [Entry(EntryKind.FORK, 1, 2 * bench.config.max_context + size, 0).encode()],
        [Entry(EntryKind.GROUP, 0, size + 1, 1).encode()], [Entry(EntryKind.GROUP, 0, 0, 1).encode()],
        [Entry(EntryKind.GROUP, sequences, size, 1).encode()], [Entry(EntryKind.GROUP, 0, size, 1).encode()] * 2,
        [Entry(EntryKind.FREE, 0).encode(), Entry(EntryKind.GROUP, 0, size, 1).encode(), Entry(EntryKind.TOKENS, 0, 1).encode(), 1],
    ]
    return [Entry(EntryKind.FREE, rng.randrange(sequences)).encode(), *bad[number]]


async def stops(dut: Any, cause: ErrorCause, rounds: int, words: Any, begin: Any = None) -> None:
    """Some sound steps, at random or those of ``begin``, then one that stops the front end."""
    env = Environment(dut)
    bench = env.bench
    assert isinstance(bench, BatchFrontEndBench)
    rng = env.rng(cause.name)
    for number in range(rounds):
        sound = bench.steps(rng, 0, begin(bench)) if begin else bench.steps(rng, 2)
        stimulus = bench.plan(*sound, bench.of(rng, words(rng, bench, number)))
        if bench.golden().error != cause:
            raise BenchFailure(f"the golden model says {bench.golden().error!r}, not {cause!r}, in round {number}")
        share = rng.choice((0.3, 1.0))
        await env.run(stimulus, sources=bursts(rng, share), sinks=bursts(rng, share))


@cocotb.test()
async def illegal_batch(dut: Any) -> None:
    await stops(dut, ErrorCause.ILLEGAL_BATCH, 16, spoiled)


@cocotb.test()
async def illegal_group(dut: Any) -> None:
    """Of sequences that have their first block apart, and the second; of more than both had."""
    def words(rng: random.Random, bench: BatchFrontEndBench, number: int) -> list[int]:
        size = bench.config.block_size
        return [Entry(EntryKind.GROUP, 0, (2 * size, 2 * size, 3 * size)[number], 3).encode(),
                *(word for k in ((0, 2, 1), (0, 1, 3), (0, 1, 0))[number] for word in (Entry(EntryKind.TOKENS, k, 1).encode(), k))]

    def begin(bench: BatchFrontEndBench) -> list[list[int]]:
        """All have two blocks; 1 has both of sequence 0, 3 the first one."""
        size = bench.config.block_size
        forks = [[Entry(EntryKind.FORK, 1, 2 * size, 0).encode(), Entry(EntryKind.FORK, 3, size, 0).encode()]]
        return [*bench.filled(0, 2), *bench.filled(2, 2), *forks, *bench.filled(3, 1)]

    await stops(dut, ErrorCause.ILLEGAL_BATCH, 3, words, begin)


@cocotb.test()
async def contradiction(dut: Any) -> None:
    """A sequence is freed in the batch that has tokens of it."""
    def words(rng: random.Random, bench: BatchFrontEndBench, number: int) -> list[int]:
        free = Entry(EntryKind.FREE, 0).encode()
        return [free, Entry(EntryKind.TOKENS, 0, 1).encode(), rng.randrange(VOCABULARY), free]

    await stops(dut, ErrorCause.CACHE_FULL, 2, words)


@cocotb.test()
async def empty_batch(dut: Any) -> None:
    await stops(dut, ErrorCause.EMPTY_PROMPT, 2, lambda rng, bench, number: [])


@cocotb.test()
async def token_out_of_range(dut: Any) -> None:
    """At any place of a batch."""
    def words(rng: random.Random, bench: BatchFrontEndBench, number: int) -> list[int]:
        ids = [rng.randrange(VOCABULARY) for _ in range(bench.config.token_lanes)]
        ids[number % len(ids)] = rng.choice((VOCABULARY, (1 << 32) - 1))
        return [Entry(EntryKind.FREE, 0).encode(), Entry(EntryKind.TOKENS, 0, len(ids), sample=True).encode(), *ids]

    await stops(dut, ErrorCause.TOKEN_OUT_OF_RANGE, 4, words)
