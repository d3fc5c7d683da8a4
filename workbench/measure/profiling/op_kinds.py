"""Classify operators of all runtimes by name: products, precision changes, moves, and others."""

from __future__ import annotations

import re

_PRODUCT = re.compile(
    r"conv(?!ert)|gemm|matmul|linear(?!quant)|fullyconnected|addmm|bmm|(^|::)mm$|einsum|attention|lstm|gru|rnn",
    re.IGNORECASE,
)
_CHANGES = re.compile(
    r"quantize|^cast|^convert|reorder|^memcpy|_to_copy|(^|::)to$|choose_qparams|subgraph_convert", re.IGNORECASE
)
# integer operators of ONNX Runtime: QLinearConv, QLinearAdd, DynamicQuantizeMatMul
_INTEGERS = re.compile(r"^(QLinear|DynamicQuantize(?!Linear))")
_NORM = re.compile(r"norm", re.IGNORECASE)
_POOL = re.compile(r"pool|mean|reduce|softmax|sum$|argmax|topk", re.IGNORECASE)
_MOVE = re.compile(
    r"transpose|permute|reshape|flatten|view|concat|(^|::)cat$|split|slice|gather|expand|squeeze|pad|embedding|copy"
    r"|contiguous|select|stack|shape",
    re.IGNORECASE,
)
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
    patterns = (_CHANGES, _PRODUCT, _NORM, _POOL, _MOVE)
    op = _INTEGERS.sub("", op)
    kinds = ("precision change", "product", "norm", "reduction", "moves")
    return next((kind for kind, pattern in zip(kinds, patterns, strict=True) if pattern.search(op)), "elementwise")


def is_product(op: str) -> bool:
    """Return whether an operator multiplies matrices or convolves."""
    return kind_of(op) == "product"


def is_precision_change(op: str) -> bool:
    """Return whether an operator only converts type or layout."""
    return kind_of(op) == "precision change"


def is_rounding(op: str) -> bool:
    """Return whether an operator of torch is fake quantization."""
    return bool(_SIMULATED.search(op))


def bytes_each(precision: str) -> float:
    """Return the bytes of one number in a precision, 4 for an unknown one."""
    return _BYTES.get(precision, 4.0)
