"""report.py: the command, and the page that it serves while a run trains."""
from __future__ import annotations

import contextlib
import threading
import urllib.error
import urllib.request

import browser
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


# --- In a browser ---

CHART = ".chart:nth-of-type(2)"  # of the generator's loss
LEGEND = f"document.querySelector('{CHART} .legend').innerText.replace(/\\s+/g, ' ')"
WHERE = f"document.querySelector('{CHART} .where').textContent"
VIEW = "document.querySelector('.charts').dataset.view"


@pytest.mark.skipif(not browser.EXECUTABLE, reason="needs Chromium")
def test_values_zoom_and_smoothing_in_a_browser_and_all_of_it_stays_while_the_page_refreshes(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(report, "REFRESH_SECONDS", 0.2)
    folder = run_folders.pretraining(tmp_path / "base")
    with served(folder) as address, browser.Browser(str(tmp_path / "browser")) as chromium:
        chromium.open(address)
        chromium.wait(f"document.querySelectorAll('canvas').length === 10 && {LEGEND} === 'training 7 held out 7.5'")
        left, top, width, height = chromium.box(f"{CHART} .u-over")
        chromium.mouse("mouseMoved", left + width / 2, top + height / 2)  # the axis ends at 60.6
        chromium.wait(f"{WHERE} === ' at phase 1, update 30' && {LEGEND} === 'training 7.25 held out 7.75'")
        chromium.mouse("mousePressed", left + 0.2 * width, top + 50, 1)
        chromium.mouse("mouseMoved", left + 0.6 * width, top + 60, 1)
        chromium.mouse("mouseReleased", left + 0.6 * width, top + 60, 1)
        chromium.wait(f"{VIEW} === '12 36'")
        chromium.value("document.querySelector('.plot').focus()")
        chromium.key("+")
        chromium.wait(f"{VIEW} !== '12 36'")
        chromium.key("0")
        chromium.wait(f"{VIEW} === ''")
        chromium.key("+")
        view = chromium.value(VIEW)
        chromium.value("(() => { const s = document.querySelector('#smoothing'); s.value = 0.5; "
                       "s.dispatchEvent(new Event('input')); document.querySelector('#log').click(); "
                       "document.querySelector('summary').click(); })()")
        with open(folder / "logs/pretraining_phase2.jsonl", "a") as file:
            file.write('{"step": 21, "kind": "train", "loss": 5.0, "generator_loss": 1.5}\n')
        chromium.mouse("mouseMoved", 2, 2)
        chromium.wait(f"{LEGEND} === 'training 1.5 held out 7.5'")
        chromium.wait("document.querySelector('.numbers').textContent.includes('phase 2: 21')")
        assert chromium.value(VIEW) == view and chromium.value("document.querySelector('#smoothing').value") == "0.5"
        assert chromium.value("document.querySelector('#log').checked && document.querySelector('details').open")
        assert chromium.value("document.documentElement.scrollWidth <= innerWidth")
        assert not chromium.errors and set(chromium.requests) == {address}
