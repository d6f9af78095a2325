"""Downloads over HTTP with `requests`: resumed, retried, verified. Archives: extracted within bounds.

`fetch` downloads one file. It is written to `<path>.part` and renamed when it is complete and verified, so `path` is
never half a file. A part that an earlier call has left is resumed with a Range request (RFC 9110, section 14), if that
is safe: the file's checksum is known, or the server confirms with If-Range that its file is still the same. A server
that ignores the range sends the file from its beginning, and the part starts again. Timeouts, dropped connections and
the statuses 408, 425, 429 and 5xx are retried with exponential back-off, or after what Retry-After says; the next URL
is tried after that. Proxies and certificates come from the environment, as `requests` documents.

`extract` unpacks a zip or tar file in a new folder. Links, devices, names that lead out of the folder, and sizes that
no honest archive has are refused.
"""
from __future__ import annotations

import bz2
import contextlib
import email.utils
import gzip
import hashlib
import json
import lzma
import os
import pathlib
import random
import re
import shutil
import stat
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import requests
import tqdm

import files
from configuration import UserError, in_short

ATTEMPTS = 4  # in a row that bring no PROGRESS_BYTES, for one URL
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 300.0  # the wait doubles with every attempt
PROGRESS_BYTES = 1 << 20
TIMEOUT_SECONDS = (15.0, 60.0)  # to connect; without a byte
PIECE_BYTES = 1 << 15  # what is read at once, and lost if the connection ends meanwhile
SPARE_BYTES = 64 << 20  # of the disk, left free
RETRIED = (408, 425, 429, 500, 502, 503, 504)
LOG_SECONDS = 30  # between progress lines if the output is not a terminal
USER_AGENT = f"electra-data/1.0 (downloads of public datasets; python-requests/{requests.__version__})"


class Fetched(NamedTuple):
    path: str
    url: str  # where it came from; empty if the file was there already
    size: int  # bytes
    sha256: str


class Corrupt(Exception):
    """A file is not what it should be. The text is the end of a sentence that begins with the file."""


class Missing(UserError):
    """No server has the file: all of them answer 404 or 410."""


class _Failure(Exception):
    """One attempt failed. The text is the reason."""

    def __init__(self, reason: str, again: bool = True, wait: float = 0.0):
        super().__init__(reason)
        self.again, self.wait = again, wait


def open_session() -> requests.Session:
    """A session for several calls of `fetch`: connections to the same host are kept open."""
    session = requests.Session()
    session.max_redirects = 10
    # A compressed transfer has no byte ranges of the file itself.
    session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
    return session


def _say(line: str):
    """Prints a line above the progress bars."""
    tqdm.tqdm.write(line)
    sys.stdout.flush()


# --- One file ---


def fetch(urls: Sequence[str], path: str, *, size: Optional[int] = None, digest: str = "",
          check: Optional[Callable[[str], None]] = None, offline: bool = False,
          session: Optional[requests.Session] = None, by_hand: bool = True) -> Fetched:
    """Downloads a file, unless it is there already and passes the same tests.

    Args:
        urls: of the same file, tried in turn.
        path: in an existing folder that no other process writes to (`configuration.sole_user`).
        size: in bytes, where it is known.
        digest: `sha256:<hex>`, likewise `sha1` or `md5`, where it is known.
        check: called with the complete file; raises Corrupt if its content is wrong.
        offline: use the file that is there, and never connect.
        by_hand: the message after a failure says where to put the file.
    Raises: UserError: no URL has a file that passes the tests, or the disk is full.
    """
    name = os.path.basename(path)
    if os.path.lexists(path):
        try:
            return Fetched(path, "", *verify(path, size, digest, check))
        except Corrupt as reason:
            if offline:
                raise UserError(f"{path} {reason}: replace it, or omit --offline to download it again.") from reason
            _say(f"{path} {reason}: it is downloaded again")
    if offline:
        raise UserError(f"{path} does not exist, and --offline forbids its download: download {urls[0]} to there, or "
                        "omit --offline.")
    part = _Part(path, size, digest)
    failures: List[str] = []
    with contextlib.ExitStack() as stack:
        session = session or stack.enter_context(open_session())
        for url in urls:
            reason = _fetch_from(session, url, part, check, name)
            if not reason:
                sha256 = part.publish()
                return Fetched(path, url, os.path.getsize(path), sha256)
            failures.append(f"{url}: {reason}")
    kind = Missing if all(re.search(": 4(04|10) [^:]*$", failure) for failure in failures) else UserError
    raise kind(f"{name} could not be downloaded ({'; '.join(failures)}): check the connection and run the command "
               f"again{f', or download the file to {path} by other means' if by_hand else ''}.")


