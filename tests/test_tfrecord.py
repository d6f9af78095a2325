"""tfrecord.py: framing and reading compared with TensorFlow's, and damage of every kind."""
from __future__ import annotations

import gzip
import pathlib

import pytest
import support
import tensorflow as tf

import tfrecord
from configuration import UserError
from tfrecord import open_shard

RECORDS = [b"first", b"", b"\x00" * 300, bytes(range(256)), b"x" * 100_000, b"last"]


@pytest.fixture
def write(tmp_path):
    """Writes a file with TensorFlow's own writer."""
    return lambda name, records, compression: support.write_records(tmp_path / name, records, compression)


def test_framing_is_that_of_tensorflow(write):
    framed = b"".join(tfrecord.record_header(len(record)) + record + tfrecord.masked_crc(record) for record in RECORDS)
    assert pathlib.Path(write("x.tfrecord", RECORDS, "")).read_bytes() == framed


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_records_read_back_as_tensorflow_reads_them(compression, write):
    path = write("x.tfrecord", RECORDS, compression)
    by_tensorflow = [record.numpy() for record in tf.data.TFRecordDataset(path, compression)]
    reader = open_shard(path)
    assert reader.records == len(RECORDS) == 6
    assert reader.read(0, 6) == by_tensorflow == RECORDS
    for first, last in [(2, 4), (4, 6), (5, 6), (0, 1), (3, 3), (1, 6)]:  # forward, back, and nothing
        assert reader.read(first, last) == RECORDS[first:last]
    assert open_shard(path, records=6).read(4, 6) == RECORDS[4:]


def read_all(path):
    reader = open_shard(path)
    return reader.read(0, reader.records)


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_truncated_shard_is_refused_wherever_it_ends(compression, write, tmp_path, refuses):
    content = pathlib.Path(write("x.tfrecord", [b"abc", b"", b"defgh"], compression)).read_bytes()
    boundaries = {0: [], 19: [b"abc"], 35: [b"abc", b""]} if not compression else {0: []}
    path = tmp_path / "cut.tfrecord"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        if size in boundaries:  # the file cannot tell that records are missing; the manifest's size can
            assert read_all(str(path)) == boundaries[size]
        else:
            assert str(path) in refuses(read_all, str(path)), size


@pytest.mark.parametrize("compression", ["", "GZIP"])
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_shard_with_a_changed_byte_is_refused_or_read_right(compression, flip, write, tmp_path):
    records = [b"abc", b"", b"defgh"]
    content = pathlib.Path(write("x.tfrecord", records, compression)).read_bytes()
    path = tmp_path / "flipped.tfrecord"
    refused = []
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ flip]) + content[position + 1:])
        try:
            assert read_all(str(path)) == records, position
        except UserError as error:
            assert str(path) in str(error)
            refused.append(position)
    if not compression:
        # Header and body of the first record, length and body of the third.
        assert {*range(19), *range(35, 43), *range(47, 56)} <= set(refused)
    else:
        assert len(refused) > len(content) / 2


def test_other_files_are_refused_by_name(tmp_path, refuses):
    for content in (b"a line of text\n" * 10, b"short", b"\x1f\x8b no gzip after all", b"\x00" * 50,
                    gzip.compress(b"a line of text\n" * 10)):
        path = tmp_path / "text.tfrecord"
        path.write_bytes(content)
        assert str(path) in refuses(read_all, str(path))
    path.write_bytes(b"")
    assert read_all(str(path)) == []


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_fewer_records_than_the_manifest_lists_are_refused(compression, write, refuses):
    reader = open_shard(write("x.tfrecord", [b"abc", b"de"], compression), records=9)
    assert reader.read(0, 2) == [b"abc", b"de"]
    for first, last in [(1, 3), (5, 6)]:
        assert "x.tfrecord ends after 2 records" in refuses(reader.read, first, last)
