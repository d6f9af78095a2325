#!/usr/bin/env python3
"""Makes sample data: a corpus about an invented world, a vocabulary, questions in the SQuAD formats, and labelled text.

    python data/make_sample_data.py --output_dir=data/sample/demo --size=demo --seed=1
    python data/make_sample_data.py --output_dir=data/sample/20mb --size=20

Writes to <output_dir>, which appears when everything is complete and not before:
    corpus/part-*.txt         one sentence per line, an empty line after each document
    vocab.txt                 WordPiece, lower-cased; [PAD] [UNK] [CLS] [SEP] [MASK] are ids 0 to 4
    squad/{train,dev}-v1.1.json, squad/{train,dev}-v2.0.json
    tasks/kinds-{train,dev}.csv, tasks/names-{train,dev}.jsonl    for classification and for tagging
    manifest.json             seed, size, counts, and the accuracy of simple guessers at masked positions

The same size and seed give the same bytes, with the same version of the `tokenizers` library (it trains the
vocabulary). No network is used. Files beside this one:
    world/                    the lists and sentences that the texts are made of, to read and edit
    sample_templates.py       the template language of those sentences
    sample_world.py           provinces: their names and facts
    sample_documents.py       what documents say about them
    sample_tasks.py           the files of tasks/
    sample_guessers.py        the guessers: unigram, bigram, and an oracle that knows the grammar

Questions are about registers: documents that state the same few facts about five to seven people, towns, rivers, ships
or works. Each context holds several values of the right type, so a model has to read the question; values are drawn at
random, so it has to read the context. With --passages=gazetteers they are about documents on three to six things of
different kinds, where the type of the fact decides more often than the name: a two-layer model learns to read these in
minutes, while telling names apart takes it far longer. The corpus then contains many gazetteers, most with questions
and answers.

Every tenth province is held out: all dev questions are about these, and their names are made of words that no other
province can have. SQuAD 2.0 is 1.1 plus questions without an answer: about facts that the passage states of other
entities but not of this one (in a gazetteer: while it contains another value of that type). They are worded like
answerable questions of the same file.
"""
from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
import os
import random
import re
import signal
import string
import sys
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

import tokenizers
import tqdm

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]

import sample_guessers  # noqa: E402  (found through the line above)
import sample_tasks  # noqa: E402
from sample_documents import REGISTERS, Document, DocumentWriter, Passage  # noqa: E402
from sample_guessers import GUESSER_BYTES, SCORED_EVERY  # noqa: E402
from sample_templates import MARKS, capitalized  # noqa: E402
from sample_world import SLOT_POOLS, Province  # noqa: E402

import command_line  # noqa: E402
import configuration  # noqa: E402
import files  # noqa: E402
from configuration import UserError, option  # noqa: E402
from tokenization import SPECIAL_TOKENS, ElectraTokenizer  # noqa: E402

MEGABYTE = 1_000_000
DEMO_MEGABYTES = 4
SHARD_BYTES = 8 * MEGABYTE      # and at least MIN_SHARDS files
MIN_SHARDS = 4
PROVINCE_BYTES = 75_000         # roughly; only used to pace the questions
HELD_OUT_EVERY = 10
QUESTIONS_PER_PASSAGE = {"registers": 4, "gazetteers": 8}
GAZETTEERS = 60                 # per province, with --passages=gazetteers
UNITS = "miles|crowns|people|sailors"
SQUAD_FILES = ("train-v1.1.json", "dev-v1.1.json", "train-v2.0.json", "dev-v2.0.json")


