"""The commands of the operations of block retrieval, as states of the executor's machine (see ``sequences``)."""

from amaranth.hdl import Cat, Mux, Signal

from ..cache.retrieval import block_rows
from .commands import Issue
from .retrieval import scored_blocks

__all__ = ["means", "retrieve"]


def means(x: Issue) -> None:
    """Per KV head one read of rows, and a record for each of their blocks. The front end leaves it out if there is none."""
    m, op, steps, operation = x.m, x.op, x.steps, x.operation
    shift = x.config.block_size.bit_length() - 1
    # Registers: a state lies between a change and its use.
    first, end = operation.position >> shift, (operation.position + operation.tokens) >> shift
    number = range(block_rows(x.config) + 1)
    blocks, block, last = Signal(number, name="blocks"), Signal(number, name="block"), Signal(name="last_block")
    m.d.sync += [blocks.eq(end - first), last.eq(block + 1 == blocks)]
    with steps.state("MEANS"):
        steps.set(block, 0)
        steps.go("MEANS_ROWS")
    with steps.state("MEANS_ROWS"):
        x.send("o_means", "MEANS_RECORD", ("packet_taken",), rows=blocks << shift, beats=op.beats, words=op.words,
               exponent=op.scalar_a.exponent)
    with steps.state("MEANS_RECORD"):
        x.send("o_request", "MEANS_NEXT", ("record_written",), base=Cat(op.source, op.destination), head=x.head, position=first + block)
    with steps.state("MEANS_NEXT"):
        steps.set(block, Mux(last, 0, block + 1))
        with m.If(~last):
            steps.go("MEANS_RECORD")
        with m.Else():
            steps.set(x.head, x.head + 1)
            with m.If(x.last_head):
                steps.go("DRAIN")
            with m.Else():
                steps.go("MEANS_ROWS")


def retrieve(x: Issue, lanes: Signal) -> None:
    """Per KV head and tile of tokens the mean keys, one lane per (token, query head). The front end leaves it out if all blocks are
    listed."""
    m, op, steps, operation = x.m, x.op, x.steps, x.operation
    scored = scored_blocks(m, x.config, operation.position, op.other)
    end = Signal.like(x.tile_end, name="scored_tile_end")
    m.d.comb += end.eq(Mux(x.tile + op.tiles < operation.tokens, x.tile + op.tiles, operation.tokens))
    with steps.state("RETRIEVE"):
        x.send("o_count", "RETRIEVE_TILE", ("token_sampled",), count=op.rows)
    with steps.state("RETRIEVE_TILE"):
        for register, value in ((x.tile_end, end), (x.token, x.tile), (x.offset, x.group_offset), (x.sub, 0)):
            steps.set(register, value)
        steps.go("RETRIEVE_LANES")
    with steps.state("RETRIEVE_LANES"):  # ``last_tile`` is a register late
        steps.go("RETRIEVE_COMMAND")
    with steps.state("RETRIEVE_COMMAND"):
        x.send("o_retrieve", "RETRIEVE_SCALE", ("packet_taken",), lanes=lanes, rows=scored, beats=op.beats, words=op.words,
               exponent=op.scalar_b.exponent, first=(x.head == 0) & (x.tile == 0), last=x.last_head & x.last_tile)
    x.multiply("RETRIEVE_SCALE", x.scales[x.slot], op.scalar_a, "READ")
    with steps.state("RETRIEVE_NEXT"):
        steps.set(x.sub, Mux(x.last_sub, 0, x.sub + 1))
        steps.set(x.offset, Mux(x.last_sub, x.group_offset, x.offset + op.words))
        with m.If(~x.last_sub):
            steps.go("READ")
        with m.Else():
            steps.set(x.token, x.token + 1)
            with m.If(~x.last_of_tile):
                steps.go("RETRIEVE_SCALE")
            with m.Else():
                x.next_tile(Mux(x.last_tile, 0, x.tile_end))
                with m.If(x.last_tile):
                    steps.set(x.head, x.head + 1)
                    steps.set(x.group_offset, x.offset + op.words)
                with m.If(x.last_tile & x.last_head):
                    steps.go("DRAIN")
                with m.Else():
                    steps.go("RETRIEVE_TILE")
