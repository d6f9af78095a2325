"""server: the page, the JSON endpoint, its limits, many clients at once, shutdown."""
from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import hashlib
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
from support import WHERE, save_classifier, save_tagger, words

import preflight
import run_inference
import server
import weights
from classifier import Classifier
from configuration import RunFailed
from reader import Reader
from tagger import Tagger

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def reader(joint):
    return Reader.from_pretrained(joint)


@contextlib.contextmanager
def running(reader, **settings):
    """Serves in a thread. Yields the address."""
    served = server.make_server(server.make_app(reader, "some model", **settings), "127.0.0.1", 0)
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.addresses(served)[0][1]}"
    served.task_dispatcher.shutdown()
    served.close()


@pytest.fixture(scope="module")
def address(reader):
    with running(reader, context="bel zed") as found:
        yield found


def fetch(address, content=None, **headers):
    """The status, the headers and the body of a reply. `content`: what is posted, as it is or as JSON."""
    data = content if isinstance(content, bytes) or content is None else json.dumps(content).encode()
    headers = {**({"Content-Type": "application/json"} if data is not None else {}), **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=30) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_the_page_loads_nothing_and_runs_only_its_own_script(address):
    status, headers, body = fetch(f"{address}/")
    page, policy = body.decode(), headers["Content-Security-Policy"]
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert not re.search(r"https?://|src=|@import|url\(|style=|onclick", page)
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    for needed in ("viewport", "prefers-color-scheme: dark", "aria-live", 'lang="en"'):
        assert needed in page
    assert len(re.findall("<label", page)) == 2 and ".innerHTML" not in page


def test_the_page_learns_about_the_model(address):
    status, _, body = fetch(f"{address}/api/model")
    found = json.loads(body)
    assert status == 200 and found["model"] == "some model" and found["context"] == "bel zed"
    assert found["version_2"] is True and found["threshold"] == 0.0 and found["joint_head"] is True


def test_answers_are_those_of_the_reader(address, reader):
    context = "\U0001f600 " + words(18, 5, 7)  # offsets count an emoji as one
    status, headers, body = fetch(f"{address}/api/answer", {"context": context, "question": WHERE})
    assert status == 200 and headers["Content-Type"] == "application/json"
    (found,) = json.loads(body)["results"]
    assert found["question"] == WHERE and found["prediction"] == "zed" and found["answerable"] is True
    assert found["answers"] == [answer._asdict() for answer in reader.answer(WHERE, context)]
    assert context[found["answers"][0]["start"]:found["answers"][0]["end"]] == "zed"
    status, _, body = fetch(f"{address}/api/answer", {"context": words(18, 6), "questions": [WHERE, "is it ?"]})
    found = json.loads(body)["results"]
    assert [entry["question"] for entry in found] == [WHERE, "is it ?"]
    assert found[0]["answerable"] is False and found[0]["prediction"] == "" and found[0]["null_odds"] > 0


@pytest.mark.parametrize("content, status, part", [
    (b"{", 400, "JSON"), (b"[]", 400, "JSON"), (b"\xff", 400, "UTF-8"), (b"", 400, "JSON"),
    (b"[" * 100000, 400, "JSON"), (b'{"context": "a", "context": "b"}', 400, "twice"),
    ({"question": "who?"}, 400, "context"), ({"question": "who?", "context": " "}, 400, "context"),
    ({"question": " ", "context": "bel"}, 400, "question"), ({"question": 3, "context": "bel"}, 400, "question"),
    ({"questions": [], "context": "bel"}, 400, "question"), ({"questions": "who?", "context": "bel"}, 400, "question"),
    ({"questions": ["who?"] * 33, "context": "bel"}, 400, "at most 32"),
    ({"questions": ["who?"] * 4, "context": "b" * 100_001}, 413, "at most 100000"),
    ({"question": "who?", "context": "b" * (1 << 20)}, 413, "")])
def test_invalid_and_large_requests_are_refused(content, status, part, address):
    found, _, body = fetch(f"{address}/api/answer", content)
    assert found == status and part in body.decode()
    assert not part or set(json.loads(body)) == {"error"}


def test_requests_of_other_sites_are_refused(address, reader):
    content = {"question": WHERE, "context": "bel"}
    assert fetch(f"{address}/api/answer", content, **{"Content-Type": "text/plain"})[0] == 415
    for host, status in (("evil.example", 403), ("localhost.evil.example:80", 403), ("localhost:1", 200),
                         ("[::1]:80", 200), ("127.0.0.2", 200)):
        assert fetch(f"{address}/api/model", Host=host)[0] == status, host
    with running(reader, local=False) as public:
        assert fetch(f"{public}/api/model", Host="my-machine")[0] == 200


