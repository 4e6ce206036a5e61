"""Perturbation sizes as exact rationals."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"  # one way to match a run of digits
_LONGEST = 100
"""The number of characters of a written budget: two rationals of 17 digits need less than 50."""
RATIONAL = rf"^ *[-+]?{_DECIMAL} *(?:/ *{_DECIMAL} *)?$"


class Budget(Fraction):
    """A perturbation size or step as an exact rational that keeps its written form.

    value: "0.25/255", "8/255", "1e-3", 0.5, 1 or a fraction; a float means its shortest decimal form.
    Raises ValueError for anything else, including NaN and infinity.
    """

    text: str

    def __new__(cls, value: str | float | Fraction) -> Budget:
        if not isinstance(value, str | int | float | Fraction):
            raise ValueError(f"{_excerpt(value)} is not a number such as 0.5 or 8/255")
        try:
            written = str(value)  # as it was written where it is a Budget already
            if len(written) > _LONGEST or not re.fullmatch(RATIONAL, written):
                raise ValueError
            text = written.replace(" ", "")
            numerator, _, denominator = text.partition("/")
            exact = Fraction(numerator) / Fraction(denominator or 1)
        except (ValueError, ZeroDivisionError):  # as of an integer with more digits than Python writes
            raise ValueError(f"{_excerpt(value)} is not a number such as 0.5 or 8/255") from None
        if exact and not Fraction(2) ** -1075 < abs(exact) < Fraction(2) ** 1024:  # as floats, in which attacks compute
            raise ValueError(f"{text!r} is too {'small' if abs(exact) < 1 else 'large'} for a floating-point number")
        self = super().__new__(cls, exact)
        self.text = text
        return self

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Budget({self.text!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Budget, (self.text,))

    def __copy__(self) -> Budget:
        return self

    def __deepcopy__(self, memo: Any) -> Budget:
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": RATIONAL}]}


def _excerpt(value: Any) -> str:
    """Return the beginning of a value as Python writes it."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python writes
        return "an integer of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:40]}…"
