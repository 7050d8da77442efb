"""The structs of common.cu, epilogue.cu, light.cu, recurrent.cu as NumPy types; pointers are device addresses."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..verify import MAX_SUMS


def _struct(*fields: tuple[Any, ...]) -> np.dtype:
    return np.dtype(list(fields), align=True)


INT, LONG, DOUBLE, POINTER = np.int32, np.int64, np.float64, np.uint64

AXIS = _struct(("count", INT), ("taps", INT), ("positions", POINTER), ("index", POINTER), ("factor", POINTER))
REGION = _struct(("axes", AXIS, 3), ("rows", INT), ("taps", INT))
GEOMETRY = _struct(
    ("source", INT, 3), ("out", INT, 3), ("source_rows", INT), ("regions_count", INT), ("regions", POINTER)
)
BUFFER = _struct(("at", LONG), ("size", LONG))
TERM = _struct(
    ("source", BUFFER),
    *((name, INT) for name in ("part", "round", "accumulator", "quads", "channels", "stride", "alike", "unused")),
    ("row_step", LONG),
    ("column_step", LONG),
    ("geometry", POINTER),
    ("weights", POINTER),
    ("others", POINTER),
)
OUTPUT = _struct(
    *(("buffer", BUFFER), ("plus", BUFFER), ("constant", POINTER), ("per_row", INT), ("relu", INT), ("zero", DOUBLE)),
    ("coefficients", DOUBLE, MAX_SUMS),
)
SHARE = _struct(
    ("bound", POINTER), *((name, INT) for name in ("accumulator", "part", "step", "unused")), ("coefficient", DOUBLE)
)
DIVISOR = _struct(
    ("z", BUFFER),
    ("mask_z", BUFFER),
    ("constant", POINTER),
    ("value", DOUBLE),
    *((name, INT) for name in ("divides", "stabilizer", "mask", "unused")),
)
BRANCH = _struct(
    ("x", BUFFER), ("out", BUFFER), ("divisor", DIVISOR), ("part", INT), ("weight", DOUBLE), ("coefficient", DOUBLE)
)
CONTRACTION = _struct(
    *((name, INT) for name in ("terms_count", "sums", "outputs_count", "shares_count")),
    *((name, INT) for name in ("rows", "width", "columns", "groups")),
    *((name, INT) for name in ("check", "round", "quads", "branches_count")),
    ("divisor", DIVISOR),
    *((name, BUFFER) for name in ("x", "out", "plus")),
    *((name, POINTER) for name in ("geometry", "terms", "outputs", "shares", "branches")),
)
FUNCTION = _struct(("number", INT), ("unused", INT), ("parameters", DOUBLE, 3))
RECURRENCE = _struct(
    *((name, INT) for name in ("cell", "product", "bias_share", "backwards")),
    *((name, INT) for name in ("sequences", "time_order", "zero_masked", "return_state")),
    *((name, INT) for name in ("steps", "features", "units", "blocks")),
    *((name, INT) for name in ("slots", "first_block", "relevant_blocks", "unused")),
    ("epsilon", DOUBLE),
    *((name, FUNCTION) for name in ("cell_function", "gate_function", "output_function")),
    *((name, POINTER) for name in ("weights", "candidate", "bias", "candidate_bias", "initial_h", "initial_c")),
)
LIGHT = _struct(
    ("reads", BUFFER, 8),
    ("writes", BUFFER, 5),
    *((name, INT) for name in ("function", "flag", "columns", "sources_count")),
    *((name, INT) for name in ("check", "detached", "length", "stabilizer")),
    *((name, LONG) for name in ("count", "run", "source_offset", "source_step", "out_offset", "out_step")),
    *((name, INT) for name in ("m", "n", "k", "has_winner")),
    ("p", DOUBLE, 4),
    *((name, POINTER) for name in ("values", "more_values", "index", "starts", "sources", "geometry", "recurrence")),
)

#: The offset of a buffer that is not in the workspace.
INPUT, RESULT = -1, -2