def fetch_text(urls: Sequence[str], largest: int = 64 << 20, session: Optional[requests.Session] = None) -> str:
    """The text of a small file that is not kept, such as an index. Raises: UserError, as `fetch` does."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, urls[0].rstrip("/").rpartition("/")[2] or "index")
        fetched = fetch(urls, path, check=lambda path: _refuse_above(path, largest), session=session, by_hand=False)
        with open(fetched.path, encoding="utf-8", errors="replace") as file:
            return file.read()


def _refuse_above(path: str, largest: int):
    if os.path.getsize(path) > largest:
        raise Corrupt(f"has more than {largest} bytes")


def verify(path: str, size: Optional[int] = None, digest: str = "",
           check: Optional[Callable[[str], None]] = None) -> Tuple[int, str]:
    """Returns the size and the SHA-256 of a file. Raises: Corrupt: it is not as the arguments say (see `fetch`)."""
    try:
        return _verify(path, size, digest, check)
    except OSError as error:
        raise Corrupt(f"cannot be read ({in_short(error)})") from error


def _verify(path: str, size: Optional[int], digest: str, check) -> Tuple[int, str]:
    found = os.path.getsize(path)
    if size is not None and found != size:
        raise Corrupt(f"has {found:,} bytes instead of {size:,}")
    algorithm, _, expected = digest.partition(":")
    sha256 = hashlib.sha256()
    hashes = {"sha256": sha256}
    if algorithm:
        hashes.setdefault(algorithm, hashlib.new(algorithm))
    with files.open_regular(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            for hashing in hashes.values():
                hashing.update(piece)
    if algorithm and hashes[algorithm].hexdigest() != expected.lower():
        raise Corrupt(f"has the wrong checksum ({algorithm.upper()} {hashes[algorithm].hexdigest()} instead of "
                      f"{expected})")
    if check:
        check(path)
    return found, sha256.hexdigest()


class _Part:
    """`<path>.part`, and in `<path>.part.json` which file of which server it is a part of."""

    def __init__(self, path: str, size: Optional[int], digest: str):
        self.target, self.size, self.digest = path, size, digest
        self.path, self.note = f"{path}.part", f"{path}.part.json"
        self.sha256 = ""

    def length(self) -> int:
        return os.path.getsize(self.path) if os.path.isfile(self.path) else 0

    def origin(self) -> Dict[str, str]:
        try:
            with open(self.note, encoding="utf-8") as file:
                note = json.load(file)
            return {key: str(note[key]) for key in ("url", "validator")}
        except (OSError, ValueError, KeyError, TypeError):
            return {"url": "", "validator": ""}

    def offset(self, url: str) -> int:
        """Bytes that need not be requested again."""
        origin = self.origin()
        safe = self.digest or (origin["url"] == url and origin["validator"])
        length = self.length() if safe else 0
        return length if self.size is None or length <= self.size else 0

    def begin(self, url: str, response: requests.Response):
        """Before the first byte. A weak ETag does not identify bytes (RFC 9110, section 8.8.1)."""
        etag = response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        self.discard()
        files.write_json(self.note, {"url": url, "validator": validator})

    def discard(self):
        for path in (self.path, self.note):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)

    def publish(self) -> str:
        files.sync(self.path)
        os.replace(self.path, self.target)
        self.discard()
        return self.sha256


def _fetch_from(session: requests.Session, url: str, part: _Part, check, name: str) -> str:
    """Downloads from one URL until the part is complete and verified. Returns why that failed; empty: it is."""
    failed, corrupt, wait = 0, False, FIRST_WAIT_SECONDS
    while True:
        before = part.length()
        try:
            _transfer(session, url, part, name)
            part.sha256 = verify(part.path, part.size, part.digest, check)[1]
            return ""
        except Corrupt as reason:
            part.discard()
            if corrupt:
                return str(reason)
            corrupt, error = True, _Failure(f"it {reason}")  # bytes of an interrupted download may be damaged
        except _Failure as failure:
            error = failure
        if not error.again:
            return str(error)
        if part.length() - before >= PROGRESS_BYTES:
            failed, wait = 0, FIRST_WAIT_SECONDS
        failed += 1
        if failed >= ATTEMPTS:
            return f"{error}, {ATTEMPTS} times"
        pause = min(LONGEST_WAIT_SECONDS, max(error.wait, wait * random.uniform(0.8, 1.2)))
        _say(f"{name}: {error}; retrying in {pause:.0f} s")
        time.sleep(pause)
        wait *= 2


def _transfer(session: requests.Session, url: str, part: _Part, name: str):
    """Requests what is missing and appends it to the part. Raises: _Failure. UserError: the disk is full."""
    offset = part.offset(url)
    if offset and offset == part.size:
        return
    headers, origin = {}, part.origin()
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if origin["url"] == url and origin["validator"]:
            headers["If-Range"] = origin["validator"]
    try:
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
            start, total = _judge(response, offset, part)
            if not start:
                part.begin(url, response)
            if total is not None and start == total and start:
                return
            _receive(response, part, start, total, name)
    except requests.Timeout as error:
        raise _Failure("no answer in time" if isinstance(error, requests.ConnectTimeout) else "the server stalled") \
            from error
    except (requests.ConnectionError, requests.exceptions.ContentDecodingError) as error:
        raise _Failure("the server stalled" if "timed out" in str(error) else _reason(error)) from error
    except (requests.RequestException, ValueError) as error:  # too many redirects, an invalid URL or scheme
        raise _Failure(_reason(error), again=False) from error


def _judge(response: requests.Response, offset: int, part: _Part) -> Tuple[int, Optional[int]]:
    """Where in the file the answer begins, and how long the file is, where that is known. Raises: _Failure."""
    if response.status_code == 416:  # the part is complete, or longer than the file now is
        complete = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
        if complete and int(complete[1]) == offset:
            return offset, offset
        part.discard()
        raise _Failure("the file has changed")
    if response.status_code in RETRIED:
        raise _Failure(f"{response.status_code} {response.reason}", wait=_retry_after(response))
    if response.status_code not in (200, 206):
        raise _Failure(f"{response.status_code} {response.reason}", again=False)
    start, total = 0, None
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != offset:
            part.discard()
            raise _Failure("the server sent another part of the file")
        start, total = offset, None if found[2] == "*" else int(found[2])
    elif "Content-Encoding" not in response.headers and response.headers.get("Content-Length", "").isdigit():
        total = int(response.headers["Content-Length"])
    if part.size is not None and total not in (None, part.size):
        raise _Failure(f"the file has {total:,} bytes instead of {part.size:,}", again=False)
    return start, total if total is not None else part.size


def _receive(response: requests.Response, part: _Part, start: int, total: Optional[int], name: str):
    folder = os.path.dirname(os.path.abspath(part.path))
    if total is not None and total - start + SPARE_BYTES > shutil.disk_usage(folder).free:
        raise UserError(f"{folder} has {shutil.disk_usage(folder).free / 1e9:.1f} GB free, but {name} needs "
                        f"{(total - start + SPARE_BYTES) / 1e9:.1f} GB more: make room, or choose another folder.")
    _say(f"{name}: {f'resuming after {start / 1e6:,.1f} MB' if start else 'downloading'}, {response.url}")
    received, broken, said, began = start, False, time.monotonic(), time.monotonic()
    try:
        with open(part.path, "ab" if start else "wb") as file, tqdm.tqdm(
                total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=None) as bar:
            for piece in response.iter_content(PIECE_BYTES):
                received += len(piece)
                if total is not None and received > total:
                    break
                file.write(piece)
                bar.update(len(piece))
                if bar.disable and time.monotonic() - said > LOG_SECONDS:
                    said = time.monotonic()
                    _say(f"{name}: {received / 1e6:,.0f}{f' of {total / 1e6:,.0f}' if total else ''} MB, "
                          f"{(received - start) / 1e6 / (said - began):.1f} MB/s")
    except requests.exceptions.ChunkedEncodingError:  # with urllib3 1, such an end looks like that of the file
        broken = True
    except requests.RequestException:  # an OSError too
        raise
    except OSError as error:
        raise UserError(f"{part.path} could not be written ({in_short(error)}): make room, or choose another folder; "
                        "the download resumes where it stopped.") from error
    if broken or total is not None and received != total:
        if total is not None and received > total:
            part.discard()
        raise _Failure(f"the connection ended after {received:,}{f' of {total:,}' if total is not None else ''} bytes")


def _retry_after(response: requests.Response) -> float:
    """Seconds that the server asks to wait: a number, or a date (RFC 9110, section 10.2.3)."""
    text = response.headers.get("Retry-After", "")
    if text.isdigit():
        return min(float(text), LONGEST_WAIT_SECONDS)
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0


def _reason(error: BaseException) -> str:
    """The first error of the chain, which names what happened; the later ones repeat addresses."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return in_short(error)[:200]


