"""What counts as a number in results."""

from __future__ import annotations

import math
import re

#: One decimal number, as a regular expression.
NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_IS_NUMBER = re.compile(NUMBER)


def is_number(text: str) -> bool:
    """Return whether the text is one finite decimal number: `12`, `-3.5e+2`, `.5`; not `nan`, `1,234` or `12 s`."""
    return bool(_IS_NUMBER.fullmatch(text)) and math.isfinite(float(text))
