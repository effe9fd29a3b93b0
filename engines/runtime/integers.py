"""Whether ONNX Runtime's integer products are exact on this processor.

x86 processors without VNNI multiply unsigned by signed bytes with an instruction that saturates at 16 bits; the sums
are then wrong for large weights. (ONNX Runtime's guide to quantisation, "When to use reduce-range".)
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

_INNER = 64


@cache
def exact_int8() -> bool:
    """Multiplies the largest codes there are and looks whether the sum is right."""
    weights = np.full((_INNER, 16), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["codes", "weights"], ["sums"])],
        "probe",
        [helper.make_tensor_value_info("codes", TensorProto.UINT8, [2, _INNER])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [2, 16])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"codes": np.full((2, _INNER), 255, np.uint8)})
    return bool((sums == 255 * 127 * _INNER).all())