# --- Archives ---

LARGEST_RATIO = 200  # of extracted to packed bytes: text reaches 10, a bomb of zeros 1000
SMALL_BYTES = 64 << 20  # no bomb
MOST_MEMBERS = 100_000
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError,
           RuntimeError, ValueError)


class _Member(NamedTuple):
    name: str
    is_folder: bool
    size: int  # in bytes, as the archive declares it
    open: Callable


def extract(archive: str, folder: str):
    """Extracts a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz file, as its content says, to `folder`, which must be new.

    Permissions and times are not restored. After an error `folder` does not exist.
    Raises: UserError: the archive is damaged, or has a member that it must not have. OSError: writing failed.
    """
    limit = max(SMALL_BYTES, LARGEST_RATIO * os.path.getsize(archive))
    try:
        with files.new_folder(folder) as new:
            read = _zip_members if zipfile.is_zipfile(archive) else _tar_members
            total = 0
            for count, member in enumerate(read(archive, limit), 1):
                path = os.path.join(new, *_safe_parts(member.name))
                total += member.size
                if total > limit or count > MOST_MEMBERS:
                    raise Corrupt(f"would extract to more than {limit:,} bytes or {MOST_MEMBERS:,} files")
                try:
                    os.makedirs(path if member.is_folder else os.path.dirname(path), exist_ok=True)
                    if not member.is_folder:
                        _copy(member, path)
                except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
                    raise Corrupt(f"has two members that need the name {member.name[:100]!r}") from error
    except Corrupt as reason:
        raise UserError(f"{archive} {reason}, and is not extracted: delete it and download it again, from another "
                        "source if that does not help.") from reason


