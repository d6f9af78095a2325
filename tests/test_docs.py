"""README.md and docs/: every command is valid, every link, file and flag exists.

Each block of bash, and each inline command, runs in bash in an empty folder where PATH holds nothing but recorders:
stand-ins that write down how they were called. So loops and variables of a block count as a reader would run them, and
a command without a recorder ends the block. Every recorded call is then checked by the program itself: a wrapper prints
its commands (--dry_run), and a Python command line is parsed by the command's own configuration class.

What the commands do is tested elsewhere, in short forms: test_run_pretraining.py and test_squad_scripts.py train,
resume, evaluate, fine-tune and sweep; test_build_pretraining_dataset.py and test_make_sample_data.py make data;
test_run_inference.py answers; test_postprocess_pretrained_ckpt.py exports; test_launch.py starts several workers.
"""
from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys

import pytest
from support import ROOT, Clone, commands, make_folder, write_executable

import command_line
import configuration
from electra_config import GENERATOR_FRACTIONS, SIZES

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WRAPPERS = ("electra.sh", "electra_squad.sh", "electra_tasks.sh", "finetune_ckpts_on_squad.sh",
            "benchmark_pretraining.sh", "benchmark_squad.sh", "../data/create_datasets_from_start.sh")

# --- What the pages hold ---

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:bash scripts/|python3? |mpirun )[^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BANNED = re.compile(r"\b(the ancestor|mend|cannot be had|is told|what was asked|goes on|begins anew)\b", re.IGNORECASE)


def name_of(page) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page) -> str:
    """The page without its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def shell_texts():
    """(place, text) of every block of bash and every inline command."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match[1] == "bash":
                yield pytest.param(match[2], id=f"{name_of(page)}:{text.count(chr(10), 0, match.start()) + 1}")
        for command in dict.fromkeys(INLINE.findall(prose(page))):
            yield pytest.param(command, id=f"{name_of(page)}: {command}")


