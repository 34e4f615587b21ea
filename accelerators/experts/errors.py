"""What parts of the expert unit refuse: cause codes of their error responses. Plain Python."""

from enum import IntEnum

__all__ = ["ERROR_BITS", "ERROR_TEXT", "ExpertError"]

ERROR_BITS = 4


class ExpertError(IntEnum):
    """``ERROR_TEXT`` has a sentence for each."""

    NONE = 0
    LOGIT = 1
    LOGIT_COUNT = 2
    EXPERT = 3
    TOKEN = 4
    QUEUE_FULL = 5
    CHECK_WORD = 6
    KIND = 7
    DIMENSIONS = 8
    ADDRESS = 9
    SPACE = 10
    SCALE = 11
    ORDER = 12
    TABLE = 13
    MISSING = 14


ERROR_TEXT = {
    ExpertError.LOGIT: "a router logit is infinite, no number, or in bf16 2**16 or more",
    ExpertError.LOGIT_COUNT: "a token has fewer router logits than experts are selected, or more than there are experts",
    ExpertError.EXPERT: "there is no expert of this number",
    ExpertError.TOKEN: "there is no token of this number",
    ExpertError.QUEUE_FULL: "the expert's queue, or all queues together, have no place",
    ExpertError.CHECK_WORD: "a descriptor is damaged: its check word is wrong",
    ExpertError.KIND: "the unit has no operation of this kind",
    ExpertError.DIMENSIONS: "a dimension is 0, too large, not a whole number of words, or not that of what it is added to",
    ExpertError.ADDRESS: "a start address is not that of a read command",
    ExpertError.SPACE: "a matrix begins or ends beyond the memory",
    ExpertError.SCALE: "a scale of int8 has mantissa 0, or a softmax scale more than 26 bits",
    ExpertError.ORDER: "the tokens of an expert's list do not ascend",
    ExpertError.TABLE: "an expert has more tokens than the scheduler's tables have times for",
    ExpertError.MISSING: "an expert that has tokens was not described",
}
