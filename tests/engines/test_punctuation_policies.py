from __future__ import annotations

import pytest

from engines.punctuation.policies import POLICIES, Policy, parse_policies, policy_of


@pytest.mark.parametrize("language", ["en", "EN", "en-GB", "en_us"])
def test_english_has_the_same_policy_however_it_is_written(language: str) -> None:
    assert policy_of(language) == POLICIES["en"]


@pytest.mark.parametrize("language", ["te", "fr", "", "auto"])
def test_a_language_that_is_not_in_the_table_keeps_the_marks_of_its_asr_model(language: str) -> None:
    assert policy_of(language) == Policy.ASR


def test_a_setting_changes_only_the_languages_it_names() -> None:
    policies = parse_policies(" es=model, fr=both ")
    assert policies == {**POLICIES, "es": Policy.MODEL, "fr": Policy.BOTH}
    assert parse_policies("") == POLICIES


@pytest.mark.parametrize("setting", ["en", "en=best", "=asr"])
def test_a_wrong_setting_says_what_is_wrong(setting: str) -> None:
    with pytest.raises(ValueError, match=r"write for example|use one of"):
        parse_policies(setting)
