"""Sessions that leave the language to the model."""

from __future__ import annotations

import numpy as np

from server.session.commands import Command, Decode, DetectVoice, Punctuate, Send, Store, WantPartial
from server.session.segment import Hypothesis
from server.session.session import Session
from server.session.settings import Policy, SessionSettings
from session_store.base import Final, SessionState

LOUD, QUIET = 0.9, 0.05
WINDOW = 512


class Shell:
    """Answers voice activity at once: what is not zero is speech. Decodes wait until the test answers them."""

    def __init__(self, state: SessionState | None = None) -> None:
        settings = SessionSettings.from_json(state.settings) if state else SessionSettings(language="auto")
        self.session = Session(state or SessionState("auto", bytes(32)), settings, Policy())
        self.decodes: list[Decode] = []
        self.finals: list[Final] = []
        self.stored: SessionState | None = None

    def do(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, DetectVoice):
                windows = command.samples.reshape(-1, WINDOW)
                probabilities = [LOUD if window.any() else QUIET for window in windows]
                self.do(self.session.voice(command.epoch, probabilities, None, 0.0))
            elif isinstance(command, Decode):
                self.decodes.append(command)
            elif isinstance(command, WantPartial):
                partial = self.session.take_partial(0.0)
                if partial is not None:
                    self.decodes.append(partial)
            elif isinstance(command, Punctuate):
                self.do(self.session.punctuated(command.job, command.text, 0.0))
            elif isinstance(command, Store):
                self.stored = command.state
                self.do(self.session.stored(command.ticket, 0.0))
            elif isinstance(command, Send) and isinstance(command.message, Final):
                self.finals.append(command.message)

    def speak(self, seconds: float, silence: float = 1.0) -> None:
        for level, length in ((1, seconds), (0, silence)):
            for _ in range(int(length * 16000) // WINDOW):
                self.do(self.session.audio(np.full(WINDOW, level, np.int16).tobytes(), 0.0))

    def answer(self, language: str, text: str = "hola") -> Decode:
        """Answers the newest decode."""
        decode = self.decodes.pop()
        self.do(self.session.hypothesis(decode.job, Hypothesis(text, np.array([7], np.int32), 0.9, language), 0.0))
        return decode


def test_a_long_segment_decides_and_short_ones_follow() -> None:
    shell = Shell()
    shell.speak(4)
    assert shell.answer("es").language == "auto"
    assert shell.finals[-1].language == "es"
    shell.speak(0.6)
    assert shell.answer("es").language == "es"


def test_a_speaker_who_clearly_changes_is_followed() -> None:
    shell = Shell()
    shell.speak(4)
    shell.answer("es")
    shell.speak(4)
    assert shell.answer("fr").language == "auto"
    shell.speak(0.6)
    assert shell.decodes[-1].language == "fr"


def test_a_short_final_waits_for_the_language_of_the_one_before() -> None:
    shell = Shell()
    shell.speak(4)
    long_one = shell.decodes.pop()
    shell.decodes.clear()
    shell.speak(0.6)
    assert not shell.decodes, "its language hangs on a final that is still to come"
    shell.do(shell.session.hypothesis(long_one.job, Hypothesis("hola", np.array([7], np.int32), 0.9, "es"), 0.0))
    assert shell.answer("es").language == "es"
    assert [final.seq for final in shell.finals] == [0, 1]


def test_a_server_that_takes_over_knows_the_language() -> None:
    shell = Shell()
    shell.speak(4)
    shell.answer("es")
    assert shell.stored is not None
    successor = Shell(shell.stored)
    successor.speak(0.6)
    assert successor.decodes[-1].language == "es"


def test_a_language_that_is_chosen_ends_the_guessing() -> None:
    shell = Shell()
    shell.speak(4)
    shell.answer("es")
    shell.do(shell.session.set_language("de"))
    shell.speak(0.6)
    assert shell.decodes[-1].language == "de"


def test_a_segment_without_words_decides_nothing() -> None:
    shell = Shell()
    shell.speak(4)
    shell.answer("tr", text="")
    shell.speak(0.6)
    assert shell.decodes[-1].language == "auto"