@dataclasses.dataclass(frozen=True)
class SampleDataConfig:
    output_dir: Optional[str] = option(None, "folder to create, e.g. data/sample/demo")
    size: str = option("demo", "'demo' (4 MB, few questions) or the corpus in megabytes, 0.2 to 2000, e.g. 20")
    seed: int = option(1, "seed of the world and its texts", minimum=0, maximum=2**31 - 1)
    passages: str = option("registers", "what the questions are about: registers (several things of one kind) or "
                           "gazetteers (things of different kinds)", choices=("registers", "gazetteers"))
    overwrite: bool = option(False, "replace the sample data in --output_dir")

    def __post_init__(self):
        configuration.check_options(self)
        if not self.output_dir:
            raise UserError("--output_dir is missing: give a folder, e.g. data/sample/demo.")
        try:
            valid = self.size == "demo" or 0.2 <= float(self.size) <= 2000
        except ValueError:
            valid = False
        if not valid:
            raise UserError(f"--size={self.size} is neither 'demo' nor a number of megabytes from 0.2 to 2000.")

    @property
    def megabytes(self) -> float:
        return DEMO_MEGABYTES if self.size == "demo" else float(self.size)

    @property
    def num_questions(self) -> Dict[str, int]:
        """Answerable questions of each split: 75 per MB for the demo, else 150 (gazetteers: 400), at most 20,000
        (24,000); a tenth for dev. Gazetteers may give a few less, since short ones have fewer facts."""
        if self.size == "demo":
            return {"train": 300, "dev": 60}
        per_megabyte, most = (150, 20_000) if self.passages == "registers" else (400, 24_000)
        train = min(most, max(40, round(per_megabyte * self.megabytes)))
        return {"train": train, "dev": max(20, train // 10)}

    @property
    def vocab_size(self) -> int:
        return int(min(8000, 4000 + 50 * max(0.0, self.megabytes - 20)))


# --- Corpus ---

class Corpus(NamedTuple):
    """What is kept in memory of a corpus that has been written."""

    counts: Dict[str, int]
    contexts: Dict[str, List[Context]]           # by split
    scored: List[Document]                       # marked documents, for the guessers


class Context(NamedTuple):
    title: str
    text: str
    passage: Passage


def write_corpus(config: SampleDataConfig, folder: str) -> Corpus:
    """Writes corpus/part-*.txt up to the configured size, and picks the passages for questions on the way."""
    os.mkdir(os.path.join(folder, "corpus"))
    total = round(config.megabytes * MEGABYTE)
    shard_bytes = total / max(MIN_SHARDS, math.ceil(total / SHARD_BYTES))
    each = QUESTIONS_PER_PASSAGE[config.passages]
    pick = {"train": PassagePicker(config.num_questions["train"], each, total, 2 * PROVINCE_BYTES),
            "dev": PassagePicker(config.num_questions["dev"], each, total, HELD_OUT_EVERY * PROVINCE_BYTES)}
    counts, scored = collections.Counter(), []
    file = None
    bar = tqdm.tqdm(total=total, unit="B", unit_scale=True, desc="corpus", disable=None, mininterval=0.5)
    try:
        for held_out, province, document in _documents(config, counts):
            if counts["bytes"] >= shard_bytes * counts["files"]:
                if file:
                    file.close()
                file = open(os.path.join(folder, "corpus", f"part-{counts['files']:04d}.txt"), "w", encoding="utf-8")
                counts["files"] += 1
            if document.draws:
                scored.append(document)
                document = plain_document(document)
            text = "\n".join(document.sentences) + "\n\n"
            file.write(text)
            counts.update(documents=1, sentences=len(document.sentences), bytes=len(text))
            bar.update(len(text))
            if document.passage:
                context = Context(f"{config.passages.capitalize()} of {province}", " ".join(document.sentences),
                                  document.passage)
                pick["dev" if held_out else "train"].offer(context, counts["bytes"])
            if counts["bytes"] >= total:
                break
    finally:
        bar.close()
        if file:
            file.close()
    return Corpus(counts, {split: picker.contexts for split, picker in pick.items()}, scored)


def _documents(config: SampleDataConfig, counts) -> Iterator[Tuple[bool, str, Document]]:
    """Endlessly yields (held out, province, document); every tenth document of the first megabytes is marked."""
    def marked():
        return counts["documents"] % SCORED_EVERY == SCORED_EVERY - 1 and counts["bytes"] < GUESSER_BYTES

    while True:
        index = counts["provinces"]
        held_out = is_held_out(index)
        counts.update(provinces=1, held_out_provinces=int(held_out))
        province = Province(config.seed, index, held_out)
        writer = DocumentWriter(province, long_registers=config.megabytes >= 10,
                                gazetteers=GAZETTEERS if config.passages == "gazetteers" else 0)
        for document in writer.documents(marked):
            yield held_out, province.name, document


def is_held_out(province: int) -> bool:
    return province % HELD_OUT_EVERY == 1


class PassagePicker:
    """Picks passages at an even pace, so that questions come from the whole corpus."""

    def __init__(self, num_questions: int, each: int, total_bytes: int, ahead_bytes: int):
        self.num_questions, self.each = num_questions, each
        self.total_bytes, self.ahead_bytes = total_bytes, ahead_bytes
        self.contexts: List[Context] = []

    def offer(self, context: Context, written_bytes: int):
        due = self.num_questions * min(1.0, (written_bytes + self.ahead_bytes) / self.total_bytes)
        if self.each * len(self.contexts) < due:
            self.contexts.append(context)


def plain_document(document: Document) -> Document:
    """The same document without marks."""
    passage = document.passage
    if passage:
        passage = passage._replace(opening=MARKS.sub("", passage.opening),
                                   rows=[row._replace(text=MARKS.sub("", row.text)) for row in passage.rows])
    return Document([MARKS.sub("", sentence) for sentence in document.sentences], [], passage)


# --- Questions ---

class Question(NamedTuple):
    """`span` is the position of the answer in the context; without an answer, that of a plausible one."""

    context: Context
    kind: str  # of REGISTERS
    fact: str
    entity: str
    span: Tuple[int, int]


def ask(contexts: List[Context], num_answerable: int, each: int, rng: random.Random) -> Tuple[List[dict], List[dict]]:
    """Articles of SQuAD 1.1 and of 2.0 about `contexts`, up to `each` answerable questions about one.

    2.0 adds a third of `num_answerable` without an answer.
    """
    answerable, impossible = [], []
    for context in contexts:
        stated, unstated = possible_questions(context)
        answerable += rng.sample(stated, min(each, len(stated)))
        impossible += unstated
    del answerable[num_answerable:]
    entries = [(question, *_entry(question, rng.choice(_wordings(question)))) for question in answerable]
    used = collections.defaultdict(list)
    for question, wording, _ in entries:
        used[question.kind, question.fact].append(wording)
    # In proportion to the answerable ones about each fact, so that the fact does not give the answer away.
    rng.shuffle(impossible)
    wanted = {key: math.ceil(len(wordings) / 3) + 1 for key, wordings in used.items()}
    chosen = []
    for question in impossible:
        key = question.kind, question.fact
        if wanted.get(key):
            wanted[key] -= 1
            chosen.append((question, *_entry(question, rng.choice(used[key]), impossible=True)))
    del chosen[num_answerable // 3:]
    return _articles(contexts, entries, version_2=False), _articles(contexts, entries + chosen, version_2=True)


def possible_questions(context: Context) -> Tuple[List[Question], List[Question]]:
    """Questions about every stated fact of a context, and about every fact left out that is stated of others.

    In a register it must be stated of three others; a gazetteer must contain one value of the same type.
    """
    stated, unstated, start = [], [], len(context.passage.opening) + 1 if context.passage.opening else 0
    for row in context.passage.rows:
        for fact, value in row.stated.items():
            found = [match.start() for match in re.finditer(rf"\b{re.escape(value)}\b", row.text)]
            if len(found) == 1:
                span = start + found[0], start + found[0] + len(value)
                stated.append(Question(context, row.kind, fact, row.entity, span))
        start += len(row.text) + 1
    mixed = len({row.kind for row in context.passage.rows}) > 1
    rivals = collections.defaultdict(list)

    def value_type(fact):
        return SLOT_POOLS.get(fact, fact) if mixed else fact

    for question in stated:
        rivals[value_type(question.fact)].append(question.span)
    for position, row in enumerate(context.passage.rows):
        for fact in row.unstated:
            # "Ada married Bo" in Ada's row also says whom Bo married.
            named = any(row.entity == other.stated.get("spouse") for other in context.passage.rows)
            others = rivals[value_type(fact)]
            if len(others) >= (1 if mixed else 3) and not (fact == "spouse" and named):
                unstated.append(Question(context, row.kind, fact, row.entity, others[position % len(others)]))
    return stated, unstated


def _wordings(question: Question) -> Tuple[str, ...]:
    return REGISTERS[question.kind].facts[question.fact].questions


def _entry(question: Question, wording: str, impossible: bool = False) -> Tuple[str, dict]:
    """The wording, and the SQuAD 2.0 entry (1.1 lacks the keys `is_impossible` and `plausible_answers`)."""
    text = capitalized(wording.format(it=question.entity))
    context = question.context.text
    answers = [dict(text=context[start:end], answer_start=start)
               for start, end in ([question.span] if impossible else accepted_spans(context, *question.span))]
    identity = hashlib.sha1(f"{context}\n{text}\n{impossible}".encode()).hexdigest()[:24]
    entry = dict(id=identity, question=text, answers=answers, is_impossible=impossible)
    return wording, dict(entry, plausible_answers=answers, answers=[]) if impossible else entry


def accepted_spans(context: str, start: int, end: int) -> List[Tuple[int, int]]:
    """The span of the value, and of the value with its article or its unit if the text has them."""
    spans = [(start, end)]
    article = re.search(r"\b[Aa]n? $", context[:start])
    if article:
        spans.append((article.start(), end))
    unit = re.match(rf" (?:{UNITS})\b", context[end:])
    if unit:
        spans.append((start, end + unit.end()))
    return spans


def _articles(contexts: List[Context], entries, version_2: bool) -> List[dict]:
    """SQuAD's `data`: an article per province, a paragraph per context that has questions."""
    by_context = collections.defaultdict(list)
    for question, _, entry in entries:
        entry = entry if version_2 else {key: entry[key] for key in ("id", "question", "answers")}
        by_context[question.context.text].append(entry)
    articles: Dict[str, List[dict]] = {}
    for context in contexts:
        if context.text in by_context:
            articles.setdefault(context.title, []).append(dict(context=context.text, qas=by_context[context.text]))
    return [dict(title=title, paragraphs=paragraphs) for title, paragraphs in articles.items()]


def write_squad(config: SampleDataConfig, contexts: Dict[str, List[Context]], folder: str) -> Dict[str, int]:
    """Writes the four files; train lists one answer per question, dev all accepted ones. Returns questions per file."""
    os.mkdir(os.path.join(folder, "squad"))
    counts = {}
    for split in ("train", "dev"):
        rng = random.Random(f"{config.seed}/questions/{split}")
        for version, articles in zip(("1.1", "2.0"), ask(
                contexts[split], config.num_questions[split], QUESTIONS_PER_PASSAGE[config.passages], rng)):
            questions = [qa for article in articles for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
            if split == "train":
                for qa in questions:
                    qa["answers"] = qa["answers"][:1]
            name = f"{split}-v{version}.json"
            file_version = version if version == "1.1" else "v2.0"  # as in the official files
            files.write_text(os.path.join(folder, "squad", name),
                             json.dumps(dict(version=file_version, data=articles)) + "\n")
            counts[name] = len(questions)
    return counts


# --- Vocabulary ---

def train_vocabulary(corpus_dir: str, vocab_size: int) -> List[str]:
    """Trains a WordPiece vocabulary on all files of the corpus and returns the tokens in id order.

    The library numbers continuation characters (`##a`) in hash-table order and breaks ties between merges by number.
    Listing them with the special tokens fixes their numbers, and thus the vocabulary.
    """
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    characters = [f"##{character}" for character in string.digits + string.ascii_lowercase]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=[*SPECIAL_TOKENS, *characters], show_progress=False)
    backend.train([os.path.join(corpus_dir, name) for name in sorted(os.listdir(corpus_dir))], trainer)
    return sorted(backend.get_vocab(), key=backend.get_vocab().get)


# --- The command ---

def make_sample_data(config: SampleDataConfig) -> dict:
    """Creates the folder and returns its manifest. Raises: UserError: the folder cannot be created or replaced."""
    try:
        files.remove_leftovers(config.output_dir)
        refuse_foreign_folder(config.output_dir, config.overwrite)
        with files.new_folder(config.output_dir, replace=config.overwrite) as folder:
            return _build(config, folder)
    except OSError as error:
        raise UserError(f"--output_dir={config.output_dir} could not be written ({error.strerror or error}): choose "
                        "another folder.") from error


def _build(config: SampleDataConfig, folder: str) -> dict:
    corpus = write_corpus(config, folder)
    corpus_dir, vocab_file = os.path.join(folder, "corpus"), os.path.join(folder, "vocab.txt")
    questions = write_squad(config, corpus.contexts, folder)
    task_examples = sample_tasks.write(
        config.seed, {index: is_held_out(index) for index in range(corpus.counts["provinces"])}, folder)
    tokens = train_vocabulary(corpus_dir, config.vocab_size)
    files.write_text(vocab_file, "".join(token + "\n" for token in tokens))
    guessers = sample_guessers.score_guessers(corpus_dir, corpus.scored, ElectraTokenizer(vocab_file))
    manifest = dict(made_by="data/make_sample_data.py", size=config.size, seed=config.seed, passages=config.passages,
                    corpus=dict(corpus.counts), vocab_size=len(tokens), tokenizers_version=tokenizers.__version__,
                    squad_questions=questions, task_examples=task_examples, masked_piece_accuracy=guessers)
    files.write_json(os.path.join(folder, "manifest.json"), manifest)
    return manifest


def refuse_foreign_folder(folder: str, overwrite: bool):
    """Raises: UserError: `folder` exists, is not empty, and may not be overwritten or contains other files."""
    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder) or os.path.islink(folder):
        raise UserError(f"--output_dir={folder} is a file or a symbolic link, not a directory: choose another folder.")
    ours = re.compile(r"corpus/part-\d{4,}\.txt|squad/(?:" + "|".join(map(re.escape, SQUAD_FILES))
                      + r"|squad-[0-9a-f]{32}\.npz)"  # features of run_tf_squad.py
                      r"|tasks/(?:kinds-\w+\.csv|names-\w+\.jsonl)|vocab\.txt|manifest\.json")
    found = sorted(os.path.relpath(os.path.join(path, name), folder)
                   for path, _, names in os.walk(folder) for name in names)
    foreign = [name for name in found if not ours.fullmatch(name)]
    if foreign:
        raise UserError(f"--output_dir={folder} contains {foreign[0]}, which this command did not write: "
                        "choose another folder.")
    if os.listdir(folder) and not overwrite:
        raise UserError(f"--output_dir={folder} is not empty: choose another folder, or replace the sample data with "
                        "--overwrite.")


def report(manifest: dict) -> str:
    corpus, guessers = manifest["corpus"], manifest["masked_piece_accuracy"]
    rows = [("corpus", f"{corpus['bytes'] / MEGABYTE:.1f} MB, {corpus['documents']:,} documents, "
                       f"{corpus['sentences']:,} sentences, {corpus['files']} files"),
            ("provinces", f"{corpus['provinces']:,}, of which {corpus['held_out_provinces']:,} held out for dev"),
            ("vocabulary", f"{manifest['vocab_size']:,} WordPieces"),
            *((name, f"{count:,} questions") for name, count in manifest["squad_questions"].items()),
            *((name, f"{count:,} examples") for name, count in manifest["task_examples"].items()),
            *((f"{name} guesser", f"{guessers[name]:.1%} of masked pieces")
              for name in ("unigram", "bigram", "oracle"))]
    return "\n".join(f"{name:<18}{text}" for name, text in rows)


def main(argv) -> int:
    config = command_line.parse(SampleDataConfig, argv, __doc__)

    def stop(*_):
        raise configuration.Interrupted("stopped before the sample data was complete, and nothing was kept: run the "
                                        "command again.")

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with configuration.sole_user(config.output_dir, "choose another --output_dir", beside=True):
        print(report(make_sample_data(config)))
    return 0


if __name__ == "__main__":
    command_line.run_command(main)
