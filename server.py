"""A local page to ask a model questions about a text, and the JSON endpoint behind it.

    GET  /            the page (templates/ask.html)
    GET  /api/model   the name of the model, its SQuAD version, the text to begin with, the limits of a request
    POST /api/answer  {"context": "...", "questions": ["...", ...]}, or {"context": "...", "question": "..."}

Requests are answered one after the other, because a model uses all cores; the others wait in line. The server is meant
for one machine: it has no users or passwords. Pages of other sites cannot use it: a request must be JSON, and as long
as the server is bound to this machine, it must be addressed to it by name.
"""
from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import os
import re
import threading
import time
from typing import Callable, List

import bottle
import waitress

import configuration
from configuration import RunFailed, UserError
from reader import Reader, Result

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates", "ask.html")
LARGEST_BODY = 1 << 20  # bytes of a request
MOST_QUESTIONS = 32
MOST_CHARACTERS = 400_000  # of the text, times the number of questions: about a minute of `base` on a few cores
CONNECTIONS = 256  # at a time; further ones wait to be accepted
THREADS = 8  # of which one computes


def make_app(reader: Reader, name: str, context: str = "", local: bool = True) -> bottle.Bottle:
    """The page and its endpoint as a WSGI application.

    Args:
        name: of the model, to show.
        context: the text to begin with.
        local: answer only requests that are addressed to this machine by name, against DNS rebinding.
    """
    app, turn = bottle.Bottle(), threading.Lock()
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    policy = content_security_policy(page)

    @app.hook("before_request")
    def refuse_other_hosts():
        if local and not is_local(bottle.request.get_header("Host", "")):
            refuse(403, "this server answers only requests to localhost: start it with --host to change that.")

    @app.get("/")
    def show_page():
        bottle.response.headers.update({
            "Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy, "Cache-Control": "no-cache",
            "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"})
        return page

    @app.get("/api/model")
    def show_model():
        return as_json({
            "model": name, "version_2": reader.version_2, "joint_head": reader.model.joint_head, "context": context, "threshold": threshold(reader),
            "limits": {"bytes": LARGEST_BODY, "questions": MOST_QUESTIONS, "characters": MOST_CHARACTERS}})

    @app.post("/api/answer")
    def answer():
        questions, text = read_request()
        with turn:
            started = time.monotonic()
            try:
                results = list(reader.results(questions, [text] * len(questions)))
            except RunFailed as error:
                refuse(500, str(error))
            seconds = time.monotonic() - started
        return as_json({"results": [describe(*pair) for pair in zip(questions, results)], "seconds": round(seconds, 4)})

    @app.error(404)
    @app.error(405)
    @app.error(500)
    def show_error(error: bottle.HTTPError):
        return as_json({"error": f"{error.status_line}: see GET / for the page, and docs/squad.md for the endpoint."})

    return app


def threshold(reader: Reader):
    return reader.config.null_score_diff_threshold if reader.version_2 else None


def describe(question: str, result: Result) -> dict:
    return {"question": question, "prediction": result.prediction, "answerable": result.answerable,
            "null_odds": result.null_odds, "answers": [answer._asdict() for answer in result.answers]}


def as_json(content: dict) -> str:
    bottle.response.content_type = "application/json"
    return json.dumps(content)


def refuse(status: int, why: str):
    """Ends a request. Raises: HTTPResponse."""
    raise bottle.HTTPResponse(json.dumps({"error": why}), status, {"Content-Type": "application/json"})


def read_request():
    """The questions and the text of a request. Raises: HTTPResponse: it is not valid, or too large."""
    request = bottle.request
    if request.content_type.split(";")[0].strip().lower() != "application/json":
        refuse(415, "send JSON, with the header Content-Type: application/json.")
    body = request.environ["wsgi.input"].read(LARGEST_BODY + 1)
    if len(body) > LARGEST_BODY:
        refuse(413, f"the request has more than {LARGEST_BODY} bytes: send a shorter text.")
    try:
        content = configuration.parse_json_object(body.decode("utf-8"), "the request")
    except UnicodeDecodeError:
        refuse(400, "the request is not UTF-8.")
    except UserError as error:
        refuse(400, str(error))
    questions = content.get("questions", [content["question"]] if "question" in content else None)
    text = content.get("context")
    if not isinstance(text, str) or not text.strip():
        refuse(400, "context is missing or empty: send the text that contains the answer.")
    if not isinstance(questions, list) or not questions or not all(
            isinstance(question, str) and question.strip() for question in questions):
        refuse(400, "question is missing or empty: send a question, or a list of them as questions.")
    if len(questions) > MOST_QUESTIONS:
        refuse(400, f"{len(questions)} questions are too many: send at most {MOST_QUESTIONS}.")
    if len(questions) * len(text) > MOST_CHARACTERS:
        refuse(413, f"the text is too long for {len(questions)} questions: send at most "
                    f"{MOST_CHARACTERS // len(questions)} characters.")
    return questions, text


def is_local(host: str) -> bool:
    """Whether the Host header of a request names this machine."""
    name = re.sub(r":\d+$", "", host).strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def content_security_policy(page: str) -> str:
    """Nothing is loaded from anywhere, and only the page's own script and style are used."""
    def hashes(tag: str) -> str:
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
                        for text in re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL))

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


def serve(reader: Reader, name: str, host: str, port: int, context: str, say: Callable[[str], None]):
    """Serves until SIGINT or SIGTERM, which let the requests that are being answered finish."""
    local = is_local(host)
    server = make_server(make_app(reader, name, context, local), host, port)
    list(reader.results(["?"], ["."]))  # the first request takes no longer than the others
    if not local:
        say(f"note: --host={host} lets other machines use the model.")
    say(f"asking {name} at http://{f'[{host}]' if ':' in host else host}:{addresses(server)[0][1]}/ (stop with Ctrl-C)")
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
