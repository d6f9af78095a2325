"""The TFRecord file format: framing, checksums, indices, and readers with random access, without TensorFlow.

A file is a sequence of records, each framed as (tensorflow/core/lib/io/record_writer.h)

    uint64 length   uint32 masked CRC-32C of the length   the record   uint32 masked CRC-32C of the record

in little-endian order; a file may be gzip-compressed as a whole. There is no header and no list of the records, so
files are joined by appending, and nothing in a file says how many records it should have.

An index is a file of this project, for one uncompressed shard. With it, a reader reads the records that it needs and
no others. The builder writes `<shard>.idx` beside each shard. In little-endian order:

    8 bytes "TFRINDEX"   uint64 bytes of the shard   uint64 records   uint32 CRC-32C of the offsets   4 bytes of 0
    uint64 offset of every record in the shard, then the shard's size

TensorFlow is not imported: the builder's workers start in a fraction of a second.
"""
from __future__ import annotations

import functools
import gzip
import os
import struct
import sys
import zlib
from typing import Dict, Iterator, List, Optional, Sequence

import google_crc32c
import numpy as np

import configuration
import files
import tokenization
from configuration import UserError

HEADER_BYTES, CHECKSUM_BYTES = 12, 4  # before and after each record
DATASET_FORMAT = "electra-pretraining-tfrecord"  # "format" in the manifest.json of a dataset
RECORD_BYTES = 64 << 20  # largest record; those of pre-training have thousands of bytes
SEARCH_BYTES = 1 << 20  # how far a header is searched for behind a damaged one
INDEX_SUFFIX = ".idx"
INDEX_MAGIC, INDEX_HEADER = b"TFRINDEX", struct.Struct("<8sQQI4x")

# --- Framing ---


def masked_crc(data: bytes) -> bytes:
    """The 4-byte checksum: CRC-32C, rotated and offset (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF)


@functools.lru_cache(maxsize=4096)  # the records of a dataset have few lengths
def record_header(length: int) -> bytes:
    """What precedes a record of `length` bytes; `masked_crc(record)` follows it."""
    packed = struct.pack("<Q", length)
    return packed + masked_crc(packed)


def unframe(framed: bytes) -> Optional[bytes]:
    """The record, or None if its length or a checksum is wrong."""
    record = framed[HEADER_BYTES:-CHECKSUM_BYTES]
    intact = framed[:HEADER_BYTES] == record_header(len(record)) and framed[-CHECKSUM_BYTES:] == masked_crc(record)
    return record if intact else None


def damaged(path: str, how: str) -> UserError:
    return UserError(f"{path} {how}: it is damaged or not a TFRecord file; remove or rebuild it.")


def unreadable(path: str, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror}): check its permissions and the disk, or leave it out.")


# --- Indices ---


def record_offsets(path: str) -> Iterator[np.ndarray]:
    """Reads all headers of an uncompressed shard, in order. What a damaged header hides counts as one damaged record.

    Yields: uint64 arrays: together the offset of every record, then the file's size.
    Raises: UserError: the file does not start with a header, ends inside a record, or is damaged over a long stretch.
    """
    with open(path, "rb", buffering=1 << 20) as file:
        size, position = os.fstat(file.fileno()).st_size, 0
        offsets: List[int] = []
        while position < size:
            header = file.read(HEADER_BYTES)
            length = int.from_bytes(header[:8], "little")
            end = position + HEADER_BYTES + length + CHECKSUM_BYTES
            if header != record_header(length):
                end = find_header(file, position) if position else sys.maxsize
            elif length > RECORD_BYTES:
                raise damaged(path, f"has a record of {length} bytes at byte {position}")
            if end > size:
                raise damaged(path, f"has no complete record at byte {position}")
            offsets.append(position)
            if len(offsets) == 1 << 16:  # keeps memory flat
                yield np.array(offsets, "<u8")
                offsets = []
            position = end
            file.seek(position)
        yield np.array([*offsets, position], "<u8")


def find_header(file, start: int) -> int:
    """Where the first intact header after byte `start` begins; sys.maxsize if there is none within `SEARCH_BYTES`."""
    file.seek(start)
    content = file.read(SEARCH_BYTES)
    for i in range(1, len(content) - HEADER_BYTES + 1):
        if masked_crc(content[i:i + 8]) == content[i + 8:i + HEADER_BYTES]:
            return start + i
    return sys.maxsize


def write_index(path: str, index_path: str) -> int:
    """Writes the index of an uncompressed shard atomically, and returns its number of records.

    Raises: UserError: the shard is damaged. OSError: a file cannot be read or written.
    """
    count = crc = 0
    with files.replacing(index_path) as temporary:
        with open(temporary, "wb") as file:
            file.write(bytes(INDEX_HEADER.size))
            for offsets in record_offsets(path):
                content = offsets.tobytes()
                file.write(content)
                count, crc = count + len(offsets), google_crc32c.extend(crc, content)
            file.seek(0)
            file.write(INDEX_HEADER.pack(INDEX_MAGIC, int(offsets[-1]), count - 1, crc))
    return count - 1


def check_index(path: str, index_path: str) -> Optional[int]:
    """The number of records of a shard according to its index; None if the index is missing, damaged or of other data.

    The index is read completely and five records of the shard: most of them must be where the index says. (One that is
    not may be damaged itself.)
    """
    checked = 0
    try:
        with open(index_path, "rb") as file:
            magic, shard_bytes, records, crc = INDEX_HEADER.unpack(file.read(INDEX_HEADER.size))
            if (magic, shard_bytes) != (INDEX_MAGIC, os.path.getsize(path)):
                return None
            previous = -1
            for content in iter(lambda: file.read(1 << 20), b""):
                checked = google_crc32c.extend(checked, content)
                offsets = np.frombuffer(content[:len(content) // 8 * 8], "<u8")
                sizes = np.diff(offsets.astype(np.int64), prepend=previous)
                if sizes.min(initial=1) < 1 or sizes.max(initial=1) > RECORD_BYTES + SEARCH_BYTES:
                    return None
                previous = int(offsets[-1]) if len(offsets) else previous
            if (checked, previous) != (crc, shard_bytes) or file.tell() != INDEX_HEADER.size + 8 * (records + 1):
                return None
    except (OSError, struct.error):
        return None
    reader = PlainReader(path, index_path)
    sample = [reader.read([number])[0] is not None for number in {i * (records - 1) // 4 for i in range(5)} if records]
    return records if 2 * sum(sample) >= len(sample) else None


def indexed_records(index_path: str) -> int:
    """The number of records according to the size of an index. Raises: OSError."""
    return (os.path.getsize(index_path) - INDEX_HEADER.size) // 8 - 1


# --- Datasets ---


def read_manifest(path: str) -> dict:
    """The manifest.json of a dataset of build_pretraining_dataset.py; empty where there is none or it is of other data.

    Raises: UserError: not JSON, or a key that this project reads has another type than the builder writes.
    """
    if not os.path.lexists(path):
        return {}
    manifest = configuration.read_json_object(path)
    if manifest.get("format") != DATASET_FORMAT:
        return {}
    for key, kind in (("max_seq_length", int), ("tokenizer_fingerprint", str)):
        if type(manifest.get(key, kind())) is not kind:
            raise UserError(f"{path}: {key} is {configuration.in_brief(manifest[key])}: rebuild the dataset.")
    tokenization.check_casing(manifest, path)
    for part in ("train", "eval"):
        entries = manifest.setdefault(part, [])
        kinds = {"file": str, "bytes": int, "records": int}
        if not isinstance(entries, list) or not all(
                isinstance(entry, dict) and all(type(entry.get(key)) is kind for key, kind in kinds.items())
                for entry in entries):
            raise UserError(f"{path}: {part!r} is not a list of shards, each with file, bytes and records: rebuild the "
                            "dataset.")
    return manifest


# --- Reading ---


def is_gzip(path: str) -> bool:
    """Whether the file starts with gzip's magic number. Raises: UserError: the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise unreadable(path, error) from error


