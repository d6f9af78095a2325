"""Kills a small chain with -9 at random moments, resumes it, and compares the results with an undisturbed chain.

    .venv/bin/python scripts/check_crashes.py --rounds=100

The chain: sample data, two datasets, phase 1 and phase 2 in one call of scripts/electra.sh, evaluation, export, a
sweep with one fine-tuning (scripts/finetune_ckpts_on_squad.sh), and a classifier with two seeds
(scripts/electra_tasks.sh). It runs once undisturbed. A round picks a stage by its
duration and a random moment in it, kills everything, one Python process or the wrapper alone, in half of the rounds a
second time after the restart, and repeats the same command until it ends with status 0. All files of the sample data,
datasets and exports, every tensor of the checkpoints, the held-out metrics and the answers must then be equal, bit for
bit.

The moments are drawn from --seed and the number of the round. Finished rounds are kept in --folder: the same call
continues there, and starts from the beginning if the code has changed. Exit status 0 if nothing was lost.
"""
from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tqdm import tqdm  # noqa: E402  (found through the line above, like the rest)

import files  # noqa: E402
import run_log  # noqa: E402
from deferred import tensorflow as tf  # noqa: E402

MODEL = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
         "embedding_size": 16, "max_position_embeddings": 64}
STEPS = {1: 60, 2: 40}
LENGTHS = {1: 32, 2: 64}
STARTS = 10  # after which a round has failed

# --- The chain ---


class Stage(NamedTuple):
    """A part of the chain, whose commands are repeated after a kill."""

    name: str
    outputs: List[str]  # files and folders in the chain's folder
    commands: Callable[[pathlib.Path], List[List[str]]]
    appears: bool  # a complete output appears at once, and its command is not repeated
    digests: Callable[[pathlib.Path], Dict[str, str]]  # of what must be equal, by name


def python(program: str, *arguments) -> List[str]:
    return [sys.executable, program, *arguments]


def sample_data(folder) -> List[List[str]]:
    return [python("data/make_sample_data.py", "--size=0.2", f"--output_dir={folder}/demo")]


def datasets(folder) -> List[List[str]]:
    return [python("build_pretraining_dataset.py", f"--corpus_dir={folder}/demo/corpus",
                   f"--vocab_file={folder}/demo/vocab.txt", f"--output_dir={folder}/seq_{length}",
                   f"--max_seq_length={length}", "--num_out_files=2", "--num_processes=2", "--eval_fraction=0.1")
            for length in LENGTHS.values()]


def pretraining(folder) -> List[List[str]]:
    words = ["--electra_model=tiny", f"--model_config={json.dumps(MODEL)}", "--model_name=run",
             f"--results_dir={folder}/results", "--save_checkpoint_steps=5", "--eval_freq=10", "--num_eval_steps=2",
             "--keep_checkpoint_max=2", "--log_freq=5", "--resume_training=auto"]
    for phase, length in LENGTHS.items():
        words += [f"--data_dir_p{phase}={folder}/seq_{length}", f"--max_seq_length_p{phase}={length}",
                  f"--train_steps_p{phase}={STEPS[phase]}", f"--warmup_steps_p{phase}=5",
                  f"--train_batch_size_p{phase}=4", f"--gradient_accumulation_steps_p{phase}=2"]
    return [["bash", "scripts/electra.sh", "cpu", *words]]


def evaluation(folder) -> List[List[str]]:
    return [python("run_pretraining.py", "--eval_only", f"--restore_checkpoint={folder}/results/models/run/checkpoints",
                   f"--eval_tfrecords={folder}/seq_{LENGTHS[2]}/eval", f"--max_seq_length={LENGTHS[2]}",
                   "--train_batch_size=4", "--num_eval_steps=4")]


def export(folder) -> List[List[str]]:
    return [python("postprocess_pretrained_ckpt.py", f"--output_dir={folder}/export",
                   f"--pretrained_checkpoint={folder}/results/models/run/checkpoints/ckpt-p2-{STEPS[2]}")]


