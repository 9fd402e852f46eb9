import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver import units
from hakuriver.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("123", 123),
        ("512M", 512_000_000),
        ("4G", 4_000_000_000),
        ("4GB", 4_000_000_000),
        ("4GiB", 4 * 2**30),
        ("512MiB", 512 * 2**20),
        ("1.5G", 1_500_000_000),
        ("1.5K", 1500),
        ("0.5KiB", 512),
        (" 2T ", 2 * 10**12),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "G", "-1", "1X", "1 G", "1e9", "1,5G", "4Gi", "4g", "0x10", "1.5", "nan", "2E", "9999999T", "٣G"],
)
def test_bad_sizes_name_the_text(text: str) -> None:
    with pytest.raises(UsageError, match="size"):
        units.parse_size(text)


@given(st.integers(0, 10**17))
def test_a_formatted_size_is_short_and_within_five_percent(size: int) -> None:
    text = units.format_size(size)
    assert len(text) <= 5
    number = float(text.rstrip("KMGTPE"))
    factor = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}[
        text.lstrip("0123456789.")
    ]
    assert number * factor == pytest.approx(size, rel=0.051)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5s", 1.5),
        ("30m", 1800),
        ("2h", 7200),
        ("1d12h", 129600),
        ("1w", 604800),
        ("0", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1", "2 h", "1h2", "5ms", "1m1h", "inf", "11000w"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(UsageError):
        units.parse_duration(text)


@given(st.floats(0, 10**8))
def test_durations_are_shown_in_at_most_two_units(seconds: float) -> None:
    text = units.format_duration(seconds)
    assert sum(character.isalpha() for character in text) <= 2
    assert units.parse_duration(text) <= seconds + 1


@given(st.integers(0, 4096 * 1000))
def test_cores_add_up_in_thousandths(milli: int) -> None:
    assert units.millicores(units.parse_cores(units.format_cores(milli / 1000))) == milli


@pytest.mark.parametrize("text", ["", "-1", "1.2345", "nan", "inf", "5000", "1e3", "four"])
def test_bad_cores(text: str) -> None:
    with pytest.raises(UsageError):
        units.parse_cores(text)
