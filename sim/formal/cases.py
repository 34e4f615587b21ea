"""All proofs: name -> what is proved, and how."""

from collections.abc import Callable
from dataclasses import dataclass

from ...accelerators.cache.append import RecordPacker
from ...accelerators.cache.contiguous import ContiguousCache
from ...accelerators.cache.paged import PagedCache
from ...accelerators.cache.window import WindowCache
from ...accelerators.memory.bursts import BurstSplitter
from ...accelerators.memory.replay import ReplayBuffer
from ...accelerators.presets import preset
from ...accelerators.streams import Downsizer, Gearbox, Queue, Relay, StreamBuffer, Upsizer
from .contract import StreamContract
from .controllers import CreditContract, MoverContract, PoolContract

__all__ = ["CASES", "Case"]


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

CASES = {
    "stream_buffer": Case(lambda: StreamContract(StreamBuffer(4)), "induction", 4),
    "stream_buffer_order": Case(lambda: StreamContract(StreamBuffer(2), order=("i", "o"), answered=3, items=8), "bounded", 12),
    "queue": Case(lambda: StreamContract(Queue(4, 3)), "induction", 4),
    "queue_order": Case(lambda: StreamContract(Queue(2, 3), order=("i", "o"), answered=4, items=8), "bounded", 14, slow=True),
    "deep_queue": Case(lambda: StreamContract(Queue(4, 40)), "induction", 4),
    "relay": Case(lambda: StreamContract(Relay(4, 2)), "induction", 4),
    "relay_order": Case(lambda: StreamContract(Relay(2, 1), order=("i", "o"), answered=8, items=8), "bounded", 14, slow=True),
    "credit_queue": Case(lambda: CreditContract(3), "bounded", 12, slow=True),
    "gearbox": Case(lambda: StreamContract(Gearbox(8, 6)), "induction", 4),
    "upsizer": Case(lambda: StreamContract(Upsizer(4, 16)), "induction", 4),
    "downsizer": Case(lambda: StreamContract(Downsizer(16, 4)), "induction", 4),
    "replay_buffer": Case(lambda: StreamContract(ReplayBuffer(4, 4)), "induction", 4),
    "burst_splitter": Case(lambda: StreamContract(BurstSplitter(32, 8)), "bounded", 10),
    "record_packer": Case(lambda: StreamContract(RecordPacker(_TINY)), "induction", 4),
    "contiguous_cache": Case(lambda: StreamContract(ContiguousCache(_TINY), answered=12), "bounded", 26, slow=True),
    "row_mover": Case(lambda: MoverContract(3), "bounded", 14, slow=True),
    "window_cache": Case(lambda: StreamContract(WindowCache(_TINY)), "bounded", 30, slow=True),
    "block_pool_owners": Case(lambda: PoolContract(2), "bounded", 12, slow=True),
    "paged_cache": Case(lambda: StreamContract(PagedCache(_TINY, sequences=2, blocks=2)), "bounded", 14, slow=True),
}
