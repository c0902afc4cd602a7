"""Keys go to the partitions that Apache Kafka's own clients choose."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from streamer.log.partitioner import murmur2, partition_of


@pytest.mark.parametrize(
    ("key", "signed"),
    [  # org.apache.kafka.common.utils.UtilsTest#testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_hashes_are_those_of_apache_kafkas_own_test(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32


@given(st.binary(max_size=64))
def test_hashes_are_those_of_an_independent_client(key: bytes) -> None:
    assert murmur2(key) == aiokafka_murmur2(key) % 2**32


@given(st.binary(max_size=64), st.integers(1, 1000))
def test_a_partition_is_one_of_those_that_exist(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions
