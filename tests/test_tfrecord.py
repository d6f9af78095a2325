"""tfrecord.py: framing and reading compared with TensorFlow's, and damage of every kind."""
from __future__ import annotations

import gzip
import os
import pathlib
import struct
import subprocess
import sys

import google_crc32c
import numpy as np
import pytest
import support
import tensorflow as tf

import tfrecord
from configuration import UserError

RECORDS = [b"first", b"", b"\x00" * 300, bytes(range(256)), b"x" * 100_000, b"last"]


@pytest.fixture
def write(tmp_path):
    """Writes a file with TensorFlow's own writer."""
    return lambda name, records, compression: support.write_records(tmp_path / name, records, compression)


def test_framing_is_that_of_tensorflow(write):
    framed = b"".join(tfrecord.record_header(len(record)) + record + tfrecord.masked_crc(record) for record in RECORDS)
    assert pathlib.Path(write("x.tfrecord", RECORDS, "")).read_bytes() == framed


def open_shard(path, records=None):
    """A reader; the index of a plain file is written to `<path>.new`."""
    if tfrecord.is_gzip(path):
        return tfrecord.open_shard(path, records)
    tfrecord.write_index(path, path + ".new")
    return tfrecord.open_shard(path, records, path + ".new")


def read_all(path):
    """All records. Raises: UserError: one is damaged."""
    reader = open_shard(path)
    records = reader.read(range(reader.records))
    if None in records:
        raise UserError(f"{path}: {reader.place(records.index(None))}")
    return records


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_records_read_back_as_tensorflow_reads_them(compression, write):
    path = write("x.tfrecord", RECORDS, compression)
    by_tensorflow = [record.numpy() for record in tf.data.TFRecordDataset(path, compression)]
    reader = open_shard(path)
    assert reader.records == len(RECORDS) == 6
    assert reader.read(range(6)) == by_tensorflow == RECORDS
    for numbers in ([2, 3], [4, 5], [5], [0], [], [0, 2, 3, 5], [1, 5]):  # forward, back, with gaps, and nothing
        assert reader.read(numbers) == [RECORDS[number] for number in numbers]
    assert open_shard(path, records=6).read([4, 5]) == RECORDS[4:]


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
def test_reading_beyond_the_last_record_is_refused(compression, write, refuses):
    reader = open_shard(write("x.tfrecord", [b"abc", b"de"], compression), records=9)
    assert reader.read([0, 1]) == [b"abc", b"de"]
    for numbers in ([1, 2], [5]):
        assert "x.tfrecord ends after 2 records" in refuses(reader.read, numbers)


def test_a_damaged_record_leaves_the_others_readable(write):
    """Whichever byte of its frame is damaged, as long as an index is there; which byte that is can be said."""
    path = write("x.tfrecord", RECORDS, "")
    reader, content = open_shard(path), bytearray(pathlib.Path(path).read_bytes())
    start = 16 + len(RECORDS[0]) + 16  # of the third record
    for byte in (0, 4, 9, 12, 200, 311, 315):  # length, its checksum, the record, its checksum
        damaged = bytearray(content)
        damaged[start + byte] ^= 0x10
        pathlib.Path(path).write_bytes(damaged)
        assert reader.read([1, 2, 3, 5]) == [RECORDS[1], None, RECORDS[3], RECORDS[5]]
        assert reader.read([3, 4]) == RECORDS[3:5]
    assert reader.place(2) == f"the record at byte {start}"


def test_a_damaged_header_costs_one_record_also_without_an_index(write):
    path = write("x.tfrecord", [b"first", b"second" * 9, b"third", b"fourth"], "")
    content = pathlib.Path(path).read_bytes()
    for byte in range(12):
        pathlib.Path(path).write_bytes(content[:21 + byte] + bytes([content[21 + byte] ^ 4]) + content[22 + byte:])
        assert open_shard(path).read(range(4)) == [b"first", None, b"third", b"fourth"]