def sweep(folder) -> List[List[str]]:
    """Of the last checkpoint alone, which is copied to a folder of its own."""
    alone = folder / "final" / "checkpoints"
    if not alone.exists():
        run = folder / "results" / "models" / "run"
        alone.mkdir(parents=True)
        for file in [*run.glob("*.*"), *run.glob(f"checkpoints/ckpt-p2-{STEPS[2]}.*")]:
            if file.is_file():
                shutil.copy(file, alone if file.parent.name == "checkpoints" else alone.parent)
    return [["bash", "scripts/finetune_ckpts_on_squad.sh", f"--checkpoints={alone}", f"--out_dir={folder}/sweep",
             f"--squad_dir={folder}/demo/squad", f"--max_seq_length={LENGTHS[2]}", "--doc_stride=24", "--epochs=2",
             f"--length_buckets={LENGTHS[2]}", "--batch_size=8", "--infer_batch_size=16", "--log_freq=5",
             "--evaluate_during_training"]]


def classification(folder) -> List[List[str]]:
    return [["bash", "scripts/electra_tasks.sh", "cpu", "--task=classification", "--epochs=2", "--seeds=1,2",
             f"--train_file={folder}/demo/tasks/kinds-train.csv", f"--dev_file={folder}/demo/tasks/kinds-dev.csv",
             f"--init_checkpoint={folder}/results/models/run/checkpoints", f"--out_dir={folder}/task", "--eval_steps=5",
             f"--max_seq_length={LENGTHS[2]}", "--log_freq=5"]]


# --- What is compared ---


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def of_files(*folders: str) -> Callable:
    def digests(root: pathlib.Path) -> Dict[str, str]:
        return {str(path.relative_to(root)): sha(path.read_bytes())
                for folder in folders for path in sorted((root / folder).rglob("*")) if path.is_file()}
    return digests


def of_checkpoint(prefix: pathlib.Path) -> Dict[str, str]:
    """Every tensor of model and optimizer; nothing where there is no such checkpoint."""
    if not os.path.exists(f"{prefix}.index"):
        return {}
    reader = tf.train.load_checkpoint(str(prefix))
    return {f"{prefix.name}: {key}": sha(reader.get_tensor(key).tobytes())
            for key in reader.get_variable_to_shape_map() if key.startswith(("model/", "optimizer/"))}


def of_metrics(path: pathlib.Path) -> Dict[str, str]:
    """The held-out metrics of each step; one that was logged twice is a difference.

    Training lines are left out: they are averages over the updates since the line before, which a kill shortens.
    """
    lines = collections.defaultdict(list)
    for entry in run_log.read_metrics_log(str(path)):
        if entry["kind"] == "eval":
            lines[f"{path.name}: held out at {entry['step']}"].append(entry)
    return {name: sha(json.dumps(entries, sort_keys=True).encode()) for name, entries in lines.items()}


def of_pretraining(root: pathlib.Path) -> Dict[str, str]:
    run, digests = root / "results" / "models" / "run", {}
    for phase, name in ((1, f"ckpt-{STEPS[1]}"), (2, f"ckpt-p2-{STEPS[2]}")):
        digests.update(of_checkpoint(run / "checkpoints" / name))
        digests.update(of_metrics(run / "logs" / f"pretraining_phase{phase}.jsonl"))
    return digests


def of_evaluation(root: pathlib.Path) -> Dict[str, str]:
    """The last line of the output, which is JSON."""
    return {"metrics": sha((root / "output.txt").read_text().strip().splitlines()[-1].encode())}


def of_sweep(root: pathlib.Path) -> Dict[str, str]:
    digests = {}
    for folder in (root / "sweep").glob("*/seed-*"):
        for name in ("predictions.json", "nbest_predictions.json"):
            digests[name] = sha((folder / name).read_bytes())
        for index in (folder / "checkpoints").glob("ckpt-*.index"):
            digests.update(of_checkpoint(index.with_suffix("")))
        digests.update(of_metrics(folder / "logs" / "squad.jsonl"))
        results = json.loads((folder / "results.json").read_text())
        digests["scores"] = str((results["exact_match"], results["f1"]))
    return {**digests, **of_files("sweep/final-ckpt-p2-40/exported")(root)}


def of_classification(root: pathlib.Path) -> Dict[str, str]:
    digests = {}
    for folder in sorted((root / "task").glob("seed-*")):
        found = {"predictions": sha((folder / "predictions_dev.jsonl").read_bytes()),
                 **of_metrics(folder / "logs" / "tasks.jsonl")}
        for index in (folder / "checkpoints").glob("ckpt-*.index"):
            found.update(of_checkpoint(index.with_suffix("")))
        digests.update({f"{folder.name}: {name}": digest for name, digest in found.items()})
    return {**digests, "scores": sha((root / "task" / "results.json").read_bytes())}