def section(page: str, heading: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def first_cells(table: str):
    """What the first cell of each row holds between backticks."""
    return [name for line in table.splitlines() if line.startswith("| `")
            for name in re.findall("`([^`]+)`", line.split("|")[1])]


# --- Recording ---

RECORDED = ("bash", "python", "python3", "python3.8", "python3.11", "pip", "mpirun", "srun", "tensorboard")
RECORDER = """#!{bash}
printf '%s\\0' "${{checkpoints-}}" "${{0##*/}}" "$@" $'\\036' >>"{calls}"
if [[ "$1 $2" == "-m venv" ]]; then
  {mkdir} -p "$3/bin"
  for name in python pip; do {cp} "{folder}/bin/python" "$3/bin/$name"; done
fi
"""


def record(text: str, folder):
    """The calls of a block: the variable `checkpoints` and the words of each."""
    tools = {tool: shutil.which(tool) for tool in ("bash", "mkdir", "cp")}
    calls = folder / "calls"
    recorder = RECORDER.format(calls=calls, folder=folder, **tools)
    for name in RECORDED:
        write_executable(folder / "bin" / name, recorder)
    write_executable(folder / "work" / ".venv" / "bin" / "python", recorder)
    (folder / "work" / ".venv" / "bin" / "activate").write_text("")
    text = text.replace("/usr/bin/", "")  # a real Python there must not run
    result = subprocess.run([tools["bash"], "-euo", "pipefail", "-c", text], cwd=folder / "work", text=True,
                            capture_output=True, env={"PATH": str(folder / "bin")})
    assert result.returncode == 0 and not result.stderr, result.stderr
    assert calls.exists(), "no command"
    for call in calls.read_text().split("\036\0")[:-1]:
        checkpoints, *words = call.split("\0")[:-1]
        yield checkpoints, words


# --- Checking ---

CONFIGURATIONS = {
    "run_pretraining.py": "PretrainingConfig", "run_tf_squad.py": "SquadConfig",
    "run_tf_tasks.py": "TaskConfig", "run_inference.py": "InferenceConfig",
    "postprocess_pretrained_ckpt.py": "ExportConfig", "build_pretraining_dataset.py": "BuildConfig",
    "data/build_vocab.py": "VocabConfig", "data/make_sample_data.py": "SampleDataConfig",
    "data/prepare_corpus.py": "PrepareConfig", "data/download.py": "DownloadConfig",
    "scripts/sweep_squad.py": "SweepConfig", "scripts/benchmark.py": "BenchmarkConfig",
    "estimate.py": "EstimateConfig", "analysis.py": "AnalysisConfig", "report.py": "ReportConfig",
    "scripts/check_weights.py": "CheckConfig", "scripts/check_squad.py": "CheckConfig",
    "scripts/check_vocabularies.py": "CheckConfig", "scripts/check_objective.py": "CheckConfig"}


@pytest.fixture(scope="module")
def wrappers(tmp_path_factory):
    """A clone where wrappers can be dry-run. Its Horovod loads at once, since a dry run looks for one too."""
    folder = tmp_path_factory.mktemp("docs")
    clone = Clone(make_folder(folder / "clone"))
    fake = folder / "python" / "horovod"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("")
    (fake / "tensorflow.py").write_text("def mpi_built():\n    return False\n")
    # The data that the pages name is not here, so it cannot be checked.
    python = write_executable(folder / "python_without_checks", f"""#!/usr/bin/env bash
[[ $* != *--check_only* ]] || exit 0
exec {sys.executable} "$@"
""")
    clone.environment.update(PYTHON=python, PYTHONPATH=str(fake.parent))
    (clone.folder / "hosts").write_text("".join(f"node{number} slots=8\n" for number in range(1, 5)))
    return clone


def load(script: str):
    """The module of a Python command."""
    for folder in (ROOT / "data", ROOT / "scripts"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return importlib.import_module(script.rpartition("/")[2][:-len(".py")])


def parse(script: str, words):
    module = load(script)
    config_class = getattr(module, CONFIGURATIONS[script])
    words = words[:words.index("--")] if "--" in words else words
    if script == "report.py":  # which takes folders beside its options
        return command_line.parse_with_arguments(config_class, [script, *words], module.__doc__, "RUN")
    return command_line.parse(config_class, [script, *words], module.__doc__, getattr(module, "OLD_NAMES", None))


def check(checkpoints: str, words, wrappers):
    """Fails unless the command is valid."""
    program, *rest = words
    if program in ("mpirun", "srun"):
        assert rest[0] == {"mpirun": "-np", "srun": "-n"}[program] and rest[1].isdigit(), words
        check(checkpoints, rest[2:], wrappers)
    elif program == "bash":
        check_script(checkpoints, rest[0], rest[1:], wrappers)
    elif program.startswith("python") and rest[:2] == ["-m", "pip"]:
        check(checkpoints, ["pip", *rest[2:]], wrappers)
    elif program.startswith("python") and rest[:2] == ["-m", "venv"]:
        assert len(rest) == 3, words
    elif program.startswith("python"):
        check_python(rest[0], rest[1:])
    elif program == "pip":
        assert rest[:2] == ["install", "-r"] and len(rest) == 3 and (ROOT / rest[2]).is_file(), words
    elif program == "tensorboard":
        assert len(rest) == 1 and rest[0].startswith("--logdir="), words
    else:
        pytest.fail(f"no check is known for {words}")


def check_script(checkpoints: str, script: str, words, wrappers):
    folder, _, name = script.rpartition("/")
    assert folder == "scripts" or script == "data/create_datasets_from_start.sh", script
    if folder == "data":
        name = f"../{script}"
        if words[:1] == ["corpus"]:
            (wrappers.folder / words[1]).mkdir(exist_ok=True)
    if name == "test.sh":
        assert all((ROOT / word).is_file() for word in words), words
    elif name == "install_horovod.sh":
        assert set(words) <= {"cpu", "gpu", "hpu", "--rebuild"}, words
        assert wrappers.call(*words, "--help", wrapper=name).returncode == 0
    elif name in WRAPPERS:
        for word in words:
            if word.startswith(("--squad_dir=", "--data_dir_p")):
                for part in word.partition("=")[2].split(","):
                    (wrappers.folder / re.sub(":[0-9.]+$", "", part)).mkdir(parents=True, exist_ok=True)  # wiki:0.7
            if word.startswith("--corpus_dir="):
                (wrappers.folder / word.partition("=")[2]).mkdir(parents=True, exist_ok=True)
                (wrappers.folder / word.partition("=")[2] / "a.txt").write_text("A sentence.\n")
            if word == "--phase=2":  # phase 1 has been run
                (wrappers.folder / "results/models/base/checkpoints").mkdir(parents=True, exist_ok=True)
                (wrappers.folder / "results/models/base/checkpoints/ckpt-1.index").write_text("")
        result = wrappers.call(*words, *([] if "--help" in words else ["--dry_run=true"]), wrapper=name,
                               **({"checkpoints": checkpoints} if checkpoints else {}))
        printed = commands(result)
        assert printed or "--help" in words, result.stdout
        for command in printed:
            script = next(word for word in command if word in CONFIGURATIONS)
            parse(script, command[command.index(script) + 1:])
    else:
        pytest.fail(f"no check is known for {script}")


def check_python(script: str, words):
    if script in CONFIGURATIONS:
        if "--help" in words:
            with pytest.raises(SystemExit) as ended:
                parse(script, words)
            assert ended.value.code == 0
        else:
            parse(script, words)
    elif script == "scripts/matrix.py":
        result = subprocess.run([sys.executable, script, *words, "--list"], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    elif script == "scripts/check_resume.py":
        assert not words, words  # its one option is for repeating a run
        assert (ROOT / script).is_file()
    elif script == "scripts/check_crashes.py":
        assert all(re.fullmatch("--(rounds|seed)=[0-9]+", word) for word in words), words
        assert (ROOT / script).is_file()
    elif script == "scripts/check_bad_input.py":
        known = "--(seed|inputs|jobs)=[0-9]+|--quick|--only=[a-z_.,0-9]+"
        assert all(re.fullmatch(known, word) for word in words), words
        assert (ROOT / script).is_file()
    else:
        pytest.fail(f"no check is known for {script}")


# --- Tests ---

@pytest.mark.parametrize("text", list(shell_texts()))
def test_every_command_is_valid(text, tmp_path, wrappers):
    for checkpoints, words in record(text, tmp_path):
        check(checkpoints, words, wrappers)


@pytest.mark.parametrize("text", ["rm -r results", "python run_pretraining.py --pretrain_tfrecord=DIR",
                                  "bash scripts/electra.sh cpu --train_step_p1=3", "python scripts/other.py",
                                  "bash scripts/electra.sh cpu --train_batch_size_p1=two",
                                  "bash scripts/electra_squad.sh cpu --squad_version=3.0", "pip install tensorflow",
                                  "bash scripts/install_horovod.sh tpu", "python3 scripts/matrix.py 1.15", "files=3"])
def test_a_command_that_is_invalid_or_unknown_fails(text, tmp_path, wrappers):
    with pytest.raises((AssertionError, pytest.fail.Exception, configuration.UserError)):
        for checkpoints, words in record(text, tmp_path):
            check(checkpoints, words, wrappers)


def wrapper_options(wrappers, wrapper):
    """name -> default, from --help."""
    result = wrappers.call("--help", wrapper=wrapper)
    return dict(re.findall(r"^ {1,5}(?:\d+  )?--(\w+)=?(\S*)", result.stdout, flags=re.MULTILINE))


def test_every_flag_in_the_text_exists(wrappers):
    known = {"help", "rebuild", "fast", "list", "signal", "mpi"}  # the last two are Slurm's
    for script in CONFIGURATIONS:
        kinds = configuration.kinds_of(getattr(load(script), CONFIGURATIONS[script]))
        known |= {*kinds, *(f"no{name}" for name, kind in kinds.items() if kind is bool)}
    known |= set(load("run_pretraining.py").OLD_NAMES)
    for wrapper in WRAPPERS:
        known |= set(wrapper_options(wrappers, wrapper))
    known.add("num_hpu")  # an old name of num_workers
    for page in PAGES:
        unknown = set(re.findall(r"(?<![\w-])--(\w+)", prose(page))) - known
        assert not unknown, f"{name_of(page)}: {unknown}"


def test_the_table_of_pretraining_options_has_the_defaults_of_the_wrapper(wrappers):
    options = wrapper_options(wrappers, "electra.sh")
    words = {"none": {"None", ""}, "the size": {""}, "sample data": {"DATASET_P1", "DATASET_P2"}}
    rows = [line.split("|") for line in section("docs/pretraining.md", "Options").splitlines()
            if line.startswith("| `")]
    assert len(rows) >= 20
    for _, names, default, *_ in rows:
        for name in re.findall("`([^`]+)`", names):
            assert options[name] in words.get(default.strip(), {default.strip()}), name


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_and_images_exist_and_no_banned_phrase_is_used(page):
    text = page.read_text(encoding="utf-8")
    assert not BANNED.findall(text)
    for target in LINK.findall(text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert file.suffix == ".md" or file.stat().st_size < 300_000, f"{target} is too large for a repository"
        if anchor:
            headings = re.findall("^#+ (.+)$", prose(file), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def test_every_page_is_linked_from_the_readme_which_stays_short():
    text = PAGES[0].read_text(encoding="utf-8")
    assert all(f"({name_of(page)})" in text for page in PAGES[1:])
    assert len(text.splitlines()) <= 180


def test_the_readme_lists_every_module_and_script():
    listed = first_cells(section("docs/architecture.md", "Where things are"))
    there = {path.relative_to(ROOT).as_posix() for pattern in ("*.py", "scripts/*.py", "scripts/*.sh", "data/*.*")
             for path in ROOT.glob(pattern)}
    assert len(listed) == len(set(listed))
    assert {name for name in listed if not name.endswith("/")} == there
    assert all((ROOT / name).is_dir() for name in listed if name.endswith("/"))


def test_imports_point_in_the_direction_that_the_architecture_page_says():
    block = BLOCK.search(section("docs/architecture.md", "Imports point one way"))[2]
    modules = {path.stem: path for path in ROOT.glob("*.py")}
    names = " ".join(line.partition("   ")[0] for line in block.splitlines()).split()  # without the description
    order = [name for name in names if name in modules]
    assert sorted(order) == sorted(modules)
    for name, path in modules.items():
        imported = {alias.name if isinstance(node, ast.Import) else node.module
                    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                    if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
        later = {other for other in imported & set(order) if order.index(other) >= order.index(name)}
        assert not later, f"{name} imports {later}"


def test_the_table_of_model_sizes_is_that_of_the_configuration():
    text = section("docs/pretraining.md", "Options")
    columns = re.search(r"^\| +\| (tiny .*) \|$", text, flags=re.MULTILINE)[1].split(" | ")
    assert columns == list(SIZES)
    fields = {"layers": "num_hidden_layers", "hidden size": "hidden_size", "attention heads": "num_attention_heads",
              "feed-forward size": "intermediate_size", "embedding size": "embedding_size"}
    for label, field in fields.items():
        assert f"| {label} | {' | '.join(str(size[field]) for size in SIZES.values())} |" in text
    widths = [f"1/{round(1 / fraction)}" for fraction in GENERATOR_FRACTIONS.values()]
    assert f"| generator width | {' | '.join(widths)} |" in text
