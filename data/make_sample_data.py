#!/usr/bin/env python3
"""Makes sample data: a corpus of an invented world, a vocabulary, and questions in the SQuAD formats.

    python data/make_sample_data.py --output_dir=data/sample/demo --size=demo --seed=1
    python data/make_sample_data.py --output_dir=data/sample/20mb --size=20

Writes to <output_dir>, which appears when everything is done and not before:
    corpus/part-*.txt         one sentence a line, an empty line after each document
    vocab.txt                 WordPiece, lower-cased; [PAD] [UNK] [CLS] [SEP] [MASK] are ids 0 to 4
    squad/{train,dev}-v1.1.json, squad/{train,dev}-v2.0.json
    manifest.json             seed, size, counts, and what simple guessers score at masked positions

The same size and seed give the same bytes, given the same version of the `tokenizers` library (it trains the
vocabulary). No network is used. The world and its language are in sample_world.py.

Questions ask about registers: documents that state the same few facts of five to seven people, towns, rivers, ships
or works. Several values of the right type stand in each context, so the question decides; values are drawn at random,
so the context decides. With --passages=gazetteers they ask about documents on three to six things of different kinds,
where what is asked decides more often than the name: a two-layer model learns to read these in minutes, while telling
names apart takes it far longer. The corpus then holds many of them, most with questions and answers.

Every tenth province is held out: dev questions come from these alone, and their names are made of words that no other
province can have. SQuAD 2.0 is 1.1 plus questions on facts that the passage leaves out of one entity and states of
others (of a gazetteer: while another value of that sort stands there), worded as questions of the same file that have
an answer.

Guessers. The score is the accuracy of the best single guess for one masked WordPiece. Unigram guesses the most frequent
piece, bigram the most frequent follower of the piece before; both are counted on nine documents in ten, in the first
8 MB, and all three are scored on the tenth document. The oracle knows the grammar, the province and every draw
but the masked one. It is an upper bound: a piece counts as certain (1.0) unless it belongs to a single word drawn from
a list; then it counts as the share of its likeliest value among the words of that list that agree with the other
pieces of the word, and with "a" or "an" before it. Values (names, years, numbers, trades) whose word shows again in
the document are certain, and a year is taken as known to 20 years, a quantity to 20% or 10.
"""
from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import string
import sys
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tokenizers
import tqdm

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]

import sample_world  # noqa: E402  (found through the line above)

import configuration  # noqa: E402
import files  # noqa: E402
from configuration import UserError, option  # noqa: E402
from tokenization import SPECIAL_TOKENS, ElectraTokenizer  # noqa: E402

MEGABYTE = 1_000_000
DEMO_MEGABYTES = 4
SHARD_BYTES = 8 * MEGABYTE      # and at least MIN_SHARDS files
MIN_SHARDS = 4
PROVINCE_BYTES = 75_000         # roughly; used for pacing the questions only
HELD_OUT_EVERY = 10
QUESTIONS_PER_PASSAGE = {"registers": 4, "gazetteers": 8}
GAZETTEERS = 60                 # of a province, with --passages=gazetteers
GUESSER_BYTES = 8 * MEGABYTE    # guessers look at no more than this
SCORED_EVERY = 10
MARKS = re.compile(f"([{chr(sample_world.MARK)}-{chr(sample_world.MARK + sample_world.MAX_MARKS - 1)}])")
UNITS = "miles|crowns|people|sailors"
SQUAD_FILES = ("train-v1.1.json", "dev-v1.1.json", "train-v2.0.json", "dev-v2.0.json")


