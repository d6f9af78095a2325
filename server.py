"""A local page to ask a model about a text, or to classify or tag texts with it, and the JSON endpoint behind it.

    GET  /             the page (templates/ask.html)
    GET  /api/model    the name of the model, what it does, its labels, the text to begin with, the limits of a request
    POST /api/answer   {"context": "...", "questions": ["...", ...]}, or {"context": "...", "question": "..."}
    POST /api/predict  of a classifier or tagger, in place of /api/answer: {"texts": ["...", ...]}, or {"text": "..."};
                       for a classifier of two texts with as many "pairs", or a "pair"

Requests are answered one after the other, because a model uses all cores; the others wait in line. The server is meant
for one machine: it has no users or passwords. Pages of other sites cannot use it: a request must be JSON, and as long
as the server is bound to this machine, it must be addressed to it by name.
"""
from __future__ import annotations

import ipaddress
import json
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Callable, List

import bottle
import waitress

import configuration
import page
from configuration import RunFailed, UserError

if TYPE_CHECKING:  # report.py serves pages without TensorFlow
    from classifier import Prediction
    from predictor import Predictor
    from reader import Reader, Result

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates", "ask.html")
LARGEST_BODY = 1 << 20  # bytes of a request
MOST_QUESTIONS = 32
MOST_TEXTS = 256
MOST_CHARACTERS = 400_000  # of the text, times the number of questions: about a minute of `base` on a few cores
CONNECTIONS = 256  # at a time; further ones wait to be accepted
THREADS = 8  # of which one computes


class Asking:
    """What the endpoint does with a model that answers questions."""

    path, doing = "/api/answer", "asking"
    trial = ["?"], "."  # a request

    def __init__(self, reader: Reader):
        self.reader = reader

    def about(self) -> dict:
        return {"kind": self.reader.kind, "version_2": self.reader.version_2,
                "joint_head": self.reader.model.joint_head, "threshold": threshold(self.reader),
                "limits": {"bytes": LARGEST_BODY, "questions": MOST_QUESTIONS, "characters": MOST_CHARACTERS}}

    def read(self, content: dict) -> tuple:
        """The questions and the text of a request. Raises: HTTPResponse: it is not valid, or too large."""
        questions = content.get("questions", [content["question"]] if "question" in content else None)
        text = content.get("context")
        if not isinstance(text, str) or not text.strip():
            refuse(400, "context is missing or empty: send the text that contains the answer.")
        if not isinstance(questions, list) or not questions or not all(map(is_text, questions)):
            refuse(400, "question is missing or empty: send a question, or a list of them as questions.")
        if len(questions) > MOST_QUESTIONS:
            refuse(400, f"{len(questions)} questions are too many: send at most {MOST_QUESTIONS}.")
        if len(questions) * len(text) > MOST_CHARACTERS:
            refuse(413, f"the text is too long for {len(questions)} questions: send at most "
                        f"{MOST_CHARACTERS // len(questions)} characters.")
        return questions, text

    def results(self, questions: List[str], text: str) -> List[dict]:
        found = list(self.reader.results(questions, [text] * len(questions)))
        return [describe(*pair) for pair in zip(questions, found)]


class Predicting:
    """What the endpoint does with a classifier or tagger."""

    path, doing = "/api/predict", "trying"
    trial = ["."], None

    def __init__(self, model: Predictor):
        self.model, self.classifies = model, model.kind == "sequence_classification"

    def about(self) -> dict:
        labels = self.model.labels
        return {"kind": self.model.kind, "labels": list(labels.names), "problem": labels.problem,
                "limits": {"bytes": LARGEST_BODY, "texts": MOST_TEXTS, "characters": MOST_CHARACTERS}}

    def read(self, content: dict) -> tuple:
        """The texts of a request, and the second ones. Raises: HTTPResponse: it is not valid, or too large."""
        texts = content.get("texts", [content["text"]] if "text" in content else None)
        pairs = content.get("pairs", [content["pair"]] if "pair" in content else None)
        if not isinstance(texts, list) or not texts or not all(map(is_text, texts)):
            refuse(400, "text is missing or empty: send a text, or a list of them as texts.")
        if pairs is not None and not self.classifies:
            refuse(400, "pair is for a classifier: send a text alone.")
        if pairs is not None and (not isinstance(pairs, list) or len(pairs) != len(texts)
                                  or not all(map(is_text, pairs))):
            refuse(400, "pair is empty, or pairs are not as many as texts: send a second text for each, or none.")
        if len(texts) > MOST_TEXTS:
            refuse(400, f"{len(texts)} texts are too many: send at most {MOST_TEXTS}.")
        if sum(map(len, (*texts, *(pairs or ())))) > MOST_CHARACTERS:
            refuse(413, f"the texts are too long: send at most {MOST_CHARACTERS} characters together.")
        return texts, pairs

    def results(self, texts: List[str], pairs) -> List[dict]:
        if not self.classifies:
            return [{"spans": [span._asdict() for span in spans]} for _, spans in self.model.results(texts)]
        return [describe_prediction(found) for found in self.model.results(texts, pairs or [None] * len(texts))]


