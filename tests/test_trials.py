import pytest

from helpers import interval, repeat


# Reference values: Wilson score interval at 95 %, from the formula in Newcombe (1998), table I.
@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_matches_published_values(k: int, n: int, low: float, high: float) -> None:
    assert interval(k, n) == pytest.approx((low, high), abs=5e-5)


def test_interval_is_never_certain() -> None:
    assert interval(20, 20)[0] < 1 and interval(20, 20)[1] == 1


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_no_rate(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        interval(k, n)


def test_repeat_keeps_every_run() -> None:
    numbers = iter(range(3))
    assert repeat(lambda: {"lost": next(numbers)}, n=3)["lost"].tolist() == [0, 1, 2]
