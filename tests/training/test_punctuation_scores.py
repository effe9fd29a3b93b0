from __future__ import annotations

import pytest

from engines.punctuation.lexicon import Lexicon, Prior, load_lexicon, save_lexicon
from engines.punctuation.text import Mark, parse
from training.punctuation import baseline
from training.punctuation.recordings import align, score
from training.punctuation.scores import ANY_END, Scores, table


def scored(truth: str, written: str) -> Scores:
    scores = Scores()
    scores.add(parse(truth), parse(written))
    return scores


def test_f1_counts_marks_that_lack_and_marks_that_are_too_many() -> None:
    scores = scored("Yes, it is. Is it? No.", "Yes it is. Is it. No, ".strip())
    assert scores.f1(Mark.COMMA) == 0
    assert scores.f1(Mark.STOP) == pytest.approx(2 * 1 / (2 + 2))
    assert scores.f1(Mark.QUESTION) == 0
    assert scores.f1(ANY_END) == pytest.approx(2 * 2 / (3 + 2))


def test_casing_counts_words_with_letters() -> None:
    scores = scored("Ada saw NASA 42 times.", "Ada Saw Nasa 42 times.")
    assert scores.casing == pytest.approx(2 / 4)


def test_texts_with_other_words_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        scored("One two.", "One.")


def test_a_table_has_a_row_for_each_system() -> None:
    lines = table([("rules", scored("Yes.", "Yes."))]).splitlines()
    assert lines[-1].startswith("| rules | 1.000 | 0.000 |")
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HELLO, THERE", "Hello there."),
        ("what is it", "What is it?"),
        ("he came. but i left", "He came, but I left."),
        ("", ""),
    ],
)
def test_the_rule_baseline(text: str, expected: str) -> None:
    assert baseline.punctuate(text) == expected


def test_alignment_pairs_equal_words_round_what_was_misheard() -> None:
    pairs = align(parse("we went to the shop"), parse("We when to shop now"))
    words = [(want.form if want else None, got.form if got else None) for want, got in pairs]
    assert words == [("we", "We"), ("went", "when"), ("to", "to"), ("the", None), ("shop", "shop"), (None, "now")]
    assert [w for w, _ in words if w] == "we went to the shop".split()


def test_a_recordings_marks_count_where_their_words_stand() -> None:
    scores = Scores()
    score(scores, "We came, we saw. Did you?", "We came we saw, did you? No.")
    assert scores.true == {Mark.NONE: 4, Mark.COMMA: 1, Mark.STOP: 1, Mark.QUESTION: 1, ANY_END: 2}
    assert scores.right[Mark.QUESTION] == 1
    assert scores.set_[Mark.STOP] == 1
    assert scores.cased == [5, 6]


def test_a_lexicon_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("lexicon") / "casing.tsv"
    lexicon = Lexicon({"the": Prior.LOWER, "iphone": Prior.UPPER_OR_MIXED}, {"iphone": "iPhone", "ebay": "eBay"})
    save_lexicon(lexicon, path)
    read = load_lexicon(path)
    assert dict(read.buckets) == dict(lexicon.buckets)
    assert dict(read.spellings) == dict(lexicon.spellings)