STAGES = [Stage("sample data", ["demo"], sample_data, True, of_files("demo")),
          Stage("datasets", [f"seq_{length}" for length in LENGTHS.values()], datasets, True,
                of_files(*(f"seq_{length}" for length in LENGTHS.values()))),
          Stage("pre-training", ["results"], pretraining, False, of_pretraining),
          Stage("evaluation", ["output.txt"], evaluation, False, of_evaluation),
          Stage("export", ["export"], export, True, of_files("export")),
          Stage("sweep", ["final", "sweep"], sweep, False, of_sweep),
          Stage("classification", ["task"], classification, False, of_classification)]

# --- Killing ---


class Kill(NamedTuple):
    who: str  # everything, Python or wrapper
    delay: float  # seconds after the start


def processes(session: int) -> List[Tuple[int, str]]:
    """Process ids and names of a session."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (entry / "stat").read_text().partition(" (")[2].rpartition(")")
            if int(rest.split()[3]) == session and rest.split()[0] != "Z":
                found.append((int(entry.name), name))
        except (OSError, IndexError, ValueError):  # it has just ended
            continue
    return found


def run(command: List[str], folder: pathlib.Path, generator: random.Random, kill: Optional[Kill] = None
        ) -> Tuple[int, bool]:
    """Runs a command in a session of its own. Returns: its exit status, and whether it was killed in time."""
    environment = {**os.environ, "PYTHON": sys.executable, "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    if kill is None:
        return process.wait(), False
    try:
        return process.wait(kill.delay), False
    except subprocess.TimeoutExpired:
        pass
    pythons = [pid for pid, name in processes(process.pid) if name.startswith("python") and pid != process.pid]
    if kill.who == "Python" and pythons:
        victims = [generator.choice(sorted(pythons))]
    elif kill.who == "wrapper" and command[0] == "bash":
        victims = [process.pid]
    else:
        victims = [pid for pid, _ in processes(process.pid)]
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return process.wait(), True


# --- Rounds ---


class Round(NamedTuple):
    """One row of the table."""

    number: int
    stage: str
    kills: List[str]  # who, when, and the last line of output before it
    starts: int
    compared: int
    lost: List[str]  # names of what is missing or different, or what failed
    seconds: float


def last_line(folder: pathlib.Path) -> str:
    text = (folder / "output.txt").read_text(errors="replace").replace("\r", "\n").strip()
    return text.splitlines()[-1][:60] if text else "no output yet"


def finish(stage: Stage, folder: pathlib.Path, generator: random.Random, planned: List[Kill]
           ) -> Tuple[List[str], int, Optional[str]]:
    """Starts the commands of a stage until each has ended with 0. Returns: the kills, starts, and a failure or None."""
    kills, starts, left = [], 0, list(planned)
    commands = stage.commands(folder)
    for number, command in enumerate(commands):
        output = folder / stage.outputs[number if stage.appears else 0]
        while True:
            kill = left[0] if left else None
            starts += 1
            status, killed = run(command, folder, generator, kill)
            if killed:
                left.pop(0)
                kills.append(f"{kill.who} after {kill.delay:.2f} s ({last_line(folder)})")
                if stage.appears and output.exists():
                    break
            elif status == 0:
                if kill:  # it ended before its time
                    left[0] = kill._replace(delay=kill.delay * generator.random())
                break
            else:
                return kills, starts, f"status {status}: {last_line(folder)}"
            if starts == STARTS:
                return kills, starts, "it never ended with 0"
    return kills, starts, None


def make_round(number: int, seed: int, folder: pathlib.Path, reference: dict, only: Optional[str] = None) -> Round:
    generator, began = random.Random(f"{seed}/{number}"), time.monotonic()
    durations = reference["seconds"]
    least = sum(durations.values()) / 20  # short stages have their share
    drawn = [stage for stage in STAGES if only in (None, stage.name)]
    stage = generator.choices(drawn, [max(least, durations[stage.name]) for stage in drawn])[0]
    chain = folder / "run"
    for _ in range(5):
        shutil.rmtree(chain, ignore_errors=True)
        chain.mkdir()
        for before in STAGES[:STAGES.index(stage)]:
            for name in before.outputs:
                source = folder / "reference" / name
                (shutil.copytree if source.is_dir() else shutil.copy)(source, chain / name)
        planned = [Kill(generator.choice(["everything", "everything", "Python", "wrapper"]),
                        generator.uniform(0, durations[stage.name])) for _ in range(generator.choice([1, 2]))]
        started = time.monotonic()
        kills, starts, failure = finish(stage, chain, generator, planned)
        if kills or failure:
            break
        durations[stage.name] = time.monotonic() - started  # it ended before the kill: the machine is faster now
    expected = reference["digests"][stage.name]
    actual = {} if failure else stage.digests(chain)
    lost = [failure] if failure else sorted(name for name in {**expected, **actual}
                                            if expected.get(name) != actual.get(name))
    return Round(number, stage.name, kills, starts, len(expected), lost, round(time.monotonic() - began, 1))


def make_reference(folder: pathlib.Path) -> dict:
    """Runs the chain undisturbed, in the folder of the rounds: paths are part of what is saved."""
    chain, seconds, digests = folder / "run", {}, {}
    shutil.rmtree(chain, ignore_errors=True)
    chain.mkdir(parents=True)
    for stage in tqdm(STAGES, desc="undisturbed chain", unit="stage"):
        began = time.monotonic()
        _, _, failure = finish(stage, chain, random.Random(0), [])
        if failure:
            sys.exit(f"the undisturbed {stage.name} failed ({failure}); its output is in {chain}/output.txt")
        seconds[stage.name] = time.monotonic() - began
        digests[stage.name] = stage.digests(chain)
    shutil.rmtree(folder / "reference", ignore_errors=True)
    os.rename(chain, folder / "reference")
    return {"seconds": seconds, "digests": digests}


def code_version() -> str:
    """Of the repository's programs and TensorFlow."""
    programs = sorted(path for pattern in ("*.py", "scripts/*.sh", "scripts/*.py", "data/*.py")
                      for path in ROOT.glob(pattern))
    return sha(b"".join([tf.__version__.encode(), *(path.read_bytes() for path in programs)]))


