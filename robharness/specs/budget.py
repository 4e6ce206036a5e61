"""Perturbation sizes as exact rationals."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

_DECIMAL = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"
RATIONAL = rf"^ *[-+]?{_DECIMAL} *(?:/ *{_DECIMAL} *)?$"


class Budget(Fraction):
    """A perturbation size or step as an exact rational that keeps its written form.

    value: "0.25/255", "8/255", "1e-3", 0.5, 1 or a fraction; a float means its shortest decimal form.
    Raises ValueError for anything else, including NaN and infinity.
    """

    text: str

    def __new__(cls, value: str | float | Fraction) -> Budget:
        if not isinstance(value, str | int | float | Fraction):
            raise ValueError(f"{value!r} is not a number such as 0.5 or 8/255")
        try:
            written = str(value)  # as it was written where it is a Budget already
            if not re.fullmatch(RATIONAL, written):
                raise ValueError
            text = written.replace(" ", "")
            numerator, _, denominator = text.partition("/")
            exact = Fraction(numerator) / Fraction(denominator or 1)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{value!r} is not a number such as 0.5 or 8/255") from None
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
