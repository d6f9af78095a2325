"""Writes the page of a run, report.html: how it went, curves to zoom into, what it learnt, and what ran.

    python report.py results/models/base
    python report.py results/models/base results/models/other --output_file=both.html
    python report.py results/models/base --serve
    python report.py --compare results/models/base results/models/other

A run is the folder of a pre-training, a fine-tuning or a sweep, running or finished, also of an earlier release.
Training writes the page too, at every evaluation. --serve shows the same page in a browser and refreshes it while the
run trains; the server answers this machine alone (from elsewhere: ssh -L 8001:localhost:8001 HOST).
"""
from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import time
from typing import List, Optional, Sequence

import bottle

import command_line
import comparison
import configuration
import files
import preflight
import run_page
import server
from configuration import UserError, option, print_on_stderr
from run_folder import Run

REFRESH_SECONDS = 5
LEAST_SECONDS = 1.0  # between two looks at the files, however many browsers ask
LINKED = "analysis.html"  # the page beside that of a fine-tuning


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """The page of one or several runs."""

    output_file: Optional[str] = option(
        None, "page to write (default: report.html in the folder of the run; of several runs, report.html in the "
        "current folder)")
    compare: bool = option(False, "say in words and numbers what differs between two runs; no page is written")
    serve: bool = option(False, "serve the page, which refreshes while the run trains, until it is stopped")
    host: str = option("127.0.0.1", "with --serve: address to serve at; 0.0.0.0 lets other machines see the page")
    port: int = option(8001, "with --serve: port; 0 is any free one", minimum=0, maximum=65535)

    def __post_init__(self):
        configuration.check_options(self)
        if self.serve and self.compare:
            raise UserError("--serve and --compare are both given: omit one of them.")
        if self.output_file and (self.serve or self.compare):
            raise UserError(f"--output_file and --{'serve' if self.serve else 'compare'} are both given: omit one of "
                            "them.")


class Pages:
    """The page of runs, made anew when their files have changed."""

    def __init__(self, runs: Sequence[Run]):
        self.runs = runs
        self._turn, self._made, self._text = threading.Lock(), 0.0, ""

    def text(self) -> str:
        with self._turn:
            if not self._text or time.monotonic() - self._made >= LEAST_SECONDS:
                for run in self.runs if self._text else ():
                    run.refresh()
                folder = self.runs[0].folder if len(self.runs) == 1 else None
                self._text = run_page.render(self.runs, folder, REFRESH_SECONDS)
                self._made = time.monotonic()
            return self._text


def make_app(runs: Sequence[Run], local: bool = True) -> bottle.Bottle:
    """GET / is the page, GET /analysis.html the error analysis of a fine-tuning.

    Args:
        local: see `server.make_app`.
    """
    app, pages = server.guarded_app(local, "see GET / for the page"), Pages(runs)
    # The policy of each page is in the page; this adds what only a header can say.
    policy = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

    @app.get("/")
    def show_page():
        text = pages.text()
        tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
        if bottle.request.get_header("If-None-Match") == tag:
            raise bottle.HTTPResponse(status=304)
        bottle.response.headers["ETag"] = tag
        return server.as_page(text, policy)

    @app.get(f"/{LINKED}")
    def show_analysis():
        try:
            with files.open_regular(os.path.join(runs[0].folder, LINKED), encoding="utf-8") as file:
                return server.as_page(file.read(), policy)
        except (OSError, UnicodeDecodeError):
            raise bottle.HTTPError(404) from None

    return app


def read(folders: Sequence[str]) -> List[Run]:
    """Raises: UserError."""
    runs = [Run(folder) for folder in folders]
    twice = next((run.folder for run in runs if [other.folder for other in runs].count(run.folder) > 1), None)
    if twice:
        raise UserError(f"{twice} is given twice: name each run once.")
    sweep = next((run.folder for run in runs if run.kind == "sweep"), None)
    if sweep and len(runs) > 1:
        raise UserError(f"{sweep} is a sweep of fine-tunings, which has a page of its own: name it alone.")
    return runs


def main(argv):
    config, folders = command_line.parse_with_arguments(ReportConfig, argv, __doc__, "RUN [RUN ...]")
    if not folders:
        raise UserError("no run is given: name its folder, such as results/models/base or results/squad.")
    if config.compare and len(folders) != 2:
        raise UserError(f"--compare needs the folders of two runs; {len(folders)} given.")
    runs = read(folders)
    for problem in (problem for run in runs for problem in run.problems):
        print_on_stderr(f"note: {problem}")
    if config.compare:
        print(comparison.in_words(*runs))
        return
    if config.serve:
        preflight.check_port(config.host, config.port)
        server.serve_app(make_app(runs, server.is_local(config.host)), "showing the report", "see the page",
                         config.host, config.port, print_on_stderr)
        return
    path = config.output_file or os.path.join(runs[0].folder if len(runs) == 1 else ".", run_page.NAME)
    try:
        files.write_text(path, run_page.render(runs, os.path.dirname(os.path.abspath(path))))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another --output_file.") from error
    print(path)


if __name__ == "__main__":
    command_line.run_command(main)
