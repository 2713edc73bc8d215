"""Sets of channels as bits of a whole number: channel c is in the set if bit c is one. Sets are cut and joined fast."""

from collections.abc import Iterable, Iterator


def every(count: int) -> int:
    """All channels below `count`."""
    return (1 << count) - 1


def these(channels: Iterable[int]) -> int:
    """The channels given."""
    found = 0
    for channel in channels:
        found |= 1 << channel
    return found


def listed(channels: int) -> Iterator[int]:
    """The channels of a set, ascending."""
    while channels:
        lowest = channels & -channels
        yield lowest.bit_length() - 1
        channels ^= lowest


def lowest(channels: int) -> int:
    """The set of the lowest channel alone; of channel 0 where there is none."""
    return channels & -channels or 1