def test_what_does_not_exist_is_not_found(address, monkeypatch):
    assert fetch(f"{address}/../configuration.py")[0] == 404 and fetch(f"{address}/api/answer")[0] == 405
    assert "error" in json.loads(fetch(f"{address}/x")[2])


def test_a_model_that_fails_is_an_error_of_the_server(address, reader, monkeypatch):
    def fail(*_):
        raise RunFailed("the model's start_logits are NaN.")

    monkeypatch.setattr(reader, "results", fail)
    status, _, body = fetch(f"{address}/api/answer", {"question": WHERE, "context": "bel"})
    assert status == 500 and "start_logits" in json.loads(body)["error"]


def test_fifty_clients_at_once_all_get_their_own_answers(address):
    def client(number):
        count = 0
        for place in range(3):
            context = words(10 + number % 9, number, place)
            status, _, body = fetch(f"{address}/api/answer", {"question": WHERE, "context": context})
            count += status == 200 and json.loads(body)["results"][0]["answers"][0]["start"] == context.index("zed")
        return count

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        assert list(pool.map(client, range(50))) == [3] * 50


def test_the_command_serves_until_it_is_stopped(joint, tmp_path):
    (tmp_path / "text.txt").write_text(words(18, 5, 7))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_inference.py"), f"--init_checkpoint={joint}", "--serve", "--port=0",
         f"--context_file={tmp_path / 'text.txt'}"], stderr=subprocess.PIPE, text=True)
    try:
        address = next(re.search(r"http://127\.0\.0\.1:\d+/", line)[0] for line in process.stderr if "http://" in line)
        assert json.loads(fetch(f"{address}api/model")[2])["context"] == words(18, 5, 7)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0 and process.stderr.read() == "stopped.\n"
    finally:
        process.kill()
        process.stderr.close()


def test_a_port_in_use_and_options_that_do_not_fit_are_refused(tmp_path, refuses):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port={port}" in refuses(preflight.check_port, "127.0.0.1", port)
    assert "nowhere.invalid" in refuses(preflight.check_port, "nowhere.invalid", 0)
    command = ["run_inference.py", "--init_checkpoint=x", "--serve"]
    assert "--question" in refuses(run_inference.main, [*command, "--question=who?"])
    assert "--input_file" in refuses(run_inference.main, [*command, "--input_file=a", "--output_file=b"])


# --- Classifiers and taggers ---


def post(address, content):
    status, _, body = fetch(f"{address}/api/predict", content)
    return status, json.loads(body)


def test_a_classifier_is_served(reader_folder, tmp_path):
    model = Classifier.from_pretrained(save_classifier(reader_folder, tmp_path / "model",
                                                       weights.Labels(("no", "yes"), "single_label")))
    with running(model, context="ban") as address:
        about = json.loads(fetch(f"{address}/api/model")[2])
        assert (about["kind"], about["labels"], about["problem"]) == (
            "sequence_classification", ["no", "yes"], "single_label")
        status, found = post(address, {"texts": ["ban bel", "bir"], "pairs": ["com", "can"]})
        assert status == 200 and found["seconds"] >= 0
        for result, expected in zip(found["results"], model.classify(["ban bel", "bir"], ["com", "can"])):
            assert result["label"] == expected.label and result["labels"] == [expected.label]
            assert {row["label"]: row["probability"] for row in result["probabilities"]} == pytest.approx(
                expected.probabilities, abs=1e-4)
        assert post(address, {"text": "ban"})[1]["results"][0]["value"] is None
        for content, wanted, part in (
                ({"text": " "}, 400, "text"), ({"texts": []}, 400, "text"), ({"texts": ["a", 3]}, 400, "text"),
                ({"texts": ["a", "b"], "pair": "c"}, 400, "pair"), ({"text": "a", "pair": ""}, 400, "pair"),
                ({"texts": ["a"] * 257}, 400, "at most 256"), ({"text": "a" * 400_001}, 413, "at most 400000")):
            status, refused = post(address, content)
            assert status == wanted and part in refused["error"]
        assert fetch(f"{address}/api/answer", {"question": "q", "context": "c"})[0] == 404


def test_a_tagger_is_served(reader_folder, tmp_path):
    model = Tagger.from_pretrained(save_tagger(reader_folder, tmp_path / "model", weights.Labels(("O", "I-Z"), None)))
    with running(model) as address:
        about = json.loads(fetch(f"{address}/api/model")[2])
        assert about["kind"] == "token_classification" and about["labels"] == ["O", "I-Z"]
        status, found = post(address, {"text": "\U0001f600 ban zed"})
        (span,) = found["results"][0]["spans"]
        assert status == 200 and [span] == [one._asdict() for one in model.tag("\U0001f600 ban zed")]
        assert (span["start"], span["label"]) == (6, "Z")  # an emoji is one character
        assert post(address, {"text": "ban", "pair": "bel"})[0] == 400
