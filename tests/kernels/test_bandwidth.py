"""The measure of the memory: it reads every byte once, however many threads and streams read, and leaves the threads as they were."""

from __future__ import annotations

import pytest

from specgrove.kernels import _native, bandwidth
from specgrove.kernels.threads import get_num_threads, set_num_threads


@pytest.mark.usefixtures("kernel_settings")
@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("num_streams", [1, 4, 8])
@pytest.mark.parametrize("num_words", [1, 63, 64, 4097, 100_003])
def test_every_word_is_read_once(num_threads: int, num_streams: int, num_words: int) -> None:
    set_num_threads(num_threads)
    found = _native.MemoryReader(8 * num_words).read(num_streams)
    assert found == sum(range(num_words))  # words are their own numbers: one read twice doesn't stand for another


def test_other_numbers_of_streams_are_refused() -> None:
    with pytest.raises(ValueError, match="1, 4 or 8"):
        _native.MemoryReader(64).read(2)


@pytest.mark.usefixtures("kernel_settings")
def test_measuring_leaves_the_kernels_threads_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "BUFFER_BYTES", 1 << 20)
    before = get_num_threads()
    measured = bandwidth.ReadBandwidth(before + 1)
    assert measured.measure() > 0
    assert measured.all_gb_per_s == [measured.all_gb_per_s[0]]
    assert get_num_threads() == before
