"""What people and lines sound like, for Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from server.session.settings import SessionSettings

from .driver import Script, script
from .world import GHOST, MURMUR, NOISE, SILENCE, WORDS, Sound

RATES = (16000, 8000, 44100, 48000, 11025, 22050)
ENCODINGS = ("pcm_s16le", "pcm_f32le", "mulaw", "alaw")

_words = st.builds(Sound, st.sampled_from(WORDS), st.integers(20, 700))
_pauses = st.builds(Sound, st.just(SILENCE), st.sampled_from((40, 130, 250, 420, 800, 1500)))
_others = st.builds(Sound, st.sampled_from((NOISE, MURMUR)), st.integers(30, 900))
_ghosts = st.builds(Sound, st.just(GHOST), st.integers(120, 900))
_long = st.builds(Sound, st.sampled_from(WORDS[:2]), st.integers(2000, 3500))

sounds = st.one_of(_words, _words, _pauses, _others, _long)
sounds_and_ghosts = st.one_of(sounds, _ghosts)

_controls = st.one_of(
    st.tuples(st.floats(0, 1), st.just("finalize")),
    st.tuples(st.floats(0, 1), st.sampled_from(("language:fr", "language:es"))),
)


@st.composite
def scripts(draw: st.DrawFn, *, rates: tuple[int, ...] = RATES, ghosts: bool = False) -> Script:
    """A few seconds of sound at some rate in some encoding, with controls at some places."""
    settings = SessionSettings(
        sample_rate=draw(st.sampled_from(rates)),
        encoding=draw(st.sampled_from(ENCODINGS)),
        punctuate=draw(st.booleans()),
        partials=draw(st.sampled_from((True, True, False))),
        endpoint_silence_ms=draw(st.sampled_from((200, 500))),
    )
    heard = draw(st.lists(sounds_and_ghosts if ghosts else sounds, min_size=1, max_size=9))
    said = draw(st.lists(_controls, max_size=4))
    controls = []
    for number, (share, what) in enumerate(said):
        kind, _, value = what.partition(":")
        controls.append((share, kind, value or f"f{number}"))
    return script(settings, heard, controls)
