from pathlib import Path

import numpy as np
import pytest

from perf.track import DEFAULT_MANIFEST, load_clips, make_tracks

CLIPS = load_clips(DEFAULT_MANIFEST, ["en"])
SHORT = load_clips(DEFAULT_MANIFEST, ["en"], ["librivox", "jfk"])


def test_tracks_are_equally_long_and_say_whole_recordings() -> None:
    tracks = make_tracks(SHORT, 6, 30.0)
    assert {len(track.samples) for track in tracks} == {30 * 16000}
    transcripts = sorted((clip.transcript for clip in SHORT), key=len, reverse=True)
    for track in tracks:
        rest = track.transcript
        for transcript in transcripts:
            rest = rest.replace(transcript, "")
        assert rest.strip() == ""


def test_tracks_begin_differently_and_are_the_same_every_time() -> None:
    first, again = make_tracks(SHORT, 4, 20.0), make_tracks(SHORT, 4, 20.0)
    assert len({track.transcript[:30] for track in first}) == 4
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(first, again, strict=True))


def test_spans_lie_where_the_sound_is() -> None:
    [track] = make_tracks(SHORT, 1, 30.0)
    for span in track.spans:
        inside = track.samples[round(span.start * 16000) : round(span.end * 16000)]
        assert np.abs(inside).max() > 300
    assert all(a.end <= b.start for a, b in zip(track.spans, track.spans[1:], strict=False))


def test_continuous_speech_has_no_long_pause_between_recordings() -> None:
    [pauses] = make_tracks(SHORT, 1, 30.0)
    [continuous] = make_tracks(SHORT, 1, 30.0, continuous=True)
    assert continuous.speech_share > pauses.speech_share


def test_a_recording_longer_than_the_track_is_not_cut() -> None:
    [clip] = load_clips(DEFAULT_MANIFEST, names=["two_cities"])
    [track] = make_tracks([clip], 1, 10.0)
    assert track.seconds > 44
    assert track.transcript == clip.transcript


def test_frames_cover_the_track() -> None:
    [track] = make_tracks(SHORT, 1, 10.01)
    frames = track.frames(0.02)
    assert {len(frame) for frame in frames} == {320}
    assert np.array_equal(np.concatenate(frames)[: len(track.samples)], track.samples)


def test_nothing_left_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recording"):
        load_clips(DEFAULT_MANIFEST, ["xx"])
