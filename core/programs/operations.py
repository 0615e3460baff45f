"""What a program may be made of. All else is refused: what talks to the host or to other devices, what is not
deterministic, shapes that are known only when it runs, and foreign code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Typed = tuple[tuple[int, ...], str]  # shape, element type as MLIR prints it
Fits = Callable[[Sequence[Typed], Sequence[Typed], str], bool]
"""(operands, results, options as MLIR prints them) → whether a routine can be trusted with them."""

TYPES = {
    "bool": "i1",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "ui8",
    "uint16": "ui16",
    "uint32": "ui32",
    "uint64": "ui64",
    "bfloat16": "bf16",
    "float16": "f16",
    "float32": "f32",
    "float64": "f64",
    "complex64": "complex<f32>",
    "complex128": "complex<f64>",
}
"""How MLIR prints NumPy's types."""

_SIDE = re.compile(r"\bside = (\d+) : ui8\b")  # the letters L and R
_STABLEHLO = """
abs add and atan2 batch_norm_grad batch_norm_inference batch_norm_training bitcast_convert broadcast broadcast_in_dim
case cbrt ceil cholesky clamp compare complex composite concatenate constant convert convolution cosine
count_leading_zeros custom_call divide dot dot_general dynamic_slice dynamic_update_slice einsum exponential
exponential_minus_one fft floor gather if imag iota is_finite log log_plus_one logistic map maximum minimum multiply
negate not optimization_barrier or pad popcnt power real reduce reduce_precision reduce_window remainder reshape return
reverse rng_bit_generator round_nearest_afz round_nearest_even rsqrt scatter select select_and_scatter shift_left
shift_right_arithmetic shift_right_logical sign sine slice sort sqrt subtract tan tanh transpose triangular_solve while
xor
"""
_CHLO = """
acos acosh asin asin_acos_kernel asinh atan atan_real atanh bessel_i1e conj constant cosh digamma erf erf_inv erfc
is_inf is_neg_inf is_pos_inf lgamma next_after polygamma sinh square tan top_k zeta
"""
OPERATIONS = frozenset(
    {"func.func", "func.call", "func.return"} | {f"stablehlo.{name}" for name in _STABLEHLO.split()}
)
"""By their full names in MLIR. `rng_bit_generator` is a function of its state; `rng` is not."""

COMPOSITES = frozenset({f"chlo.{name}" for name in _CHLO.split()})
"""Names of composites; they have decompositions, which are looked at like all functions."""


def _factored(number: int) -> Fits:
    """Matrices x [*, m, n] → (x, `number` integers [*])."""

    def fits(operands: Sequence[Typed], results: Sequence[Typed], options: str) -> bool:
        if len(operands) != 1 or len(results) != 1 + number or len(operands[0][0]) < 2:
            return False
        batch = operands[0][0][:-2]
        return results[0] == operands[0] and all(one == (batch, "i32") for one in results[1:])

    return fits


def _cholesky(operands: Sequence[Typed], results: Sequence[Typed], options: str) -> bool:
    """X [*, n, n] → (x, info [*])."""
    return _factored(1)(operands, results, options) and operands[0][0][-1] == operands[0][0][-2]


def _lu(operands: Sequence[Typed], results: Sequence[Typed], options: str) -> bool:
    """X [*, m, n] → (x, pivots [*, min(m, n)], info [*])."""
    if len(results) != 3 or not _factored(1)(operands, [results[0], results[2]], options):
        return False
    *batch, rows, columns = operands[0][0]
    return results[1] == ((*batch, min(rows, columns)), "i32")


def _qr(operands: Sequence[Typed], results: Sequence[Typed], options: str) -> bool:
    """X [*, m, n] → (x, scales [*, min(m, n)])."""
    if len(results) != 2 or not _factored(0)(operands, results[:1], options):
        return False
    *batch, rows, columns = operands[0][0]
    return results[1] == ((*batch, min(rows, columns)), operands[0][1])


def _householder(operands: Sequence[Typed], results: Sequence[Typed], options: str) -> bool:
    """X [*, m, n] with n ≤ m, scales [*, k] with k ≤ n → x."""
    if len(operands) != 2 or not _factored(0)(operands[:1], results, options):
        return False
    *batch, rows, columns = operands[0][0]
    (*scales, count), kind = operands[1][0] or (0,), operands[1][1]
    return scales == batch and kind == operands[0][1] and count <= columns <= rows


def _eigen(operands: Sequence[Typed], results: Sequence[Typed], options: str) -> bool:
    """X [*, n, n] → (x, values [*, n], info [*])."""
    if len(results) != 3 or not _cholesky(operands, [results[0], results[2]], options):
        return False
    *batch, _, columns = operands[0][0]
    return results[1] == ((*batch, columns), operands[0][1])


def _triangular(operands: Sequence[Typed], results: Sequence[Typed], options: str) -> bool:
    """Triangle [*, n, n], b [*, m, k] → b, where n is m or k: which of them, `side` says."""
    if len(operands) != 2 or list(results) != [operands[1]] or operands[0][1] != operands[1][1]:
        return False
    if min(len(operands[0][0]), len(operands[1][0])) < 2:
        return False
    (*batch, height, width), (*others, rows, columns) = operands[0][0], operands[1][0]
    wanted = {"76": rows, "82": columns}.get(found[1] if (found := _SIDE.search(options)) else "")
    return batch == others and height == width == wanted


def _pivots(operands: Sequence[Typed], results: Sequence[Typed], options: str) -> bool:
    """Pivots [*, k] → permutation [*, n] with k ≤ n."""
    if len(operands) != 1 or len(results) != 1 or not operands[0][0] or not results[0][0]:
        return False
    (*batch, count), (*out, size) = operands[0][0], results[0][0]
    return batch == out and count <= size and {operands[0][1], results[0][1]} == {"i32"}


_ROUTINES: dict[tuple[str, str], Fits] = {
    ("lapack_{}potrf_ffi", "sd"): _cholesky,
    ("lapack_{}getrf_ffi", "sd"): _lu,
    ("lapack_{}geqrf_ffi", "sd"): _qr,
    ("lapack_{}orgqr_ffi", "sd"): _householder,
    ("lapack_{}syevd_ffi", "sd"): _eigen,
    ("lapack_{}trsm_ffi", "sd"): _triangular,
    ("cusolver_potrf_ffi", " "): _cholesky,
    ("cusolver_getrf_ffi", " "): _lu,
    ("cusolver_geqrf_ffi", " "): _qr,
    ("cusolver_orgqr_ffi", " "): _householder,
    ("cusolver_syevd_ffi", " "): _eigen,
    ("cu_lu_pivots_to_permutation", " "): _pivots,
}
CALLS: dict[str, Fits] = {
    pattern.format(kind): fits for (pattern, kinds), fits in _ROUTINES.items() for kind in kinds
}
"""Numerical routines outside StableHLO that JAX calls, by their targets, and the shapes that each can be trusted with:
most write as much as their first argument has, whatever is there to be written to.
"""