def open_shard(path: str, records: Optional[int] = None, index_path: Optional[str] = None):
    """A reader with `records` (their number), `read(numbers)` and `place(number)`.

    Args:
        records: their number, if known: a gzip file is then not read through to count them.
        index_path: the index of an uncompressed file; None: the file is gzip-compressed.
    Raises: UserError: the file cannot be read or is damaged.
    """
    return PlainReader(path, index_path) if index_path else GzipReader(path, records)


class PlainReader:
    """Random access to the records of an uncompressed file through its index. Reads nothing but what it returns."""

    def __init__(self, path: str, index_path: str):
        self.path, self.index_path = path, index_path
        try:
            self._file, self._index = open(path, "rb", buffering=0), open(index_path, "rb", buffering=0)
        except OSError as error:
            raise unreadable(error.filename, error) from error
        if hasattr(os, "posix_fadvise"):  # no read-ahead, which would read all records although every 32nd is wanted
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self.records = indexed_records(index_path)

    def _offsets(self, first: int, last: int) -> np.ndarray:
        """Where the records [first, last) begin, and where the last of them ends: int64 [last - first + 1]."""
        if last > self.records:
            raise damaged(self.path, f"ends after {self.records} records")
        content = self._bytes(self._index, INDEX_HEADER.size + 8 * first, 8 * (last - first + 1))
        return np.frombuffer(content, "<u8").astype(np.int64)

    def _bytes(self, file, start: int, count: int) -> bytes:
        try:
            return os.pread(file.fileno(), count, start)  # a mapped file would end the process at an I/O error
        except OSError as error:
            raise unreadable(file.name, error) from error

    def read(self, numbers: Sequence[int]) -> List[Optional[bytes]]:
        """Records by number, in ascending order; None for each that is damaged."""
        numbers = np.asarray(numbers, np.int64)
        if not len(numbers):
            return []
        offsets = self._offsets(int(numbers[0]), int(numbers[-1]) + 1)
        records = []
        for run in np.split(numbers - numbers[0], np.flatnonzero(np.diff(numbers) != 1) + 1):  # neighbours at once
            bounds = offsets[run[0]:run[-1] + 2]
            start = int(bounds[0])
            content = self._bytes(self._file, start, int(bounds[-1]) - start)
            bounds = (bounds - start).tolist()
            records += [unframe(content[begin:end]) for begin, end in zip(bounds, bounds[1:])]
        return records

    def place(self, number: int) -> str:
        """What a message calls the record."""
        return f"the record at byte {self._offsets(number, number + 1)[0]}"


