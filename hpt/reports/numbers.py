"""Numbers as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """75 -> '1 min 15 s'."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds / 3600:.1f} h"


def short(number: float) -> str:
    """1234567 -> '1.23M'."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def written(value: float) -> str:
    """1200000 -> 1.2M; 0.0004 -> 4e-4."""
    if value == 0:
        return "0"
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    if abs(value) < 0.01:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def of_given(spent: float, given: float | None) -> str:
    """Dollars, and of how many where there is a cap."""
    return f"${spent:.2f}" + ("" if given is None else f" of ${given:.2f}")
