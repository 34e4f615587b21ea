"""What can stop the accelerator: cause codes of the register ``ERROR_CAUSE``. Plain Python."""

from collections.abc import Sequence
from enum import IntEnum

__all__ = ["CAUSE_BITS", "ERROR_TEXT", "OUTSIDE_SHIFT", "OUTSIDE_STREAMS", "STALLED_SHIFT", "ErrorCause", "waiting_streams"]

CAUSE_BITS = 8
STALLED_SHIFT = 12
"""In the info of WATCHDOG: units that wait for input from bit 0, units whose output is not taken from here."""
OUTSIDE_SHIFT = 24
"""And from here ``OUTSIDE_STREAMS``."""
OUTSIDE_STREAMS = {
    "token": "the token output is not taken",
    "program": "the program reader waits for memory",
    "data": "the data reader waits for memory",
    "weights": "the weight reader waits for memory",
    "read_address": "a read address is not taken",
    "write_address": "a write address is not taken",
    "write_data": "write data is not taken",
    "write_response": "a write is not answered",
}
"""Streams between the accelerator and what surrounds it, and what it means that one of them waits."""


class ErrorCause(IntEnum):
    """Code of the first error since the last clear; ``ERROR_TEXT`` has a sentence for each."""

    NONE = 0
    EMPTY_PROMPT = 1
    PROMPT_TOO_LONG = 2
    CONTEXT_FULL = 3
    CACHE_FULL = 4
    TOKEN_OUT_OF_RANGE = 5
    ILLEGAL_INSTRUCTION = 6
    BUS_READ_ERROR = 7
    BUS_WRITE_ERROR = 8
    WATCHDOG = 9
    ILLEGAL_BATCH = 10


ERROR_TEXT = {
    ErrorCause.NONE:
        "No error.",
    ErrorCause.EMPTY_PROMPT:
        "The prompt has no token, or none is to be generated. Info: prompt length.",
    ErrorCause.PROMPT_TOO_LONG:
        "The prompt does not fit between start position and end of the cache. Info: end of the prompt.",
    ErrorCause.CONTEXT_FULL:
        "The next token would be beyond the end of the cache. Info: position.",
    ErrorCause.CACHE_FULL:
        "A read or write of the KV cache was beyond its capacity, or sinks and window are (or there is no window); a budget is not "
        "above sinks and window, or larger than the accelerator's. Info: position, or slots of sinks and window.",
    ErrorCause.TOKEN_OUT_OF_RANGE:
        "A prompt token is not in the vocabulary. Info: the token.",
    ErrorCause.ILLEGAL_INSTRUCTION:
        "A descriptor has an unknown opcode or a wrong check word, or says of parts of attention or of a list of tokens what cannot "
        "be. Info: byte offset in the program.",
    ErrorCause.BUS_READ_ERROR:
        "A read got an error response. Info: byte address of the burst.",
    ErrorCause.BUS_WRITE_ERROR:
        "A write got an error response. Info: byte address of the burst.",
    ErrorCause.WATCHDOG:
        f"No progress for WATCHDOG_LIMIT cycles. Info: bit i, unit i of the counters waits for input; bit {STALLED_SHIFT} + i, "
        "its output is not taken; " + "; ".join(f"bit {OUTSIDE_SHIFT + i}, {text}" for i, text in
                                                enumerate(OUTSIDE_STREAMS.values())) + ".",
    ErrorCause.ILLEGAL_BATCH:
        "An entry of the batch is not one, or there are more tokens than lanes, or fewer words than tokens. Info: the entry.",
}
"""One sentence per cause, with the meaning of ``ERROR_INFO``."""


def waiting_streams(info: int, units: Sequence[str]) -> list[str]:
    """What the info of WATCHDOG says, in words: ``["engine waits for input"]``."""
    starved = [f"{unit} waits for input" for i, unit in enumerate(units) if info >> i & 1]
    stalled = [f"the output of {unit} is not taken" for i, unit in enumerate(units) if info >> STALLED_SHIFT + i & 1]
    return starved + stalled + [text for i, text in enumerate(OUTSIDE_STREAMS.values()) if info >> OUTSIDE_SHIFT + i & 1]