def _safe_parts(name: str) -> Tuple[str, ...]:
    parts = pathlib.PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or re.search(r"[\\\0]|^[A-Za-z]:", name):
        raise Corrupt(f"has a member with the unsafe name {name[:100]!r}")
    return parts


def _copy(member: _Member, path: str):
    try:
        source = member.open()
    except DAMAGED as error:
        raise Corrupt(f"is damaged ({in_short(error)})") from error
    left = member.size
    with source, open(path, "xb") as file:
        while True:
            try:
                piece = source.read(PIECE_BYTES)
            except DAMAGED as error:
                raise Corrupt(f"is damaged ({in_short(error)})") from error
            if not piece:
                break
            left -= len(piece)
            if left < 0:
                break
            file.write(piece)
    if left:
        raise Corrupt(f"is damaged ({member.name[:100]!r} is not as long as it should be)")


def _zip_members(archive: str, limit: int) -> Iterator[_Member]:
    try:
        file = zipfile.ZipFile(archive)
    except DAMAGED as error:
        raise Corrupt(f"is damaged ({in_short(error)})") from error
    with file:
        if sum(info.file_size for info in file.infolist()) > limit:
            raise Corrupt(f"would extract to more than {limit:,} bytes")
        for info in file.infolist():
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise Corrupt(f"has the member {info.filename[:100]!r}, which is a link or a device")
            if info.flag_bits & 1:
                raise Corrupt(f"has the member {info.filename[:100]!r}, which is encrypted")
            yield _Member(info.filename, info.filename.endswith("/"), info.file_size, lambda info=info: file.open(info))


def _tar_members(archive: str, limit: int) -> Iterator[_Member]:
    with open(archive, "rb") as file:
        start = file.read(6)
    opening = next((opening for magic, opening in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open),
                                                   (b"\xfd7zXZ\0", lzma.open)) if start.startswith(magic)), open)
    with opening(archive, "rb") as stream:
        try:
            file = tarfile.open(fileobj=_Bounded(stream, 2 * limit), mode="r|")
        except DAMAGED as error:
            raise Corrupt(f"is damaged, or not a zip or tar file ({in_short(error)})") from error
        with file:
            while True:
                try:
                    info = file.next()
                except DAMAGED as error:
                    raise Corrupt(f"is damaged ({in_short(error)})") from error
                if info is None:
                    return
                if not (info.isreg() or info.isdir()) or info.issparse():
                    raise Corrupt(f"has the member {info.name[:100]!r}, which is a link or a device")
                file.members = []  # tarfile keeps all of them
                yield _Member(info.name, info.isdir(), info.size, lambda info=info: file.extractfile(info))


class _Bounded:
    """The decompressed bytes of a tar file. Its headers too may be bombs, which tarfile reads into memory."""

    def __init__(self, stream, limit: int):
        self.stream, self.left = stream, limit

    def read(self, size: int) -> bytes:
        piece = self.stream.read(min(size, PIECE_BYTES))
        self.left -= len(piece)
        if self.left < 0:
            raise Corrupt("extracts to far more bytes than an archive of its size should have")
        return piece