@dataclasses.dataclass(frozen=True)
class SampleDataConfig:
    output_dir: Optional[str] = option(None, "folder to make, e.g. data/sample/demo")
    size: str = option("demo", "'demo' (4 MB, few questions) or the corpus in megabytes, 0.2 to 2000, e.g. 20")
    seed: int = option(1, "seed of the world and its texts", minimum=0, maximum=2**31 - 1)
    passages: str = option("registers", "what is asked about: registers (several things of one kind) or gazetteers "
                           "(things of different kinds)", choices=("registers", "gazetteers"))
    overwrite: bool = option(False, "replace what an earlier run of this command left in --output_dir")

    def __post_init__(self):
        configuration.check_options(self)
        if not self.output_dir:
            raise UserError("--output_dir is missing: name the folder to make, e.g. data/sample/demo.")
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
        """Answerable questions of each split: 75 per MB for the demo, else 150 (of gazetteers 400), and at most 20,000
        (24,000); a tenth for dev. Of gazetteers a few less, since short ones have fewer facts."""
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
    """What is kept of a corpus once it is on disk."""

    counts: Dict[str, int]
    contexts: Dict[str, List[Context]]           # by split
    scored: List[sample_world.Document]          # marked documents, for the guessers


class Context(NamedTuple):
    title: str
    text: str
    passage: sample_world.Passage


def write_corpus(config: SampleDataConfig, folder: str) -> Corpus:
    """Writes corpus/part-*.txt until the size is reached, and picks the passages to ask about on the way."""
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


def _documents(config: SampleDataConfig, counts) -> Iterator[Tuple[bool, str, sample_world.Document]]:
    """Documents of one province after another without end; every tenth one of the first megabytes is marked."""
    def marked():
        return counts["documents"] % SCORED_EVERY == SCORED_EVERY - 1 and counts["bytes"] < GUESSER_BYTES

    while True:
        index = counts["provinces"]
        held_out = index % HELD_OUT_EVERY == 1
        counts.update(provinces=1, held_out_provinces=int(held_out))
        province = sample_world.Province(config.seed, index, held_out, long_registers=config.megabytes >= 10,
                                         gazetteers=GAZETTEERS if config.passages == "gazetteers" else 0)
        for document in province.documents(marked):
            yield held_out, province.name, document


class PassagePicker:
    """Takes passages at an even pace, so that questions come from the whole corpus."""

    def __init__(self, num_questions: int, each: int, total_bytes: int, ahead_bytes: int):
        self.num_questions, self.each = num_questions, each
        self.total_bytes, self.ahead_bytes = total_bytes, ahead_bytes
        self.contexts: List[Context] = []

    def offer(self, context: Context, written_bytes: int):
        due = self.num_questions * min(1.0, (written_bytes + self.ahead_bytes) / self.total_bytes)
        if self.each * len(self.contexts) < due:
            self.contexts.append(context)


def plain_document(document: sample_world.Document) -> sample_world.Document:
    """The same document without marks."""
    passage = document.passage
    if passage:
        passage = passage._replace(opening=MARKS.sub("", passage.opening),
                                   rows=[row._replace(text=MARKS.sub("", row.text)) for row in passage.rows])
    return sample_world.Document([MARKS.sub("", sentence) for sentence in document.sentences], [], passage)


# --- Questions ---

class Question(NamedTuple):
    """`span` is the answer's place in the context, of a question without answer a plausible one's."""

    context: Context
    kind: str  # of REGISTERS
    fact: str
    entity: str
    span: Tuple[int, int]


def ask(contexts: List[Context], num_answerable: int, each: int, rng: random.Random) -> Tuple[List[dict], List[dict]]:
    """Articles of SQuAD 1.1 and of 2.0 on `contexts`, up to `each` questions on one.

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
    # As many of each fact as its share of the answerable ones, so that a fact's name says nothing.
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
    """Every stated fact of a context with the place of its value, and every fact left out that others have.

    Of a register three others must have it; of a gazetteer one value of its sort must stand there.
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

    def sort(fact):
        return sample_world.SLOT_POOLS.get(fact, fact) if mixed else fact

    for question in stated:
        rivals[sort(question.fact)].append(question.span)
    for position, row in enumerate(context.passage.rows):
        for fact in row.unstated:
            # "Ada married Bo" in Ada's row also answers whom Bo married.
            named = any(row.entity == other.stated.get("spouse") for other in context.passage.rows)
            others = rivals[sort(fact)]
            if len(others) >= (1 if mixed else 3) and not (fact == "spouse" and named):
                unstated.append(Question(context, row.kind, fact, row.entity, others[position % len(others)]))
    return stated, unstated