def test_only_the_bytes_of_the_wanted_records_are_read(write, monkeypatch):
    path = write("x.tfrecord", [b"%03d" % number for number in range(100)], "")
    reader, pread, read = open_shard(path), os.pread, []
    shard = os.stat(path).st_ino

    def recorded(descriptor, count, offset):
        read.extend(range(offset, offset + count) if os.fstat(descriptor).st_ino == shard else ())
        return pread(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", recorded)
    assert reader.read([4, 5, 6, 50, 98]) == [b"004", b"005", b"006", b"050", b"098"]
    assert read == [byte for number in (4, 5, 6, 50, 98) for byte in range(19 * number, 19 * (number + 1))]


# --- Indices ---


def test_an_index_has_the_documented_layout(write):
    path = write("x.tfrecord", RECORDS, "")
    assert tfrecord.write_index(path, path + ".idx") == 6
    offsets = np.cumsum([0, *(16 + len(record) for record in RECORDS)]).astype("<u8").tobytes()
    assert pathlib.Path(path + ".idx").read_bytes() == (
        b"TFRINDEX" + struct.pack("<QQII", os.path.getsize(path), 6, google_crc32c.value(offsets), 0) + offsets)
    assert tfrecord.check_index(path, path + ".idx") == 6
    empty = write("empty.tfrecord", [], "")
    assert tfrecord.write_index(empty, empty + ".idx") == tfrecord.check_index(empty, empty + ".idx") == 0


def test_a_damaged_index_or_that_of_other_data_is_not_accepted(write):
    records = [b"x" * length for length in range(9)]
    path = write("x.tfrecord", records, "")
    index = pathlib.Path(path + ".idx")
    assert tfrecord.check_index(path, str(index)) is None
    tfrecord.write_index(path, str(index))
    content = index.read_bytes()
    for position in range(len(content) - 4):
        if position not in range(28, 32):  # unused bytes
            index.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1:])
            assert tfrecord.check_index(path, str(index)) is None, position
    for size in range(len(content)):
        index.write_bytes(content[:size])
        assert tfrecord.check_index(path, str(index)) is None, size
    for other in ([*records, b"one more"], records[::-1]):  # another size, and the same size
        index.write_bytes(content)
        assert tfrecord.check_index(write("x.tfrecord", other, ""), str(index)) is None


def test_the_index_of_a_shard_with_a_damaged_record_is_accepted(write):
    path = write("x.tfrecord", [b"abcdefgh"] * 9, "")
    tfrecord.write_index(path, path + ".idx")
    content = bytearray(pathlib.Path(path).read_bytes())
    content[-3] ^= 1
    pathlib.Path(path).write_bytes(content)
    assert tfrecord.check_index(path, path + ".idx") == 9


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, (64 << 20) + 1])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_huge_declared_length_is_refused_before_memory_is_taken(length, compressed, tmp_path, refuses):
    path = tmp_path / "x.tfrecord"
    content = tfrecord.record_header(1) + b"x" + tfrecord.masked_crc(b"x") + tfrecord.record_header(length) + b"abc"
    path.write_bytes(gzip.compress(content) if compressed else content)
    text = refuses(open_shard, str(path))
    assert str(path) in text and str(length) in text


@pytest.mark.parametrize("offsets", [[0, 2**63, 40], [0, 30, 20, 40], [0, 0, 40], [0, 2**64 - 1, 40], [0, 20, 41]])
def test_an_index_with_impossible_offsets_is_not_accepted(offsets, write):
    path = write("x.tfrecord", [b"abcd"] * 2, "")
    content = np.array(offsets, "<u8").tobytes()
    header = tfrecord.INDEX_HEADER.pack(tfrecord.INDEX_MAGIC, 40, len(offsets) - 1, google_crc32c.value(content))
    pathlib.Path(path + ".idx").write_bytes(header + content)
    assert tfrecord.check_index(path, path + ".idx") is None


def test_memory_stays_flat_while_an_index_is_written_and_checked(tmp_path):
    """1.5 million records of 16 bytes, whose index has 12 MB: in a process of its own, to see its peak."""
    code = """if True:
        import os, resource, sys, tfrecord
        path = sys.argv[1]
        frame = tfrecord.record_header(0) + tfrecord.masked_crc(b"")
        with open(path, "wb") as file:
            for _ in range(150):
                file.write(frame * 10_000)
        tfrecord.check_index(path, "none")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert tfrecord.write_index(path, path + ".idx") == tfrecord.check_index(path, path + ".idx") == 1_500_000
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"""
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.tfrecord")], cwd=support.ROOT, text=True,
                            capture_output=True)
    assert float(result.stdout) < 10, result.stderr  # MB; the offsets as a list would take 60