def table(rounds: List[Round]) -> str:
    lines = []
    for row in rounds:
        lost = f"LOST {', '.join(row.lost[:3])}" if row.lost else "nothing lost"
        lines.append(f"{row.number:4}  {row.stage:12}  {row.starts} starts  {row.seconds:5.1f} s  {lost:12}  "
                     f"{'; '.join(row.kills) or 'ended before the kill'}")
    kills = sum(len(row.kills) for row in rounds)
    lines.append(f"{len(rounds)} rounds, {kills} kills, {sum(row.compared for row in rounds)} comparisons: "
                 f"{sum(bool(row.lost) for row in rounds)} rounds lost something.")
    for stage in STAGES:
        rows = [row for row in rounds if row.stage == stage.name]
        lines.append(f"  {stage.name:12}  {len(rows):3} rounds, {sum(len(row.kills) for row in rows):3} kills, "
                     f"{sum(bool(row.lost) for row in rows)} lost")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="number of rounds (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random moments (default 1)")
    parser.add_argument("--stage", choices=[stage.name for stage in STAGES], help="kill in this stage alone")
    parser.add_argument("--folder", default=str(ROOT / "build" / "crashes"), help="working folder")
    arguments = parser.parse_args()
    folder = pathlib.Path(arguments.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    state_file, key = folder / "state.json", [arguments.seed, arguments.stage, code_version()]
    state = json.loads(state_file.read_text()) if state_file.exists() else {}
    if state.get("key") != key:
        state = {"key": key, "reference": make_reference(folder), "rounds": []}
        files.write_json(str(state_file), state)
    rounds = [Round(*row) for row in state["rounds"]]
    for number in tqdm(range(len(rounds) + 1, arguments.rounds + 1), desc="rounds", unit="round",
                       initial=len(rounds), total=max(len(rounds), arguments.rounds)):
        rounds.append(make_round(number, arguments.seed, folder, state["reference"], arguments.stage))
        files.write_json(str(state_file), {**state, "rounds": rounds})
        if rounds[-1].lost:
            shutil.rmtree(folder / f"lost-{number}", ignore_errors=True)
            os.rename(folder / "run", folder / f"lost-{number}")
            tqdm.write(f"round {number} lost {', '.join(rounds[-1].lost[:3])}: see {folder}/lost-{number}")
    print(table(rounds[:arguments.rounds]))
    return 1 if any(row.lost for row in rounds[:arguments.rounds]) else 0


if __name__ == "__main__":
    sys.exit(main())
