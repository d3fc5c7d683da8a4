"""Classify operators of all runtimes by name: products, precision changes, moves, and others."""

from __future__ import annotations

import re

# the first match counts
_PATTERNS = {
    "precision change": r"quantize|^cast|^convert|reorder|^memcpy|_to_copy|(^|::)to$|choose_qparams|subgraph_convert",
    "product": r"conv(?!ert)|gemm|matmul|linear(?!quant)|fullyconnected|addmm|bmm|(^|::)mm$|einsum|attention|lstm|gru"
    "|rnn",
    "norm": r"norm",
    "reduction": r"pool|mean|reduce|softmax|sum$|argmax|topk",
    "moves": r"transpose|permute|reshape|flatten|view|concat|(^|::)cat$|split|slice|gather|expand|squeeze|pad|embedding"
    r"|copy|contiguous|select|stack|shape",
}
# integer operators of ONNX Runtime: QLinearConv, QLinearAdd, DynamicQuantizeMatMul
_INTEGERS = re.compile(r"^(QLinear|DynamicQuantize(?!Linear))")
_SIMULATED = re.compile(r"quantize_per|dequantize|fake_quant", re.IGNORECASE)
_BYTES = {"float64": 8.0, "float32": 4.0, "tf32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": 0.5}

KINDS = ("product", "precision change", "norm", "reduction", "moves", "elementwise")


def kind_of(op: str) -> str:
    """Return the kind of an operator, one of :data:`KINDS`, by its runtime's name.

    Examples
    --------
    >>> [kind_of(op) for op in ("aten::conv2d", "QuantizeLinear", "Relu", "Transpose")]
    ['product', 'precision change', 'elementwise', 'moves']
    """
    op = _INTEGERS.sub("", op)
    matches = (kind for kind, pattern in _PATTERNS.items() if re.search(pattern, op, re.IGNORECASE))
    return next(matches, "elementwise")


def is_product(op: str) -> bool:
    """Return whether an operator multiplies matrices or convolves."""
    return kind_of(op) == "product"


def is_rounding(op: str) -> bool:
    """Return whether an operator of torch is fake quantization."""
    return bool(_SIMULATED.search(op))


def bytes_each(precision: str) -> float:
    """Return the bytes of one number in a precision, 4 for an unknown one."""
    return _BYTES.get(precision, 4.0)
