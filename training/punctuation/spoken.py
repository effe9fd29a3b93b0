"""Numbers and words that sound alike: what an ASR model may write in place of what was said."""

from __future__ import annotations

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()

DIGITS = {word: str(value) for value, word in enumerate(_SMALL) if value > 1} | {
    word: str(10 * value) for value, word in enumerate(_TENS) if value > 1
}
"""Number words that an ASR model may write as digits; ``one`` is too often a pronoun."""

_SOUND_ALIKE = """
their there they're;to too two;your you're;its it's;then than;hear here;no know;right write;where wear were;by buy bye;
one won;for four;our hour are;new knew;see sea;be bee;would wood;weather whether;whose who's;peace piece;week weak;
son sun;through threw;which witch;meet meat;made maid;male mail;wait weight;way weigh;some sum;so sew;eye i;ate eight;
passed past;principal principle;affect effect;accept except;lose loose;quite quiet;of have;an and;in and;a the;a of;
is was;this these;that the;as is;him them;he she;on in;at it;or are;can can't;will we'll;want won't;
""".strip()

SOUND_ALIKE: dict[str, list[str]] = {}
"""For a lower-case word the words that it may be mistaken for."""

for _group in _SOUND_ALIKE.replace("\n", "").split(";"):
    for _word in _group.split():
        SOUND_ALIKE.setdefault(_word, []).extend(other for other in _group.split() if other != _word)


def say(digits: str) -> list[str] | None:
    """The words for a whole number of up to four digits, years in pairs; None where it is not one."""
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 4 or (digits[0] == "0" and digits != "0"):
        return None
    value = int(digits)
    if 1100 <= value < 2000 or 2010 <= value < 2100:
        tail = value % 100
        ending = ["hundred"] if tail == 0 else ["oh", _SMALL[tail]] if tail < 10 else _below_hundred(tail)
        return [*_below_hundred(value // 100), *ending]
    words: list[str] = []
    if value >= 1000:
        words += [_SMALL[value // 1000], "thousand"]
        value %= 1000
    if value >= 100:
        words += [_SMALL[value // 100], "hundred"]
        value %= 100
    return words + (_below_hundred(value) if value or not words else [])


def _below_hundred(value: int) -> list[str]:
    if value < 20:
        return [_SMALL[value]]
    return [_TENS[value // 10], *([_SMALL[value % 10]] if value % 10 else [])]
