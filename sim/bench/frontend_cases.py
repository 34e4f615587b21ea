"""Cases of the front end beyond the menu: everything that stops it."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cocotb

from ...accelerators.control.errors import ErrorCause
from ...accelerators.control.isa import CHECK_SEED, INSTRUCTION_BYTES, Flag, Opcode, decode_program, encode_program, opcodes
from .agents import BenchFailure, bursts
from .environment import Environment
from .frontend import VOCABULARY, FrontEndBench, Generation

ROUNDS = 6
Spoil = Callable[[FrontEndBench, random.Random, int], tuple[Generation, int]]
"""Called with a generator and the number of the round."""


async def _stops(dut: Any, cause: ErrorCause, spoil: Spoil, rounds: int = ROUNDS) -> None:
    """Several times: a sound generation, then the one that ``spoil`` gives, with the information it must end with."""
    env = Environment(dut)
    bench = env.bench
    assert isinstance(bench, FrontEndBench)
    rng = env.rng(cause.name)
    for number in range(rounds):
        bad, info = spoil(bench, rng, number)
        stimulus = bench.plan(bench.generation(rng, 2, 1), bad)
        golden = bench.golden()
        if (golden.error, golden.info) != (cause, info):
            raise BenchFailure(f"the golden model says {golden.error!r} with {golden.info}, not {cause!r} with {info}")
        share = rng.choice((0.3, 1.0))
        await env.run(stimulus, sources=bursts(rng, share), sinks=bursts(rng, share))


@cocotb.test()
async def empty_prompt(dut: Any) -> None:
    def spoil(bench: FrontEndBench, rng: random.Random, number: int) -> tuple[Generation, int]:
        bad = bench.generation(rng, 3, 2)
        change = ({"prompt_length": 0}, {"max_new_tokens": 0})[number % 2]
        bad.settings = replace(bad.settings, **change)
        return bad, bad.settings.prompt_length

    await _stops(dut, ErrorCause.EMPTY_PROMPT, spoil)


@cocotb.test()
async def prompt_too_long(dut: Any) -> None:
    """Beyond the register's capacity, or the accelerator's."""
    def spoil(bench: FrontEndBench, rng: random.Random, number: int) -> tuple[Generation, int]:
        bad = bench.generation(rng, 5, 2)
        limit = bench.config.max_positions
        capacity = min((rng.randint(4, limit), limit + 1, 2 * limit, (1 << 20) - 1)[number % 4], (1 << 20) - 1)
        bad.settings = replace(bad.settings, **{bench.longest: capacity}, start_position=min(capacity, limit) - 4)
        return bad, min(capacity, limit) + 1

    await _stops(dut, ErrorCause.PROMPT_TOO_LONG, spoil)


@cocotb.test()
async def context_full(dut: Any) -> None:
    def spoil(bench: FrontEndBench, rng: random.Random, number: int) -> tuple[Generation, int]:
        length, steps = rng.randint(1, 2 * bench.config.token_lanes), rng.randint(0, 3)
        bad = bench.generation(rng, length, 10)
        limit = bench.config.max_positions
        capacity = (length + steps, limit)[number % 2]
        bad.settings = replace(bad.settings, start_position=capacity - length - steps,
                               **{bench.longest: capacity if capacity < limit else (1 << 20) - 1})
        return bad, capacity

    await _stops(dut, ErrorCause.CONTEXT_FULL, spoil)


@cocotb.test()
async def no_room_for_the_window(dut: Any) -> None:
    """Sinks and window need more slots than there are; there is no window; slots are taken while a token still needs them."""
    def spoil(bench: FrontEndBench, rng: random.Random, number: int) -> tuple[Generation, int]:
        lanes = bench.config.token_lanes
        bad = bench.generation(rng, 2 * lanes, 1)
        sinks, window = rng.randint(0, 4), rng.randint(lanes, 10)
        bad.settings = replace(bad.settings, start_position=20, kv_sinks=sinks, kv_window=window, kv_capacity=sinks + window - 1)
        if number % 3 == 1:
            bad.settings = replace(bad.settings, kv_window=0, kv_capacity=40)
            return bad, sinks
        if number % 3 == 2 and lanes > 1:
            bad.settings = replace(bad.settings, kv_capacity=sinks + window, kv_positions=(1 << 20) - 1)
            all_seen = (replace(op, first=0, end=0) for op in decode_program(bad.program))  # a range may leave out what is gone
            bad.program = encode_program(all_seen)
            return bad, 20
        return bad, sinks + window

    if Environment(dut).bench.config.cache == "window":
        await _stops(dut, ErrorCause.CACHE_FULL, spoil)


@cocotb.test()
async def no_room_for_the_budget(dut: Any) -> None:
    """What always stays takes all rows; more rows than there are."""
    def spoil(bench: FrontEndBench, rng: random.Random, number: int) -> tuple[Generation, int]:
        bad = bench.generation(rng, 2, 1)
        sinks, recent = rng.randint(0, 4), rng.randint(0, 10)
        rows = sinks + recent if number % 2 else (bench.config.max_budget + 1, 1 << 19)[number // 2 % 2]
        bad.settings = replace(bad.settings, kv_sinks=sinks, kv_window=recent, kv_capacity=rows)
        return bad, sinks + recent

    if Environment(dut).bench.config.cache == "evict":
        await _stops(dut, ErrorCause.CACHE_FULL, spoil)


@cocotb.test()
async def token_out_of_range(dut: Any) -> None:
    """In the prompt, at any place of a chunk; or sampled."""
    def spoil(bench: FrontEndBench, rng: random.Random, number: int) -> tuple[Generation, int]:
        bad = bench.generation(rng, rng.randint(1, 2 * bench.config.token_lanes + 1), 3)
        bad.settings = replace(bad.settings, ignore_eos=1)
        token = (VOCABULARY, VOCABULARY + 1, 1 << 20, 1 << 31, (1 << 32) - 1, VOCABULARY)[number]
        if number < 5:
            bad.prompt[rng.randrange(len(bad.prompt))] = token
        else:
            bad.sampled[rng.randrange(2)] = (token, 1)
        return bad, token

    await _stops(dut, ErrorCause.TOKEN_OUT_OF_RANGE, spoil)


@cocotb.test()
async def illegal_instruction(dut: Any) -> None:
    """A flipped bit, or a code that no operation has, anywhere in the program."""
    def spoil(bench: FrontEndBench, rng: random.Random, number: int) -> tuple[Generation, int]:
        program = bench.program(rng)
        bad = bench.generation(rng, rng.randint(1, 2 * bench.config.token_lanes + 1), 3, program)
        place = rng.randrange(len(program))
        code = bytearray(bad.program)
        words = [int.from_bytes(code[k:k + 4], "little")
                 for k in range(place * INSTRUCTION_BYTES, (place + 1) * INSTRUCTION_BYTES, 4)]
        if number % 2:
            words[rng.randrange(16)] ^= 1 << rng.randrange(32)
        else:
            words[0] = words[0] >> 8 << 8 | rng.choice([k for k in range(256) if k not in opcodes(bench.config)])
            words[15] = CHECK_SEED
            for word in words[:15]:
                words[15] ^= word
        code[place * INSTRUCTION_BYTES:(place + 1) * INSTRUCTION_BYTES] = b"".join(w.to_bytes(4, "little") for w in words)
        bad.program = bytes(code)
        return bad, place * INSTRUCTION_BYTES

    await _stops(dut, ErrorCause.ILLEGAL_INSTRUCTION, spoil)


@cocotb.test()
async def list_that_cannot_be(dut: Any) -> None:
    """Fields of DEVIATE that are out of their ranges, one more list, a token beside it."""
    def spoil(bench: FrontEndBench, rng: random.Random, number: int) -> tuple[Generation, int]:
        length, rows = rng.randint(1, 2 * bench.config.token_lanes), rng.randint(1, 4)
        program = bench.listing_program(rng, rows)
        start = max(0, rows - length)
        *_, deviate, end = program
        head = replace(deviate, opcode=Opcode.HEAD)
        change: list[dict[str, Any]] = [{"count": 0}, {"words": 0}, {"beats": 0}, {"rows": 0}, {"rows": start + length + 1},
                                        {"tiles": 257}, {"flags": deviate.flags & ~Flag.LAST_CHUNK}]
        if number < len(change):
            program[-2] = replace(deviate, **change[number])
            # Without the flag it comes in the first chunk, which is as bad.
        else:
            program[-2:] = [(deviate, deviate, end), (deviate, head, end), (head, deviate, end)][number - len(change)]
        bad = bench.generation(rng, length, 1, program)
        bad.settings = replace(bad.settings, start_position=start, kv_capacity=bench.config.max_context)
        return bad, (len(program) - 2) * INSTRUCTION_BYTES

    if Environment(dut).bench.config.selective_recompute:
        await _stops(dut, ErrorCause.ILLEGAL_INSTRUCTION, spoil, rounds=10)


@cocotb.test()
async def fallback_of_nothing(dut: Any) -> None:
    """A fallback that is not behind an ATTEND."""
    def spoil(bench: FrontEndBench, rng: random.Random, number: int) -> tuple[Generation, int]:
        program = bench.program(rng)
        attend = next(op for op in program if op.opcode is Opcode.ATTEND)
        place = rng.choice([k for k, op in enumerate(program) if k and program[k - 1].opcode is not Opcode.ATTEND
                            and Flag.LAST_CHUNK not in op.flags])
        program.insert(place, replace(attend, merge=0, fallback=1))
        return bench.generation(rng, rng.randint(1, 2 * bench.config.token_lanes + 1), 1, program), place * INSTRUCTION_BYTES

    if Environment(dut).bench.config.attention_modes:
        await _stops(dut, ErrorCause.ILLEGAL_INSTRUCTION, spoil)


@cocotb.test()
async def blocks_that_cannot_be(dut: Any) -> None:
    """A RETRIEVE of no blocks or of no latest positions; an ATTEND that sees a list where there is none, or that a matrix lies behind.
    """
    def spoil(bench: FrontEndBench, rng: random.Random, number: int) -> tuple[Generation, int]:
        program = bench.program(rng)
        while not any(op.opcode is Opcode.RETRIEVE for op in program):
            program = bench.program(rng)
        place = next(k for k, op in enumerate(program) if op.opcode is Opcode.RETRIEVE)
        retrieve, linear = program[place], next(op for op in program if op.opcode is Opcode.LINEAR)
        if number < 2:
            program[place] = replace(retrieve, rows=retrieve.rows * number, other=retrieve.other * (1 - number))
        elif number == 2:
            del program[place]
        else:
            program.insert(place + 1, linear)
            place += 2
        bad = bench.generation(rng, rng.randint(1, bench.config.token_lanes), 1, program)
        return bad, place * INSTRUCTION_BYTES

    if Environment(dut).bench.config.block_retrieval:
        await _stops(dut, ErrorCause.ILLEGAL_INSTRUCTION, spoil, rounds=4)
