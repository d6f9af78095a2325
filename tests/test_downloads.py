"""data/downloads.py: resumed, retried and verified downloads from a server that misbehaves; archives that attack."""
from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import stat
import sys
import tarfile
import types
import zipfile

import pytest
import support
import web_server
from web_server import Fault

sys.path.insert(0, str(support.ROOT / "data"))

import downloads  # noqa: E402

CONTENT = random.Random(7).randbytes(300_000) if sys.version_info >= (3, 9) else bytes(
    random.Random(7).getrandbits(8) for _ in range(300_000))
SHA1 = "sha1:" + hashlib.sha1(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", (10.0, 10.0))
    monkeypatch.setattr(downloads, "PIECE_BYTES", 10_000)
    with web_server.serving() as running:
        running.content["/file"] = CONTENT
        yield running


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The waits between attempts, which take no time here."""
    found = []
    monkeypatch.setattr(downloads.time, "sleep", found.append)
    return found


@pytest.fixture
def fetch(server, tmp_path):
    def run(*urls, **options):
        return downloads.fetch(urls or [server.url + "/file"], str(tmp_path / "file"), **options)

    return run


def ranges(server):
    return [headers.get("Range") for _, headers in server.requests]


def test_a_file_is_downloaded_once_and_verified_again(server, fetch, tmp_path):
    first = fetch(digest=SHA1, size=len(CONTENT))
    again = fetch(digest=SHA1, size=len(CONTENT))
    assert (tmp_path / "file").read_bytes() == CONTENT and os.listdir(tmp_path) == ["file"]
    assert first == (str(tmp_path / "file"), server.url + "/file", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert again == first._replace(url="") and len(server.requests) == 1


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_checksums_of_these_kinds_are_verified(fetch, tmp_path, refuses, algorithm):
    good = hashlib.new(algorithm, CONTENT).hexdigest()
    assert fetch(digest=f"{algorithm}:{good.upper()}").size == len(CONTENT)
    (tmp_path / "file").unlink()
    assert algorithm.upper() in refuses(fetch, digest=f"{algorithm}:{'0' * len(good)}")
    assert not os.listdir(tmp_path)


def test_a_damaged_file_that_is_there_is_downloaded_again(fetch, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT[:-1] + b"?")
    assert fetch(digest=SHA1).url
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_link_to_itself_is_replaced_but_not_offline(fetch, tmp_path, refuses):
    (tmp_path / "file").symlink_to("file")
    assert "cannot be read" in refuses(fetch, offline=True)
    fetch()
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_connection_that_ends_early_is_resumed_where_it_ended(server, fetch, tmp_path, waits):
    server.faults["/file"] = [Fault(cut=120_000), Fault(cut=50_000)]
    assert fetch().size == len(CONTENT)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=120000-", "bytes=170000-"]
    assert all("If-Range" in headers for _, headers in server.requests[1:])
    assert len(waits) == 2 and waits[1] > waits[0] * 1.2


def test_a_server_that_stalls_is_left_and_resumed(server, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", (10.0, 0.5))
    server.faults["/file"] = [Fault(stall=100_000)]
    fetch()
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-"]


def test_a_server_that_ignores_ranges_sends_the_file_again(server, fetch, tmp_path):
    server.faults["/file"] = [Fault(cut=100_000), Fault(no_ranges=True)]
    fetch()
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_an_end_without_a_length_is_found_by_the_checksum(server, fetch, tmp_path, refuses):
    server.faults["/file"] = [Fault(no_length=True, cut=1000), Fault(no_length=True)]
    fetch(digest=SHA1)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_part_of_an_earlier_call_is_resumed(server, fetch, tmp_path, refuses):
    server.always["/file"] = Fault(cut=90_000)
    server.faults["/file"] = [Fault(cut=90_000), *[Fault(cut=0)] * 3]
    assert "90,000 of 300,000 bytes" in refuses(fetch)
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:90_000]
    server.always.clear()
    server.requests.clear()
    fetch()
    assert ranges(server) == ["bytes=90000-"] and os.listdir(tmp_path) == ["file"]


def test_a_part_of_a_file_that_has_changed_is_not_resumed(server, fetch, tmp_path, refuses):
    server.faults["/file"] = [Fault(cut=90_000), *[Fault(cut=0)] * 3]
    refuses(fetch)
    server.content["/file"] = CONTENT[::-1]
    fetch()
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


def test_without_etag_and_checksum_a_part_is_not_resumed(server, fetch, tmp_path):
    server.no_validators = True
    server.faults["/file"] = [Fault(cut=90_000)]
    fetch()
    assert ranges(server) == [None, None] and (tmp_path / "file").read_bytes() == CONTENT


def test_with_a_checksum_another_mirror_resumes_the_part(server, fetch, tmp_path):
    server.content["/mirror"] = CONTENT
    server.faults["/file"] = [Fault(cut=90_000), Fault(status=404)]
    fetch(server.url + "/file", server.url + "/mirror", digest=SHA1)
    assert server.requests[-1][0] == "/mirror" and ranges(server)[-1] == "bytes=90000-"
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_complete_part_is_only_verified(server, fetch, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert fetch(digest=SHA1, size=len(CONTENT)).size == len(CONTENT)
    assert not server.requests
    (tmp_path / "file").rename(tmp_path / "file.part")
    fetch(digest=SHA1)  # the server says how long it is: 416
    assert ranges(server) == [f"bytes={len(CONTENT)}-"] and (tmp_path / "file").read_bytes() == CONTENT


def test_a_damaged_part_is_downloaded_from_the_beginning(server, fetch, tmp_path):
    (tmp_path / "file.part").write_bytes(b"?" * 1000)
    fetch(digest=SHA1)
    assert ranges(server) == ["bytes=1000-", None] and (tmp_path / "file").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_thrown_away(server, fetch, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"?")
    fetch(digest=SHA1)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_corrupt_answer_is_requested_again_then_the_next_mirror(server, fetch, tmp_path, refuses):
    server.faults["/file"] = [Fault(flip=True)]
    fetch(digest=SHA1)
    (tmp_path / "file").unlink()
    server.content["/mirror"], server.always["/file"] = CONTENT, Fault(flip=True)
    server.requests.clear()
    assert fetch(server.url + "/file", server.url + "/mirror", digest=SHA1).url == server.url + "/mirror"
    assert server.paths() == ["/file", "/file", "/mirror"]
    (tmp_path / "file").unlink()
    assert "checksum" in refuses(fetch, digest=SHA1)
    assert not os.listdir(tmp_path)


def test_redirects_are_followed_but_not_in_circles(server, fetch, tmp_path, refuses):
    server.always.update({"/a": Fault(302, {"Location": "/b"}), "/b": Fault(301, {"Location": server.url + "/file"}),
                          "/circle": Fault(302, {"Location": "/circle"}), "/out": Fault(302, {"Location": "file:///x"})})
    assert fetch(server.url + "/a").size == len(CONTENT)
    (tmp_path / "file").unlink()
    assert "redirects" in refuses(fetch, server.url + "/circle").lower()
    refuses(fetch, server.url + "/out")
    server.always["/invalid"] = Fault(302, {"Location": "http://[::bad"})
    assert "/invalid" in refuses(fetch, server.url + "/invalid")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, fetch, waits, status):
    server.faults["/file"] = [Fault(status), Fault(status)]
    assert fetch().size == len(CONTENT) and len(waits) == 2


def test_retry_after_is_respected_within_reason(server, fetch, waits):
    server.faults["/file"] = [Fault(429, {"Retry-After": "17"}), Fault(503, {"Retry-After": "999999"}),
                              Fault(503, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"})]
    fetch()
    assert waits[0] == 17 and waits[1] == downloads.LONGEST_WAIT_SECONDS and waits[2] < 10


def test_a_missing_file_is_not_asked_for_again_but_the_next_mirror_is(server, fetch, waits, refuses):
    text = refuses(fetch, server.url + "/none", server.url + "/nothing")
    assert "404" in text and "/none" in text and "/nothing" in text and "file" in text
    assert server.paths() == ["/none", "/nothing"] and not waits
    assert fetch(server.url + "/none", server.url + "/file").url.endswith("/file")


def test_a_server_that_never_answers_well_ends_in_a_sentence(server, fetch, waits, refuses):
    server.always["/file"] = Fault(500)
    assert "500" in refuses(fetch)
    assert len(server.requests) == downloads.ATTEMPTS


def test_no_server_ends_in_a_sentence(fetch, refuses):
    assert "refused" in refuses(fetch, "http://127.0.0.1:9/file").lower()


def test_a_file_of_another_size_is_refused_before_it_is_received(server, fetch, tmp_path, refuses):
    assert "300,000 bytes instead of 5" in refuses(fetch, size=5)
    assert not os.listdir(tmp_path)


def test_content_that_a_check_refuses_is_not_kept(fetch, tmp_path, refuses):
    def check(path):
        raise downloads.Corrupt("is not what I expected")

    assert "is not what I expected" in refuses(fetch, check=check)
    assert not os.listdir(tmp_path)


def test_offline_uses_what_is_there_and_never_connects(server, fetch, tmp_path, refuses):
    text = refuses(fetch, offline=True)
    assert "--offline" in text and server.url + "/file" in text and str(tmp_path / "file") in text
    (tmp_path / "file").write_bytes(CONTENT)
    assert fetch(offline=True, digest=SHA1).size == len(CONTENT)
    assert "checksum" in refuses(fetch, offline=True, digest="sha1:" + "0" * 40)
    assert not server.requests


def test_a_full_disk_is_noticed_before_the_download(fetch, tmp_path, refuses, monkeypatch):
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    assert "GB free" in refuses(fetch)


def test_an_interruption_leaves_a_part_that_is_resumed(server, fetch, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    class Bar(downloads.tqdm.tqdm):
        def update(self, n=1):
            if server.requests and len(server.requests) == 1 and os.path.getsize(tmp_path / "file.part") > 50_000:
                raise Stop
            return super().update(n)

    monkeypatch.setattr(downloads.tqdm, "tqdm", Bar)
    with pytest.raises(Stop):
        fetch()
    assert not (tmp_path / "file").exists()
    fetch()
    assert ranges(server)[1] and (tmp_path / "file").read_bytes() == CONTENT


def test_a_small_text_is_read(server, refuses):
    server.content["/index.html"] = "häuser".encode()
    assert downloads.fetch_text([server.url + "/index.html"]) == "häuser"
    assert "more than" in refuses(downloads.fetch_text, [server.url + "/file"], largest=1000)


# --- Archives ---

def make_zip(path, *members, mode=0o644):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            file.writestr(info, content)
    return str(path)


def make_tar(path, *members, mode="w:gz", **attributes):
    with tarfile.open(path, mode) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in attributes.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(content))
    return str(path)


GOOD = ("folder/a.json", b"{}"), ("b.txt", b"text" * 1000)


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_is_extracted(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "zip":
        make_zip(path, *GOOD)
    else:
        make_tar(path, *GOOD, mode="w:" + suffix[4:])
    downloads.extract(str(path), str(tmp_path / "out"))
    assert (tmp_path / "out/folder/a.json").read_bytes() == b"{}"
    assert (tmp_path / "out/b.txt").read_bytes() == b"text" * 1000


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\..\\evil", "C:evil", "..", ""])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_name_outside_the_folder_is_refused(tmp_path, refuses, make, name):
    archive = make(tmp_path / "x", ("good", b"1"), (name, b"2"))
    refuses(downloads.extract, archive, str(tmp_path / "a" / "out"))
    assert sorted(os.listdir(tmp_path)) == ["a", "x"] and not os.listdir(tmp_path / "a")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_file_are_refused(tmp_path, refuses, kind):
    archive = make_tar(tmp_path / "x.tgz", ("link", b""), type=kind, linkname="/etc/passwd")
    assert "link" in refuses(downloads.extract, archive, str(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["x.tgz"]


def test_links_and_encrypted_members_in_a_zip_file_are_refused(tmp_path, refuses):
    archive = make_zip(tmp_path / "x.zip", ("link", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777)
    assert "link" in refuses(downloads.extract, archive, str(tmp_path / "out"))
    content = bytearray(open(make_zip(tmp_path / "y.zip", ("a", b"1")), "rb").read())
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + place] |= 1
    (tmp_path / "y.zip").write_bytes(content)
    assert "encrypted" in refuses(downloads.extract, str(tmp_path / "y.zip"), str(tmp_path / "out"))


def test_a_bomb_is_refused(tmp_path, refuses, monkeypatch):
    monkeypatch.setattr(downloads, "SMALL_BYTES", 100_000)
    for archive in (make_zip(tmp_path / "x.zip", ("a", bytes(10_000_000))),
                    make_tar(tmp_path / "x.tgz", ("a", bytes(10_000_000))),
                    make_tar(tmp_path / "y.tgz", ("a", b""), pax_headers={"comment": "0" * 10_000_000})):
        assert "bytes" in refuses(downloads.extract, archive, str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()
    monkeypatch.setattr(downloads, "MOST_MEMBERS", 3)
    archive = make_tar(tmp_path / "z.tgz", *((str(i), b"") for i in range(4)))
    assert "files" in refuses(downloads.extract, archive, str(tmp_path / "out"))


def test_a_size_that_lies_is_refused(tmp_path, refuses):
    content = bytearray(open(make_zip(tmp_path / "x.zip", ("a", b"1" * 5000)), "rb").read())
    for signature, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = content.index(signature) + place
        content[at:at + 4] = (100).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(content)
    assert "damaged" in refuses(downloads.extract, str(tmp_path / "x.zip"), str(tmp_path / "out"))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_truncated_archive_is_refused(tmp_path, refuses, make):
    whole = open(make(tmp_path / "x", ("a", CONTENT)), "rb").read()
    for cut in (0, 10, len(whole) // 2, len(whole) - 12):
        (tmp_path / "y").write_bytes(whole[:cut])
        assert "damaged" in refuses(downloads.extract, str(tmp_path / "y"), str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def test_what_is_no_archive_is_refused(tmp_path, refuses):
    for content in (b"<html>", json.dumps({}).encode() * 500, gzip.compress(b"text" * 500), b"BZh9" + bytes(100)):
        (tmp_path / "y").write_bytes(content)
        refuses(downloads.extract, str(tmp_path / "y"), str(tmp_path / "out"))


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_two_members_of_one_name_are_refused(tmp_path, refuses, names):
    archive = make_tar(tmp_path / "x", *((name, b"1") for name in names))
    assert "two members" in refuses(downloads.extract, archive, str(tmp_path / "out"))