def make_app(model: Predictor, name: str, context: str = "", local: bool = True) -> bottle.Bottle:
    """The page and its endpoint as a WSGI application.

    Args:
        name: of the model, to show.
        context: the text to begin with.
        local: answer only requests that are addressed to this machine by name, against DNS rebinding.
    """
    app, turn = guarded_app(local, "see GET / for the page, and docs/squad.md for the endpoint"), threading.Lock()
    service = service_of(model)
    with open(PAGE, encoding="utf-8") as file:
        text = file.read()
    policy = content_security_policy(text)

    @app.get("/")
    def show_page():
        return as_page(text, policy)

    @app.get("/api/model")
    def show_model():
        return as_json({"model": name, "context": context, **service.about()})

    @app.post(service.path)
    def answer():
        request = service.read(read_request())
        with turn:
            started = time.monotonic()
            try:
                results = service.results(*request)
            except RunFailed as error:
                refuse(500, str(error))
            seconds = time.monotonic() - started
        return as_json({"results": results, "seconds": round(seconds, 4)})

    return app


def guarded_app(local: bool, way_out: str) -> bottle.Bottle:
    """An application without pages, which answers errors with JSON.

    Args:
        local: see `make_app`.
        way_out: what to do instead of a request that has failed.
    """
    app = bottle.Bottle()

    @app.hook("before_request")
    def refuse_other_hosts():
        if local and not is_local(bottle.request.get_header("Host", "")):
            refuse(403, "this server answers only requests to localhost: start it with --host to change that.")

    @app.error(404)
    @app.error(405)
    @app.error(500)
    def show_error(error: bottle.HTTPError):
        return as_json({"error": f"{error.status_line}: {way_out}."})

    return app


def as_page(text: str, policy: str) -> str:
    """An answer that is a page."""
    bottle.response.headers.update({
        "Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy, "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"})
    return text


def service_of(model: Predictor):
    return Asking(model) if model.kind == "question_answering" else Predicting(model)


def is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def threshold(reader: Reader):
    return reader.config.null_score_diff_threshold if reader.version_2 else None


def describe(question: str, result: Result) -> dict:
    return {"question": question, "prediction": result.prediction, "answerable": result.answerable,
            "null_odds": result.null_odds, "answers": [answer._asdict() for answer in result.answers]}


def describe_prediction(found: Prediction) -> dict:
    shares = [{"label": name, "probability": share} for name, share in found.probabilities.items()]
    return {"label": found.label, "labels": list(found.labels), "value": found.value, "probabilities": shares}


def as_json(content: dict) -> str:
    bottle.response.content_type = "application/json"
    return json.dumps(content)


def refuse(status: int, why: str):
    """Ends a request. Raises: HTTPResponse."""
    raise bottle.HTTPResponse(json.dumps({"error": why}), status, {"Content-Type": "application/json"})


def read_request() -> dict:
    """The content of a request. Raises: HTTPResponse: it is not JSON, or too large."""
    request = bottle.request
    if request.content_type.split(";")[0].strip().lower() != "application/json":
        refuse(415, "send JSON, with the header Content-Type: application/json.")
    body = request.environ["wsgi.input"].read(LARGEST_BODY + 1)
    if len(body) > LARGEST_BODY:
        refuse(413, f"the request has more than {LARGEST_BODY} bytes: send a shorter text.")
    try:
        return configuration.parse_json_object(body.decode("utf-8"), "the request")
    except UnicodeDecodeError:
        refuse(400, "the request is not UTF-8.")
    except UserError as error:
        refuse(400, str(error))


def is_local(host: str) -> bool:
    """Whether the Host header of a request names this machine."""
    name = re.sub(r":\d+$", "", host).strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def content_security_policy(text: str) -> str:
    """Nothing is loaded from anywhere, and only the page's own script and style are used."""
    def hashes(tag: str) -> str:
        return page.hashes(re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL))

    return (f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def make_server(app: bottle.Bottle, host: str, port: int):
    """A server that is bound to its port. Raises: UserError: it cannot be."""
    try:
        return waitress.create_server(
            app, host=host, port=port, threads=THREADS, connection_limit=CONNECTIONS, backlog=1024,
            max_request_body_size=LARGEST_BODY + 1024, channel_timeout=30, ident=None,
            clear_untrusted_proxy_headers=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--host={host} --port={port} cannot be used ({configuration.in_short(error)}): choose another "
                        "--port, or 0 for any free one.") from error


def serve(model: Predictor, name: str, host: str, port: int, context: str, say: Callable[[str], None]):
    """Serves until SIGINT or SIGTERM, which let the requests that are being answered finish."""
    app, service = make_app(model, name, context, is_local(host)), service_of(model)

    def warm_up():  # the first request takes no longer than the others
        service.results(*service.trial)

    serve_app(app, f"{service.doing} {name}", "use the model", host, port, say, warm_up)


def serve_app(app: bottle.Bottle, doing: str, allowed: str, host: str, port: int, say: Callable[[str], None],
              before: Callable = lambda: None):
    """Serves an application, see `serve`.

    Args:
        doing, allowed: what is said of it, and of what other machines can do.
        before: called when the port is bound.
    """
    server = make_server(app, host, port)
    before()
    if not is_local(host):
        say(f"note: --host={host} lets other machines {allowed}.")
    say(f"{doing} at http://{f'[{host}]' if ':' in host else host}:{addresses(server)[0][1]}/ (stop with Ctrl-C)")
    try:
        server.run()  # returns after an interrupt
    finally:
        server.close()
    say("stopped.")


def addresses(server) -> List[tuple]:
    """Where a server is bound; it has several sockets where a name stands for several addresses."""
    if hasattr(server, "effective_listen"):
        return server.effective_listen
    return [(server.effective_host, server.effective_port)]
