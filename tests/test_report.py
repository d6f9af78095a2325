"""report.py: the command, and the page that it serves while a run trains."""
from __future__ import annotations

import contextlib
import threading
import urllib.error
import urllib.request

import pytest
import run_folders

import report
import server
from run_folder import Run


def fetch(address, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as reply:
            return reply.status, reply.headers, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


@contextlib.contextmanager
def served(*folders):
    found = server.make_server(report.make_app([Run(str(folder)) for folder in folders]), "127.0.0.1", 0)
    threading.Thread(target=found.run, daemon=True).start()
    yield f"http://127.0.0.1:{server.addresses(found)[0][1]}/"
    found.task_dispatcher.shutdown()
    found.close()


def test_the_command_writes_the_page_beside_the_run(tmp_path, capsys):
    folder = run_folders.pretraining(tmp_path / "base")
    report.main(["report.py", str(folder)])
    assert capsys.readouterr().out == f"{folder}/report.html\n"
    assert "base: report" in (folder / "report.html").read_text()
    other = run_folders.pretraining(tmp_path / "other")
    report.main(["report.py", str(folder), "--output_file", str(tmp_path / "both.html"), str(other)])
    assert 'href="base/report.html"' in (tmp_path / "both.html").read_text()


def test_calls_that_do_not_fit_are_refused(tmp_path, refuses):
    folder, sweep = run_folders.pretraining(tmp_path / "base"), run_folders.sweep(tmp_path / "sweep")
    for words, part in (([], "no run"), ([tmp_path / "no"], "does not exist"), ([folder, folder], "twice"),
                        ([folder, sweep], "sweep"), ([folder, "--compare"], "--compare"), (["--port=70000"], "--port"),
                        ([folder, "--serve", "--compare"], "--compare"),
                        ([folder, "--serve", "--output_file=x"], "--output_file"),
                        ([folder, f"--output_file={tmp_path}/no/x.html"], "--output_file"),
                        ([folder, "--unknown=1"], "unknown")):
        assert part in refuses(report.main, ["report.py", *map(str, words)]), words


def test_the_served_page_follows_the_run_and_is_sent_again_only_when_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "LEAST_SECONDS", 0.0)
    folder = run_folders.pretraining(tmp_path / "base")
    with served(folder) as address:
        status, headers, text = fetch(address)
        assert status == 200 and "REFRESH_SECONDS = 5" in text and "connect-src 'self'" in text
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert fetch(address, **{"If-None-Match": headers["ETag"]})[0] == 304
        with open(folder / "logs/pretraining_phase2.jsonl", "a") as file:
            file.write('{"step": 21, "kind": "train", "loss": 0.015625}\n')
        status, _, text = fetch(address, **{"If-None-Match": headers["ETag"]})
        assert status == 200 and "0.015625" in text


def test_other_hosts_and_other_files_are_refused(tmp_path):
    folder = run_folders.fine_tuning(tmp_path / "squad")
    with served(folder) as address:
        assert fetch(address, Host="evil.example")[0] == 403
        assert fetch(f"{address}results.json")[0] == 404 and fetch(f"{address}analysis.html")[0] == 404
        (folder / "analysis.html").write_text("<p>worst</p>")
        assert fetch(f"{address}analysis.html")[2] == "<p>worst</p>" and 'href="analysis.html"' in fetch(address)[2]


def test_help_says_that_runs_are_arguments(capsys):
    with pytest.raises(SystemExit):
        report.main(["report.py", "--help"])
    assert "report.py RUN [RUN ...]" in capsys.readouterr().out
