"""Which version is tried next: the first bad one is the outcome, whatever has to be skipped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from madengine.bisect.search import BAD, GOOD, SKIPPED, next_version, steps_left, suspects


def searched(count: int, first_bad: int, broken: set[int]) -> dict[int, str]:
    """Return the verdicts of a whole bisection of versions 0 to `count`."""
    verdicts = {0: GOOD, count: BAD}
    while (number := next_version(verdicts)) is not None:
        assert number not in verdicts
        verdicts[number] = SKIPPED if number in broken else BAD if number >= first_bad else GOOD
    return verdicts


@given(data=st.data(), count=st.integers(1, 200))
def test_the_first_bad_version_is_left(data: st.DataObject, count: int) -> None:
    first_bad = data.draw(st.integers(1, count))
    verdicts = searched(count, first_bad, set())
    assert list(suspects(verdicts)) == [first_bad]
    assert len(verdicts) - 2 <= (count - 1).bit_length() + 1


@given(data=st.data(), count=st.integers(2, 60))
def test_of_skipped_versions_those_next_to_the_change_are_left(data: st.DataObject, count: int) -> None:
    first_bad = data.draw(st.integers(1, count))
    broken = data.draw(st.sets(st.integers(1, count - 1)))
    left = list(suspects(searched(count, first_bad, broken)))
    assert first_bad in left
    # Only what could not be tried is left beside the first one that is known to be bad.
    assert set(left[:-1]) <= broken
    assert left[-1] not in broken


def test_the_middle_is_first_and_the_one_beside_it_where_that_is_skipped() -> None:
    assert next_version({0: GOOD, 7: BAD}) == 3
    assert next_version({0: GOOD, 3: SKIPPED, 7: BAD}) == 4
    assert next_version({0: GOOD, 3: SKIPPED, 4: GOOD, 7: BAD}) == 5
    assert next_version({0: GOOD, 1: BAD}) is None
    assert [steps_left({0: GOOD, count: BAD}) for count in (1, 2, 3, 4, 5, 9)] == [0, 1, 2, 2, 3, 4]