def _wordings(question: Question) -> Tuple[str, ...]:
    return sample_world.REGISTERS[question.kind].facts[question.fact].questions


def _entry(question: Question, wording: str, impossible: bool = False) -> Tuple[str, dict]:
    """The wording, and a question of SQuAD 2.0 (1.1 lacks the keys `is_impossible` and `plausible_answers`)."""
    text = wording.format(it=question.entity)
    text = text[0].upper() + text[1:]
    context = question.context.text
    answers = [dict(text=context[start:end], answer_start=start)
               for start, end in ([question.span] if impossible else accepted_spans(context, *question.span))]
    identity = hashlib.sha1(f"{context}\n{text}\n{impossible}".encode()).hexdigest()[:24]
    entry = dict(id=identity, question=text, answers=answers, is_impossible=impossible)
    return wording, dict(entry, plausible_answers=answers, answers=[]) if impossible else entry


def accepted_spans(context: str, start: int, end: int) -> List[Tuple[int, int]]:
    """The value's span, and where the text has them the value with its article or with its unit."""
    spans = [(start, end)]
    article = re.search(r"\b[Aa]n? $", context[:start])
    if article:
        spans.append((article.start(), end))
    unit = re.match(rf" (?:{UNITS})\b", context[end:])
    if unit:
        spans.append((start, end + unit.end()))
    return spans


def _articles(contexts: List[Context], entries, version_2: bool) -> List[dict]:
    """SQuAD's `data`: an article a province, a paragraph a context that is asked about."""
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
    """Writes the four files; train accepts one answer, dev all. Returns questions per file."""
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
            file_version = version if version == "1.1" else "v2.0"  # as the official files have it
            files.write_text(os.path.join(folder, "squad", name),
                                     json.dumps(dict(version=file_version, data=articles)) + "\n")
            counts[name] = len(questions)
    return counts


# --- Vocabulary ---

def train_vocabulary(corpus_dir: str, vocab_size: int) -> List[str]:
    """Trains a WordPiece vocabulary on every file of the corpus; tokens in id order.

    The library numbers continuation characters (`##a`) in the order of a hash table and breaks ties between merges by
    number. Naming them beside the special tokens fixes their numbers, and so the vocabulary.
    """
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    characters = [f"##{character}" for character in string.digits + string.ascii_lowercase]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=[*SPECIAL_TOKENS, *characters], show_progress=False)
    backend.train([os.path.join(corpus_dir, name) for name in sorted(os.listdir(corpus_dir))], trainer)
    return sorted(backend.get_vocab(), key=backend.get_vocab().get)


# --- Guessers ---

