"""The tokenizer of a checkpoint."""

from tokenizers import Tokenizer

from .checkpoint import Checkpoint

__all__ = ["encode", "load_tokenizer"]


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """That of the checkpoint's tokenizer.json; ``None`` without one; ``ValueError`` for one that cannot be read."""
    if checkpoint.tokenizer_path is None:
        return None
    try:
        return Tokenizer.from_file(str(checkpoint.tokenizer_path))
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"{checkpoint.tokenizer_path}: not a tokenizer that can be read: {error}") from None


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of ``text``; ``ValueError`` for half of a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the prompt must be Unicode text; character {error.start} is {text[error.start]!r}") from None
    return tokenizer.encode(text).ids
