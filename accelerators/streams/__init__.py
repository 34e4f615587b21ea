"""Stream plumbing shared by all units: ``from ..streams import Queue, connect``.

| block | does |
|---|---|
| ``connect`` | connects two ports of exactly the same shape, refuses all others |
| ``StreamBuffer`` | registers valid, payload and ready |
| ``Queue`` | first in, first out, any depth |
| ``CreditQueue``, ``Relay`` | credit-based: for pipelines and wires that never stop |
| ``Fork``, ``Join`` | one stream to several, several to one |
| ``Gearbox`` | dense bit stream from one word width to any other |
| ``Upsizer``, ``Downsizer`` | integer ratios of word widths, packets padded to whole words |
"""

from .buffer import StreamBuffer
from .connect import connect
from .credit import ROUND_TRIP, CreditQueue, Relay
from .downsizer import Downsizer
from .fork import Fork
from .gearbox import Gearbox
from .join import Join
from .queue import Queue
from .upsizer import Upsizer
from .words import word_layout

__all__ = ["ROUND_TRIP", "CreditQueue", "Downsizer", "Fork", "Gearbox", "Join", "Queue", "Relay", "StreamBuffer", "Upsizer",
           "connect", "word_layout"]
