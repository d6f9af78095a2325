"""hub: downloads as a user's process makes them, from a local server that speaks the hub's protocol."""
from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TINY = pathlib.Path(__file__).parent / "data" / "transformers_tiny" / "discriminator"
REPOSITORY = "someone/electra-tiny-discriminator"
PROGRAM = """
import sys
import configuration, training, weights
def main(argv):
    report.start_logging(argv[2], "log")
    source = weights.read(argv[1])
    print(f"read {len(source.tensors)} tensors, {source.tokenizer.vocab_size} tokens", flush=True)
configuration.run_command(main)
"""


class Hub(http.server.ThreadingHTTPServer):
    """`/<owner>/<model>/resolve/<revision>/<file>` with the headers that huggingface_hub reads.

    Attributes:
        files: content by name, of the one repository; checksums are taken from it.
        sent: what is sent instead, by name (a damaged file).
        cut: bytes of a file's body after which the connection ends, by name, once.
        requests: (method, file, Range header) of every request.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.sent, self.cut, self.requests = dict(files), {}, {}, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub, parts = self.server, self.path.split("?")[0].strip("/").split("/")
        known = "/".join(parts[:2]) == REPOSITORY and len(parts) == 5 and parts[2] == "resolve"
        name = parts[-1]
        hub.requests.append((self.command, name, self.headers.get("Range")))
        if not known or name not in hub.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        true, content = hub.files[name], hub.sent.get(name, hub.files[name])
        start = int(self.headers["Range"][len("bytes="):].split("-")[0]) if self.headers.get("Range") else 0
        self.send_response(206 if start else 200)
        large = name.endswith((".safetensors", ".h5"))
        etag = hashlib.sha256(true) if large else hashlib.sha1(b"blob %d\0" % len(true) + true)
        self.send_header("ETag", f'"{etag.hexdigest()}"')
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            end = hub.cut.pop(name, None)
            with contextlib.suppress(ConnectionError):  # a client that was killed
                self.wfile.write(content[start:end])
            if end is not None:
                self.wfile.flush()
                self.close_connection = True
                hub.cut_done.wait(60)


@pytest.fixture
def hub():
    server = Hub({file.name: file.read_bytes() for file in TINY.iterdir() if file.name != "logits.npy"})
    server.cut_done = threading.Event()
    yield server
    server.cut_done.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def environment(hub, tmp_path):
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith("HF_") and not name.lower().endswith("_proxy")}
    return {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(ROOT)}


def start(environment, name=REPOSITORY):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, name, environment["HF_HOME"]], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read(environment, name=REPOSITORY):
    """Status, standard output and standard error of a process that reads a model."""
    process = start(environment, name)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def weights_requests(hub):
    return [request for request in hub.requests if request[1] == "model.safetensors" and request[0] == "GET"]


def test_a_model_is_downloaded_once_and_read_from_the_cache_then_also_offline(hub, environment):
    status, out, err = read(environment)
    assert (status, out) == (0, "read 43 tensors, 23 tokens\n"), err
    assert len(weights_requests(hub)) == 1
    asked = len(hub.requests)
    assert read(environment)[:2] == (0, out)
    assert read({**environment, "HF_HUB_OFFLINE": "1"})[:2] == (0, out)
    assert len(hub.requests) == asked


def test_the_next_kind_of_weights_is_taken_where_there_is_no_safetensors(hub, environment):
    nvidia = TINY.parent.parent / "nvidia_discriminator"
    del hub.files["model.safetensors"]
    hub.files.update({"tf_model.h5": (nvidia / "tf_model.h5").read_bytes(),
                      "config.json": (nvidia / "config.json").read_bytes(),
                      "vocab.txt": hub.files["vocab.txt"] + b"".join(b"word%d\n" % i for i in range(97))})
    status, out, err = read(environment)
    assert (status, out) == (0, "read 43 tensors, 120 tokens\n"), err
    assert read({**environment, "HF_HUB_OFFLINE": "1"})[:2] == (0, out)


def test_a_download_that_was_killed_half_way_is_continued(hub, environment):
    content = hub.files["model.safetensors"] + bytes(60_000_000)  # more than buffers hold
    header = json.loads(hub.files["model.safetensors"][8:8 + int.from_bytes(content[:8], "little")])
    header["filler"] = {"dtype": "U8", "shape": [60_000_000], "data_offsets": [
        max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")] * 2}
    header["filler"]["data_offsets"][1] += 60_000_000
    text = json.dumps(header).encode()
    old = int.from_bytes(content[:8], "little")
    hub.files["model.safetensors"] = len(text).to_bytes(8, "little") + text + content[8 + old:]
    hub.cut["model.safetensors"] = len(hub.files["model.safetensors"]) // 2
    process = start(environment)
    partial = pathlib.Path(environment["HF_HOME"], "hub", f"models--{REPOSITORY.replace('/', '--')}", "blobs")
    arrived = 0
    while arrived < 20_000_000:
        assert process.poll() is None, process.communicate()
        with contextlib.suppress(FileNotFoundError):  # a small file, renamed meanwhile
            arrived = max([file.stat().st_size for file in partial.glob("*.incomplete")], default=0)
    process.kill()
    process.communicate()
    hub.cut_done.set()
    status, out, err = read(environment)
    assert status == 0 and out.endswith("read 43 tensors, 23 tokens\n"), err
    first, second = weights_requests(hub)
    import huggingface_hub
    if tuple(map(int, huggingface_hub.__version__.split(".")[:2])) < (1, 18):
        assert first[2] in (None, "bytes=0-") and int(second[2][len("bytes="):-1]) > 20_000_000
        assert out.count("is continued after") == 1
    else:
        assert "starts again" in out


def test_a_damaged_download_is_deleted_and_not_used(hub, environment):
    good = hub.files["model.safetensors"]
    hub.sent["model.safetensors"] = good[:-1] + bytes([good[-1] ^ 1])
    status, out, err = read(environment)
    assert (status, out) == (2, "") and "model.safetensors was damaged" in err and "start again" in err
    hub.sent.clear()
    assert read(environment)[0] == 0
    assert len(weights_requests(hub)) == 2
    cached = next(pathlib.Path(environment["HF_HOME"]).rglob("snapshots/*/model.safetensors")).resolve()
    cached.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))  # rotten on the disk
    assert read(environment)[0] == 2
    assert read(environment)[0] == 0


def test_what_cannot_be_had_is_one_sentence_with_the_way_out(hub, environment, tmp_path):
    status, out, err = read(environment, "someone/other")
    assert status == 2 and len(err.strip().splitlines()) == 1, err
    assert "someone/other" in err and "download config.json, vocab.txt and model.safetensors" in err
    nowhere = {**environment, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "other")}
    status, _, err = read(nowhere)
    assert status == 2 and "name the folder that holds them" in err.strip().splitlines()[-1]
    status, _, err = read({**nowhere, "HF_HUB_OFFLINE": "1"})
    assert status == 2 and "name the folder that holds them" in err.strip().splitlines()[-1]
    del hub.files["model.safetensors"]
    status, _, err = read(environment)
    assert status == 2 and "has none of model.safetensors, tf_model.h5, pytorch_model.bin on the hub" in err
