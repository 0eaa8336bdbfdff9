from __future__ import annotations

import io

import pytest

from madengine.results.exceptions import first_exception

OTHER = """\
[rank2]: Traceback (most recent call last):
[rank2]:   File "train.py", line 14, in <module>
[rank2]:     dist.all_reduce(total)
[rank2]: RuntimeError: Connection closed by peer
"""
RAISED = """\
step 4
[rank3]: Traceback (most recent call last):
[rank2]: Traceback (most recent call last):
[rank3]:   File "train.py", line 12, in <module>
[rank2]: RuntimeError: Connection closed by peer
[rank3]:     raise ValueError("the loss is not a number")
[rank3]: ValueError: the loss is not a number
[rank3]: see the log
"""
CHAINED = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "train.py", line 1, in <module>
[rank0]: KeyError: 'x'

[rank0]: During handling of the above exception, another exception occurred:

[rank0]: Traceback (most recent call last):
[rank0]:   File "train.py", line 3, in <module>
[rank0]: torch.OutOfMemoryError: HIP out of memory
"""


@pytest.mark.parametrize(
    ("log", "exception"),
    [
        ("", ""),
        ("Traceback (most recent call last):\nValueError: of one process\n", ""),
        ("[rank0]: a message of the script's own\n", ""),
        (RAISED + OTHER, "[rank3]: ValueError: the loss is not a number"),
        (OTHER + RAISED, "[rank2]: RuntimeError: Connection closed by peer"),
        (CHAINED, "[rank0]: torch.OutOfMemoryError: HIP out of memory"),
        ("[rank1]: Traceback (most recent call last):\n", ""),
        (
            "[rank1]: Traceback (most recent call last):\n[rank1]: E\r: " + "x" * 5000,
            "[rank1]: E : " + "x" * 187,
        ),
    ],
)
def test_the_rank_that_raised_first_is_quoted(log: str, exception: str) -> None:
    assert first_exception(io.BytesIO(log.encode())) == exception
