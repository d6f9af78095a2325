"""deferred.py: a module that is imported at its first use."""
import concurrent.futures
import os
import signal
import subprocess
import sys

from support import ROOT

import deferred

# The module `slow` sends its own process a signal while it is imported, and fails if it is imported twice.
PROGRAM = """import os, signal, sys
import deferred
def interrupt(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, interrupt)
later = deferred._Deferred("slow")
assert "slow" not in sys.modules
try:
    later.value
except KeyboardInterrupt:
    print(later.value, os.environ["IMPORTED"])
"""


def test_a_signal_waits_for_the_end_of_the_import(tmp_path):
    (tmp_path / "slow.py").write_text("""import os, signal
os.environ["IMPORTED"] = os.environ.get("IMPORTED", "") + "once"
os.kill(os.getpid(), signal.SIGTERM)
value = 3
""")
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.stdout == "3 once\n", done.stderr
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_threads_wait_for_the_one_that_imports(tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.2)\nvalue = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    later = deferred._Deferred("slow_module")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: later.value, range(4))) == [3] * 4