class GzipReader:
    """Sequential access to the records of a gzip-compressed file: reading ahead skips, reading back starts over."""

    def __init__(self, path: str, records: Optional[int] = None):
        self.path = path
        self._file, self._next = gzip.open(path, "rb"), 0
        self.records = records
        if records is None:
            self.records = sum(1 for _ in iter(self._framed, b""))

    def _bytes(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except (OSError, EOFError, zlib.error) as error:
            raise damaged(self.path, f"cannot be decompressed ({error})") from error

    def _framed(self) -> bytes:
        """The next record in its frame; empty at the end. Only its length is verified."""
        header = self._bytes(HEADER_BYTES)
        if not header:
            return b""
        length = int.from_bytes(header[:8], "little")
        if len(header) < HEADER_BYTES or header != record_header(length):
            raise damaged(self.path, f"has no complete record after {self._next} records")
        if length > RECORD_BYTES:
            raise damaged(self.path, f"has a record of {length} bytes after {self._next} records")
        body = self._bytes(length + CHECKSUM_BYTES)
        if len(body) < length + CHECKSUM_BYTES:
            raise damaged(self.path, f"ends inside record {self._next}")
        self._next += 1
        return header + body

    def read(self, numbers: Sequence[int]) -> List[Optional[bytes]]:
        """Records by number, in ascending order; None for each that is damaged.

        Raises: UserError: the file ends before them, cannot be decompressed, or has a damaged length before them.
        """
        records = []
        for number in numbers:
            if number < self._next:
                self._file.seek(0)
                self._next = 0
            framed = b""
            while self._next <= number:
                framed = self._framed()
                if not framed:
                    raise damaged(self.path, f"ends after {self._next} records")
            records.append(unframe(framed))
        return records

    def place(self, number: int) -> str:
        """What a message calls the record."""
        return f"record {number}"


# --- Examples ---


@functools.lru_cache(maxsize=None)
def _example_class():
    """The message class of tf.train.Example (tensorflow/core/example/example.proto and feature.proto).

    Its own package keeps it apart from TensorFlow's in protobuf's registry.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="electra/example.proto", package="electra", syntax="proto3")
    for name, fields in (("BytesList", [("value", "bytes")]), ("FloatList", [("value", "float")]),
                         ("Int64List", [("value", "int64")]),
                         ("Feature", [("bytes_list", "BytesList"), ("float_list", "FloatList"),
                                      ("int64_list", "Int64List")]),
                         ("Entry", [("key", "bytes"), ("value", "Feature")]),  # of the map in Features
                         ("Features", [("feature", "[Entry]")]), ("Example", [("features", "Features")])):
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, 1):
            repeated = kind.startswith("[") or field == "value" and name.endswith("List")
            kind = kind.strip("[]")
            described = message.field.add(name=field, number=number,
                                          label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL)
            if kind[0].isupper():
                described.type, described.type_name = kinds.TYPE_MESSAGE, f".electra.{kind}"
            else:
                described.type = {"bytes": kinds.TYPE_BYTES, "float": kinds.TYPE_FLOAT, "int64": kinds.TYPE_INT64}[kind]
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    example = pool.FindMessageTypeByName("electra.Example")
    if hasattr(message_factory, "GetMessageClass"):  # protobuf 4.22 and newer
        return message_factory.GetMessageClass(example)
    return message_factory.MessageFactory(pool).GetPrototype(example)


def parse_example(record: bytes) -> Dict[str, np.ndarray]:
    """The features of one tf.train.Example: int64 [n], float32 [n], or bytes objects [n].

    Raises: ValueError: the record is something else.
    """
    try:
        entries = _example_class().FromString(record).features.feature
    except Exception as error:  # protobuf's DecodeError moved between its releases
        raise ValueError("not a tf.train.Example") from error
    features = {}
    for entry in entries:
        lists = ((entry.value.int64_list, np.int64), (entry.value.float_list, np.float32),
                 (entry.value.bytes_list, object))
        features[entry.key.decode("utf-8", "replace")] = next(
            (np.array(values.value, kind) for values, kind in lists if len(values.value)), np.zeros(0, np.int64))
    return features
