"""A seeded grammar of short English stories: the training text of the shipped model.

Every story has an opening, a plot (problem, attempts, resolution) and mostly a closing line, is plain ASCII
and has `MIN_WORDS` to `MAX_WORDS` words. All text is the project's own. The text depends on the seed alone.

Members
    story(rng)              one story drawn from a `random.Random`
    training(n, seed)       n different stories for training
    training_stream(seed)   the same stories without end
    held_out(n, seed)       n different stories of which none is ever in a training set, whatever the seeds
    document(text)          the story followed by the end-of-text token
    END_OF_TEXT, PLOTS      the token; plot name -> steps -> alternatives

A story belongs to the held-out part when the SHA-256 of its text is 0 modulo `HELD_OUT_PART`; training()
skips those and held_out() returns only those, so the two are disjoint by construction.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterator

from . import lexicon
from .plots_alone import ALONE, CLOSING, OPENING
from .plots_together import TOGETHER

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
MIN_WORDS, MAX_WORDS = 60, 160
HELD_OUT_PART = 20
ANIMAL_SHARE = 0.35

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_FRIEND_STARTS_SENTENCE = re.compile(r'(^|[.!?]"? |[.!?]"? "|\[)\{friend\}(?!,")')


def _steps(text: str) -> tuple[tuple[str, ...], ...]:
    """Parses the plot notation: steps separated by empty lines, one alternative per line, `-` is empty."""
    text = re.sub(r"(?m)" + _FRIEND_STARTS_SENTENCE.pattern, r"\1{Friend}", text)
    steps = (step.splitlines() for step in text.strip().split("\n\n"))
    return tuple(tuple("" if line == "-" else line for line in step) for step in steps)


PLOTS = {name: _steps(text) for name, text in {**ALONE, **TOGETHER}.items()}
_OPENING, _CLOSING = _steps(OPENING), _steps(CLOSING)


def _pronouns(prefix: str, female: bool) -> dict[str, str]:
    words = ("she", "her", "her") if female else ("he", "him", "his")
    return {prefix + slot: word for slot, word in zip(("they", "them", "their"), words, strict=True)}


def _bindings(rng: random.Random, plot: str) -> dict[str, str]:
    """Draws every word of one story. The friend has the other pronoun than the hero."""
    female = rng.random() < 0.5
    names = (lexicon.GIRLS, lexicon.BOYS)
    name, friend = rng.choice(names[not female]), rng.choice(names[female])
    if rng.random() < ANIMAL_SHARE:
        kid, friend_kid = rng.sample(lexicon.ANIMAL_KINDS, 2)
        introduction = f"{friend} the {friend_kid}"
    else:
        kid, friend_kid = ("girl", "boy") if female else ("boy", "girl")
        introduction = f"{'her' if female else 'his'} friend {friend}"
    helper = rng.choice(lexicon.HELPERS)
    place, preposition, spots = rng.choice(lexicon.PLACES)
    skill, skill_tool, slip, skill_place = rng.choice(lexicon.SKILLS)
    if plot == "skill":
        place, preposition = skill_place
    look, toy = rng.choice(lexicon.LOOKS), rng.choice(lexicon.TOYS)
    words = {
        "name": name, "kid": kid, "friend": friend, "f_kid": friend_kid, "helper": helper,
        "friend_introduced": friend if plot == "newcomer" else introduction,
        "at_place": f"{preposition} {place}", "to_place": f"to {place}",
        "look": look, "toy_noun": toy, "toy": f"{look} {toy}",
        "skill": skill, "skill_tool": skill_tool, "slip": slip,
    }  # fmt: skip
    words |= _pronouns("", female) | _pronouns("f_", not female) | _pronouns("h_", helper in lexicon.WOMEN)
    words |= {f"spot{i + 1}": spot for i, spot in enumerate(rng.sample(spots, len(spots)))}
    for slots, table in (
        (("thing", "part", "mend"), lexicon.BREAKABLE),
        (("baby", "parent", "parent_home"), lexicon.BABIES),
        (("fear", "fear_seen", "fear_truth"), lexicon.FEARS),
        (("noise", "noise_cause", "noise_act"), lexicon.NOISES),
    ):
        words |= zip(slots, rng.choice(table), strict=True)
    for slot, words_of_slot in (
        ("size", lexicon.SIZES), ("trait", lexicon.TRAITS), ("home", lexicon.HOMES),
        ("hobby", lexicon.HOBBIES), ("color", lexicon.COLORS), ("flying", lexicon.FLYING),
        ("high", lexicon.HIGH_PLACES), ("food", lexicon.FOODS), ("bake", lexicon.BAKES),
        ("seed", lexicon.SEEDS), ("gift", lexicon.GIFTS),
        ("treasure", lexicon.TREASURES), ("fragile", lexicon.FRAGILE), ("wish", lexicon.WISHES),
        ("weather", lexicon.WEATHER), ("time", lexicon.TIMES),
    ):  # fmt: skip
        words[slot] = rng.choice(words_of_slot)
    return words


def _fill(text: str, words: dict[str, str]) -> str:
    """Puts the drawn words into the slots; the first mention of the friend says who that is."""
    seen_friend = False

    def word(match: re.Match) -> str:
        nonlocal seen_friend
        slot = match[1]
        capital = slot[0].isupper()
        slot = slot[0].lower() + slot[1:]
        if slot == "friend" and not seen_friend:
            seen_friend = True
            slot = "friend_introduced"
        if slot.startswith("a_"):
            found = words[slot[2:]]
            found = ("an " if found[0] in "aeiou" else "a ") + found
        else:
            found = words[slot]
        return found[0].upper() + found[1:] if capital else found

    return _SLOT.sub(word, text)


def story(rng: random.Random) -> str:
    """One story; drawn again until its length is within MIN_WORDS .. MAX_WORDS."""
    while True:
        plot = rng.choice(list(PLOTS))
        words = _bindings(rng, plot)
        lines = [rng.choice(step) for step in (*_OPENING, *PLOTS[plot], *_CLOSING)]
        text = " ".join(line for line in lines if line)
        text = _fill(_CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text), words)
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return text


def is_held_out(text: str) -> bool:
    """Whether a story is reserved for evaluation; decided by its text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % HELD_OUT_PART == 0


def _stories(seed: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    rng, seen = random.Random(seed), set()
    while True:
        text = story(rng)
        if wanted(text) and text not in seen:
            seen.add(text)
            yield text


def _take(n: int, stories: Iterator[str]) -> list[str]:
    if not isinstance(n, int) or n < 0:
        raise ValueError(f"n is {n!r}, but must be a count of stories (an int, 0 or more)")
    return [next(stories) for _ in range(n)]


def training_stream(seed: int) -> Iterator[str]:
    """Training stories without end, all different."""
    return _stories(f"training {seed}", lambda text: not is_held_out(text))


def training(n: int, seed: int) -> list[str]:
    """n different training stories; a longer list with the same seed starts with the shorter one."""
    return _take(n, training_stream(seed))


def held_out(n: int, seed: int) -> list[str]:
    """n different stories that no training set contains, for perplexity and golden tests."""
    return _take(n, _stories(f"held out {seed}", is_held_out))


def document(text: str) -> str:
    """The story as the model is to write it: followed by the end-of-text token."""
    return text + END_OF_TEXT