def score_guessers(corpus_dir: str, scored: List[sample_world.Document], tokenizer: ElectraTokenizer) -> dict:
    """Accuracy of the unigram, bigram and oracle guessers at the pieces of the `scored` documents."""
    size, start = tokenizer.vocab_size, tokenizer.vocab_size  # `start` stands before a document's first piece
    counted = [np.array([start, *ids]) for ids in tokenizer.encode_batch(list(_counted_documents(corpus_dir)))]
    unigrams = np.bincount(np.concatenate([ids[1:] for ids in counted]), minlength=size)
    pairs, pair_counts = np.unique(np.concatenate([ids[:-1] * size + ids[1:] for ids in counted]), return_counts=True)
    order = np.lexsort((-pairs, pair_counts))  # the most frequent last; of equals the lowest id
    follower = np.full(size + 1, unigrams.argmax())
    follower[pairs[order] // size] = pairs[order] % size  # later assignments win

    hits, oracle, total = collections.Counter(), 0.0, 0
    for document in scored:
        ids, chances = oracle_chances(document, tokenizer)
        before = np.array([start, *ids[:-1]])
        hits.update(unigram=int((ids == unigrams.argmax()).sum()), bigram=int((ids == follower[before]).sum()))
        oracle += float(chances.sum())
        total += len(ids)
    return dict(scored_pieces=total, unigram=round(hits["unigram"] / total, 4), bigram=round(hits["bigram"] / total, 4),
                oracle=round(oracle / total, 4))


def _counted_documents(corpus_dir: str) -> Iterator[str]:
    """Documents of the first megabytes as one line each, without those that are scored."""
    index = size = 0
    for name in sorted(os.listdir(corpus_dir)):
        with open(os.path.join(corpus_dir, name), encoding="utf-8") as file:
            lines: List[str] = []
            for line in file:
                if line != "\n":
                    lines.append(line.rstrip("\n"))
                    continue
                if size >= GUESSER_BYTES:
                    return
                if index % SCORED_EVERY != SCORED_EVERY - 1:
                    yield " ".join(lines)
                index, size, lines = index + 1, size + sum(map(len, lines)), []


def oracle_chances(document: sample_world.Document, tokenizer: ElectraTokenizer) -> Tuple[np.ndarray, np.ndarray]:
    """Ids of a marked document's pieces, and for each the chance that the oracle's guess is right."""
    text, *rest = MARKS.split(" ".join(document.sentences))
    draws = {}
    for mark, piece in zip(rest[::2], rest[1::2]):
        draws[len(text)] = document.draws[ord(mark) - sample_world.MARK]
        text += piece
    occurrences = collections.Counter(re.findall(r"\w+", text.lower()))
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    words = collections.defaultdict(list)
    for position, word in enumerate(encoding.word_ids):
        words[word].append(position)
    ids, offsets = encoding.ids, encoding.offsets  # properties that make a list at every call
    chances = np.ones(len(ids))
    for positions in words.values():
        start, end = offsets[positions[0]][0], offsets[positions[-1]][1]
        draw, shown = draws.get(start), text[start:end].lower()
        stem = draw.word.lower() if draw else ""
        if not draw or not shown.startswith(stem):
            continue
        if draw.is_value and occurrences[stem] + occurrences[stem + "s"] > 1:
            continue
        article = re.search(r"\b(an?) $", text[max(0, start - 3):start].lower())
        rivals = _rivals(tokenizer, draw.pool, shown[len(stem):], article and article.group(1))
        pieces = tuple(ids[position] for position in positions)
        for place, position in enumerate(positions):
            chances[position] = rivals.get((place, pieces[:place], pieces[place + 1:]), 1.0)
    return np.array(ids), chances


@functools.lru_cache(maxsize=None)
def _rivals(tokenizer: ElectraTokenizer, pool: Sequence, suffix: str, article: Optional[str]) -> dict:
    """{(place, pieces before, pieces after): share of the likeliest piece there}, over the words of `pool`."""
    found = collections.defaultdict(collections.Counter)
    for word in pool:
        word = str(word).lower() + suffix
        if article and article != ("an" if re.match("[aeiou]|honest", word) else "a"):
            continue
        pieces = _pieces(tokenizer, word)
        for place, piece in enumerate(pieces):
            found[place, pieces[:place], pieces[place + 1:]][piece] += 1
    return {key: max(counts.values()) / sum(counts.values()) for key, counts in found.items()}


@functools.lru_cache(maxsize=None)
def _pieces(tokenizer: ElectraTokenizer, word: str) -> Tuple[int, ...]:
    return tuple(tokenizer.encode(word).ids)


# --- The command ---

def make_sample_data(config: SampleDataConfig) -> dict:
    """Makes the folder and returns its manifest. Raises: UserError: the folder is in use by something else."""
    output_dir = os.path.abspath(config.output_dir)
    refuse_foreign_folder(output_dir, config.overwrite)
    temporary = f"{output_dir}.tmp{os.getpid()}"
    try:
        os.makedirs(temporary)
    except OSError as error:
        raise UserError(f"{temporary} cannot be made ({error.strerror}): choose another --output_dir.") from error
    try:
        manifest = _build(config, temporary)
        if os.path.isdir(output_dir):
            old = f"{output_dir}.old{os.getpid()}"
            os.rename(output_dir, old)
            os.rename(temporary, output_dir)
            shutil.rmtree(old)
        else:
            os.rename(temporary, output_dir)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return manifest


def _build(config: SampleDataConfig, folder: str) -> dict:
    corpus = write_corpus(config, folder)
    corpus_dir, vocab_file = os.path.join(folder, "corpus"), os.path.join(folder, "vocab.txt")
    questions = write_squad(config, corpus.contexts, folder)
    tokens = train_vocabulary(corpus_dir, config.vocab_size)
    files.write_text(vocab_file, "".join(token + "\n" for token in tokens))
    guessers = score_guessers(corpus_dir, corpus.scored, ElectraTokenizer(vocab_file))
    _rivals.cache_clear()
    _pieces.cache_clear()
    manifest = dict(made_by="data/make_sample_data.py", size=config.size, seed=config.seed, passages=config.passages,
                    corpus=dict(corpus.counts),
                    vocab_size=len(tokens), tokenizers_version=tokenizers.__version__, squad_questions=questions,
                    masked_piece_accuracy=guessers)
    files.write_json(os.path.join(folder, "manifest.json"), manifest)
    return manifest


def refuse_foreign_folder(folder: str, overwrite: bool):
    """Raises UserError unless `folder` is absent or empty, or holds sample data only and may be overwritten."""
    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder) or os.path.islink(folder):
        raise UserError(f"{folder} exists and is not a folder of its own: choose another --output_dir.")
    ours = re.compile(r"corpus/part-\d{4,}\.txt|squad/(?:" + "|".join(map(re.escape, SQUAD_FILES))
                      + r")|vocab\.txt|manifest\.json")
    files = sorted(os.path.relpath(os.path.join(path, name), folder)
                   for path, _, names in os.walk(folder) for name in names)
    foreign = [name for name in files if not ours.fullmatch(name)]
    if foreign:
        raise UserError(f"{folder} holds {foreign[0]}, which this command does not make: choose another --output_dir.")
    if os.listdir(folder) and not overwrite:
        raise UserError(f"{folder} is not empty: choose another --output_dir, or replace its sample data with "
                        "--overwrite.")


def report(manifest: dict) -> str:
    corpus, guessers = manifest["corpus"], manifest["masked_piece_accuracy"]
    rows = [("corpus", f"{corpus['bytes'] / MEGABYTE:.1f} MB, {corpus['documents']:,} documents, "
                       f"{corpus['sentences']:,} sentences, {corpus['files']} files"),
            ("provinces", f"{corpus['provinces']:,}, of which {corpus['held_out_provinces']:,} held out for dev"),
            ("vocabulary", f"{manifest['vocab_size']:,} WordPieces"),
            *((name, f"{count:,} questions") for name, count in manifest["squad_questions"].items()),
            *((f"{name} guesser", f"{guessers[name]:.1%} of masked pieces")
              for name in ("unigram", "bigram", "oracle"))]
    return "\n".join(f"{name:<18}{text}" for name, text in rows)


def main(argv) -> int:
    config = configuration.parse(SampleDataConfig, argv, __doc__)

    def stop(*_):
        raise configuration.Interrupted("stopped before it was done, and nothing was kept: run the same command again.")

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    print(report(make_sample_data(config)))
    return 0


if __name__ == "__main__":
    configuration.run_command(main)
