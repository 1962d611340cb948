"""The exponential, as a part of compiled loops that becomes vectors; importing this imports numba.

The compiler makes vectors of what follows, and calls the exponential of its library one by one.
"""

from typing import Any

import numpy as np

from sctnet.kernels.jit import part_of_loop

_POWERS = (0.5 ** np.arange(128)).astype(np.float32)
_ONE, _OVER_2, _OVER_6, _OVER_24, _OVER_120, _OVER_720 = (
    np.float32(1 / factor) for factor in (1, 2, 6, 24, 120, 720)
)
_LOG2_E, _LN_2 = np.float32(1.4426950408889634), np.float32(0.6931471805599453)
_LEAST = np.float32(-126)


@part_of_loop
def exponential(x: Any) -> Any:
    """Return e to the power of a number that is not positive, within 2e-7; without branches.

    A power of 2 from a table, times the Taylor series of what is left, half a step at most. What is
    not a number gives the smallest: it would be an index.
    """
    power = x * _LOG2_E
    power = power if power > _LEAST else _LEAST
    whole = np.floor(power + np.float32(0.5))
    rest = (power - whole) * _LN_2
    series = _OVER_720 * rest + _OVER_120
    series = series * rest + _OVER_24
    series = series * rest + _OVER_6
    series = series * rest + _OVER_2
    series = series * rest + _ONE
    series = series * rest + _ONE
    return series * _POWERS[np.int32(-whole)]
