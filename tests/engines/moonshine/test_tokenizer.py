from __future__ import annotations

from pathlib import Path

import pytest

from engines.moonshine.tokenizer import Tokenizer


def _file(folder: Path, pieces: list[bytes]) -> Path:
    path = folder / "tokenizer.bin"
    data = b""
    for piece in pieces:
        size = len(piece)
        data += bytes([size]) if size < 128 else bytes([size % 128 + 128, size // 128])
        data += piece
    path.write_bytes(data)
    return path


@pytest.fixture
def real(moonshine_dir: Path) -> Tokenizer:
    return Tokenizer.load(moonshine_dir / "tokenizer.bin")


def _bytes(data: bytes) -> list[int]:
    return [3 + value for value in data]


def test_has_the_whole_vocabulary(real: Tokenizer) -> None:
    assert len(real) == 32768


def test_joins_pieces_and_turns_marks_into_spaces(real: Tokenizer) -> None:
    assert real.decode([1126, 3237, 29889, 2259]) == "And Mr. John"


def test_byte_pieces_make_characters(real: Tokenizer) -> None:
    assert real.decode(_bytes("zoë 東".encode())) == "zoë 東"


def test_bytes_cut_in_the_middle_of_a_character_become_one_replacement(real: Tokenizer) -> None:
    assert real.decode([*_bytes("東".encode()[:2]), 2259]) == "\N{REPLACEMENT CHARACTER} John"


def test_control_pieces_vanish(real: Tokenizer) -> None:
    assert real.decode([1, 1126, 32767, 32500, 2]) == "And"


def test_no_ids_give_no_text(real: Tokenizer) -> None:
    assert real.decode([]) == ""


def test_an_id_outside_the_vocabulary_is_an_error(real: Tokenizer) -> None:
    with pytest.raises(IndexError):
        real.decode([32768])


def test_finds_the_full_stop_that_the_model_uses(real: Tokenizer) -> None:
    assert real.find(".") == 29889


def test_a_piece_that_is_not_there_is_an_error(real: Tokenizer) -> None:
    with pytest.raises(ValueError, match="no piece"):
        real.find("no such piece at all")


def test_reads_pieces_of_128_bytes_and_more(tmp_path: Path) -> None:
    pieces = [b"<unk>", b"<s>", b"</s>", *(bytes([value]) for value in range(256)), b"x" * 127, b"y" * 128, b"z" * 1000]
    tokenizer = Tokenizer.load(_file(tmp_path, pieces))
    assert tokenizer.decode([259, 260, 261]) == "x" * 127 + "y" * 128 + "z" * 1000


def test_a_cut_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = _file(tmp_path, [b"<unk>", b"hello"])
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match="download it again"):
        Tokenizer.load(path)
