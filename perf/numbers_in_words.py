"""Whole numbers up to 999,999 as they are said in English, Spanish, French and Russian (nominative, masculine)."""

from __future__ import annotations

LIMIT = 1_000_000

_EN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_EN_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()

_ES = (
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete "
    "dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete "
    "veintiocho veintinueve"
).split()
_ES_TENS = "treinta cuarenta cincuenta sesenta setenta ochenta noventa".split()
_ES_HUNDREDS = (
    "ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos novecientos"
).split()

_FR = (
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit "
    "dix-neuf"
).split()
_FR_TENS = "vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt".split()

_RU = (
    "ноль один два три четыре пять шесть семь восемь девять десять одиннадцать двенадцать тринадцать четырнадцать "
    "пятнадцать шестнадцать семнадцать восемнадцать девятнадцать"
).split()
_RU_TENS = "двадцать тридцать сорок пятьдесят шестьдесят семьдесят восемьдесят девяносто".split()
_RU_HUNDREDS = "сто двести триста четыреста пятьсот шестьсот семьсот восемьсот девятьсот".split()


def in_words(number: int, language: str) -> str:
    """Return a number in words; in digits where the language is another, or the number is `LIMIT` or more."""
    speak = {"en": _english, "es": _spanish, "fr": _french, "ru": _russian}.get(language)
    return speak(number) if speak is not None and 0 <= number < LIMIT else str(number)


def _english(number: int) -> str:
    if number < 20:
        return _EN[number]
    if number < 100:
        return _joined(_EN_TENS[number // 10 - 2], _EN[number % 10] if number % 10 else "")
    if number < 1000:
        return _joined(f"{_EN[number // 100]} hundred", _english(number % 100) if number % 100 else "")
    return _joined(f"{_english(number // 1000)} thousand", _english(number % 1000) if number % 1000 else "")


def _spanish(number: int) -> str:
    if number < 30:
        return _ES[number]
    if number < 100:
        return _joined(_ES_TENS[number // 10 - 3], f"y {_ES[number % 10]}" if number % 10 else "")
    if number == 100:
        return "cien"
    if number < 1000:
        return _joined(_ES_HUNDREDS[number // 100 - 1], _spanish(number % 100) if number % 100 else "")
    thousands = "mil" if number < 2000 else f"{_shortened(_spanish(number // 1000))} mil"
    return _joined(thousands, _spanish(number % 1000) if number % 1000 else "")


def _shortened(words: str) -> str:
    # Before a noun, and "mil" counts as one, uno loses its end: treinta y un mil.
    if words.endswith("veintiuno"):
        return words.removesuffix("veintiuno") + "veintiún"
    return words[:-1] if words == "uno" or words.endswith(" uno") else words


def _french(number: int) -> str:
    if number < 20:
        return _FR[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        if tens in (7, 9):
            rest += 10
        link = " et " if rest in (1, 11) and tens < 8 else "-"
        name = "quatre-vingts" if number == 80 else _FR_TENS[tens - 2]
        return f"{name}{link}{_FR[rest]}" if rest else name
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        name = "cent" if hundreds == 1 else f"{_FR[hundreds]} cent{'' if rest else 's'}"
        return _joined(name, _french(rest) if rest else "")
    thousands, rest = divmod(number, 1000)
    # Before mille, cents and vingts lose their s.
    count = _french(thousands).removesuffix("s") if thousands % 100 in (0, 80) else _french(thousands)
    return _joined("mille" if thousands == 1 else f"{count} mille", _french(rest) if rest else "")


def _russian(number: int, *, feminine: bool = False) -> str:
    if number < 20:
        return {1: "одна", 2: "две"}[number] if feminine and number in (1, 2) else _RU[number]
    if number < 100:
        rest = _russian(number % 10, feminine=feminine) if number % 10 else ""
        return _joined(_RU_TENS[number // 10 - 2], rest)
    if number < 1000:
        rest = _russian(number % 100, feminine=feminine) if number % 100 else ""
        return _joined(_RU_HUNDREDS[number // 100 - 1], rest)
    thousands, rest_number = divmod(number, 1000)
    count = "" if thousands == 1 else _russian(thousands, feminine=True) + " "
    rest = _russian(rest_number) if rest_number else ""
    return _joined(f"{count}{_thousand(thousands)}", rest)


def _thousand(count: int) -> str:
    if count % 100 in range(11, 15) or count % 10 in (0, 5, 6, 7, 8, 9):
        return "тысяч"
    return "тысяча" if count % 10 == 1 else "тысячи"


def _joined(first: str, second: str) -> str:
    return f"{first} {second}" if second else first
