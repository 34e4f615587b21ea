"""All proofs: name -> what is proved, and how."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ...accelerators.attention.merge import PartialMerge
from ...accelerators.cache.addresses import RowAddresses
from ...accelerators.cache.append import RecordPacker
from ...accelerators.cache.evict_formats import Outcome
from ...accelerators.cache.paged import PagedCache
from ...accelerators.cache.paged_formats import SequenceCommand
from ...accelerators.cache.select import TopSelect
from ...accelerators.cache.swap_formats import SwapCommand
from ...accelerators.cache.window import WindowCache
from ...accelerators.memory.bursts import BurstSplitter
from ...accelerators.memory.replay import ReplayBuffer
from ...accelerators.presets import preset
from ...accelerators.streams import Downsizer, Gearbox, Join, Queue, Relay, StreamBuffer, Upsizer
from .contract import StreamContract
from .controllers import AddressContract, CreditContract, MoverContract, PoolContract, SelectContract, WindowContract
from .evict import EvictContract
from .joining import MergeContract, QueueContract
from .memory import SHORT, ReaderContract, WriterContract
from .paged import LookupContract, PagedAnswerContract, PagedContract
from .responses import RecordContract, RowContract
from .swap import SlotContract, SwapAnswerContract, SwapContract
from .units import FEWER, INDUCTIVE, KNOWN, MORE_STEPS, known_contract, unit_contract
from .wiring import (
    ArbiterContract,
    ForkContract,
    MergedContract,
    Passed,
    ScatteredContract,
    Steered,
    StripeContract,
    WriteArbiterContract,
)

__all__ = ["BEGUN", "CASES", "Case"]

_FAST = ("unit_window_cache",)


@dataclass(frozen=True)
class Case:
    """A proof.

    Parameters
    ----------
    contract : callable
        Makes the contract, of a component small enough for a solver.
    method, depth : str, int
        See ``prove``.
    slow : bool
        Takes more than some seconds: only with ``make formal``.
    """

    contract: Callable[[], StreamContract]
    method: str
    depth: int
    slow: bool = False


_TINY = preset("tiny")


def _positions(count: int):
    return replace(_TINY, max_context=count)


_EXTEND, _FORK, _FREE = SequenceCommand.EXTEND, SequenceCommand.FORK, SequenceCommand.FREE
BEGUN = {
    "shared": (3, 17, [(_EXTEND, 0, 0, 3), (_FORK, 1, 0, 3)]),
    "copied": (3, 23, [(_EXTEND, 0, 0, 3), (_FORK, 1, 0, 3), (_EXTEND, 1, 0, 1)]),
    "full": (2, 13, [(_EXTEND, 0, 0, 3), (_FORK, 1, 0, 1)]),
    "reused": (2, 24, [(_EXTEND, 0, 0, 4), (_FREE, 0, 0, 0), (_EXTEND, 1, 0, 1)]),
}
"""States of a paged cache: its blocks, the commands that lead there, and the cycles that they take."""

CASES = {
    "stream_buffer": Case(lambda: StreamContract(StreamBuffer(4)), "induction", 4),
    "stream_buffer_order": Case(lambda: StreamContract(StreamBuffer(2), order=("i", "o"), answered=3, items=8), "bounded", 12),
    "queue": Case(lambda: StreamContract(Queue(4, 3)), "induction", 4),
    "queue_order": Case(lambda: StreamContract(Queue(2, 3), order=("i", "o"), answered=4, items=8), "bounded", 14, slow=True),
    "deep_queue": Case(lambda: StreamContract(Queue(4, 40)), "induction", 4),
    "relay": Case(lambda: StreamContract(Relay(4, 2)), "induction", 4),
    "relay_order": Case(lambda: StreamContract(Relay(2, 1), order=("i", "o"), answered=8, items=8), "bounded", 12, slow=True),
    "credit_queue": Case(lambda: CreditContract(3), "bounded", 12, slow=True),
    "queue_places": Case(lambda: QueueContract(Queue(1, 3)), "induction", 2),
    "queue_places_of_four": Case(lambda: QueueContract(Queue(1, 4)), "induction", 2),
    "fork": Case(lambda: ForkContract(3), "bounded", 8),
    "join": Case(lambda: StreamContract(Join({"a": 2, "b": 3})), "induction", 2, slow=True),
    "steer": Case(lambda: StreamContract(Steered()), "induction", 2, slow=True),
    "merge": Case(MergedContract, "induction", 2, slow=True),
    "pass_fields": Case(lambda: StreamContract(Passed()), "induction", 2, slow=True),
    "scatter": Case(ScatteredContract, "bounded", 10, slow=True),
    "gearbox": Case(lambda: StreamContract(Gearbox(8, 6)), "induction", 4),
    "gearbox_to_wider": Case(lambda: StreamContract(Gearbox(6, 8)), "induction", 4, slow=True),
    "gearbox_of_multiples": Case(lambda: StreamContract(Gearbox(8, 2)), "induction", 4, slow=True),
    "upsizer": Case(lambda: StreamContract(Upsizer(4, 16)), "induction", 4),
    "downsizer": Case(lambda: StreamContract(Downsizer(16, 4)), "induction", 4),
    "replay_buffer": Case(lambda: StreamContract(ReplayBuffer(4, 4)), "induction", 4),
    "burst_splitter": Case(lambda: StreamContract(BurstSplitter(32, 8)), "induction", 2),
    "burst_reader": Case(ReaderContract, "bounded", 12, slow=True),
    "burst_writer": Case(WriterContract, "bounded", 12, slow=True),
    "burst_reader_answers": Case(lambda: ReaderContract(answered=6, narrow=SHORT), "bounded", 11, slow=True),
    "burst_writer_answers": Case(lambda: WriterContract(answered=6, narrow=SHORT), "bounded", 12, slow=True),
    "read_arbiter": Case(lambda: ArbiterContract(2), "bounded", 8),
    "read_arbiter_of_three": Case(lambda: ArbiterContract(3), "bounded", 12, slow=True),
    "read_arbiter_priority": Case(lambda: ArbiterContract(3, "priority"), "bounded", 10, slow=True),
    "write_arbiter": Case(lambda: WriteArbiterContract(2), "bounded", 8),
    "write_arbiter_of_three": Case(lambda: WriteArbiterContract(3), "bounded", 12, slow=True),
    "write_arbiter_answers": Case(lambda: WriteArbiterContract(2, answered=9), "bounded", 14, slow=True),
    "port_stripe": Case(StripeContract, "bounded", 10, slow=True),
    "port_stripe_answers": Case(lambda: StripeContract(answered=4), "bounded", 10, slow=True),
    "record_packer": Case(lambda: StreamContract(RecordPacker(_TINY)), "induction", 4),
    "record_packer_answers": Case(lambda: RecordContract(replace(_TINY, max_head_dim=4), within=5, answered=10), "bounded", 16,
                                  slow=True),
    "row_addresses_answers": Case(lambda: RowContract(within=7, answered=4), "bounded", 15, slow=True),
    "row_addresses": Case(lambda: StreamContract(RowAddresses(_TINY, 4, {"number": 2})), "induction", 4, slow=True),
    "contiguous_cache": Case(lambda: AddressContract(_positions(4)), "bounded", 14, slow=True),
    "row_mover": Case(lambda: MoverContract(3), "bounded", 14, slow=True),
    "row_mover_answers": Case(lambda: MoverContract(3, answered=10, narrow={"heads": 1, "record_beats": 1}), "bounded", 14, slow=True),
    "window_cache": Case(lambda: WindowContract(_positions(8), answered=11), "bounded", 15, slow=True),
    "window_cache_streams": Case(lambda: StreamContract(WindowCache(_positions(8))), "induction", 2),
    "top_select": Case(lambda: StreamContract(TopSelect(3, 2)), "induction", 4, slow=True),
    "top_select_answers": Case(lambda: SelectContract(2, 1, within=TopSelect(2, 1).latency, answered=16), "bounded", 24, slow=True),
    "attention_merge_words": Case(lambda: MergeContract(PartialMerge(preset("tiny_modes"))), "bounded", 18, slow=True),
    "block_pool_owners": Case(lambda: PoolContract(2), "bounded", 12),
    "paged_cache_streams": Case(lambda: StreamContract(PagedCache(_positions(4), sequences=2, block_size=2, blocks=2)), "induction",
                                2, slow=True),
    "paged_cache": Case(lambda: PagedContract(_positions(4)), "bounded", 12, slow=True),
    **{f"paged_cache_{name}": Case(partial(PagedContract, _positions(4), blocks=blocks, begins=begins), "bounded", cycles + 12,
                                   slow=True) for name, (blocks, cycles, begins) in BEGUN.items()},
    "paged_lookups": Case(lambda: LookupContract(_positions(4)), "bounded", 12, slow=True),
    **{f"paged_lookups_{name}": Case(partial(LookupContract, _positions(4), blocks=blocks, begins=begins), "bounded", cycles + 12,
                                     slow=True) for name, (blocks, cycles, begins) in BEGUN.items()},
    "paged_cache_answers": Case(lambda: PagedAnswerContract(_positions(4), within=17, begins=BEGUN["full"][2]), "bounded", 40,
                                slow=True),
    "evict_cache_adds": Case(lambda: EvictContract(Outcome.ADDED, within=15, taken=15), "bounded", 22, slow=True),
    "evict_cache_refuses": Case(lambda: EvictContract(Outcome.REFUSED, within=17, taken=15), "bounded", 23, slow=True),
    "swap_controller": Case(SwapContract, "bounded", 30, slow=True),
    "swap_controller_slots": Case(lambda: SlotContract(40), "bounded", 40, slow=True),
    "swap_controller_answers": Case(SwapAnswerContract, "bounded", 34, slow=True),
    "swap_controller_leaves": Case(lambda: SwapAnswerContract(about=SwapCommand.SWAP_OUT), "bounded", 54, slow=True),
    "swap_controller_returns": Case(lambda: SwapAnswerContract(about=SwapCommand.SWAP_IN, out=2), "bounded", 90, slow=True),
    "swap_controller_last_block": Case(lambda: SwapAnswerContract(about=SwapCommand.SWAP_IN, out=1, block_size=2), "bounded", 72,
                                       slow=True),
}
_UNITS: dict[str, tuple[Callable[[], StreamContract], str, int]] = {
    **{unit: (partial(unit_contract, unit), "induction", 2) for unit in INDUCTIVE},
    **{unit: (contract, "induction", 2) for unit, contract in FEWER.items()},
    **{unit: (partial(unit_contract, unit), "induction", steps) for unit, steps in MORE_STEPS.items()},
    **{unit: (partial(known_contract, unit), "induction", steps) for unit, (_, steps) in KNOWN.items()},
}
CASES |= {name: Case(*proof, slow=name not in _FAST)
          for unit, proof in _UNITS.items() for name in (f"unit_{unit}".replace(" ", "_"),)}
