"""Question answering datasets in the manner of SQuAD: where they are, their licenses, and their conversion.

One table, `QUESTION_SETS`. Every address has been seen in public code, except those of GermanQuAD, which follow the
Hugging Face Hub's scheme for converted files. A checksum is listed only where at least one published record of it was
found, and for the others data/download.py records the one of the first download. `convert` turns all of them into the
format of SQuAD 1.1 and 2.0 that run_tf_squad.py reads.
"""
from __future__ import annotations

import json
import os
from typing import Dict, List, NamedTuple, Optional, Tuple

from downloads import Corrupt

from configuration import UserError, in_brief, in_short


class Source(NamedTuple):
    """A file to download. `{language}` stands for the value of --language."""

    url: str
    member: str = ""  # the file in the archive that this is
    digest: str = ""
    digests: Optional[Dict[str, str]] = None  # by language
    size: Optional[int] = None
    kind: str = "squad"  # or `parquet`, as Hugging Face converts datasets
    name: str = ""  # of the downloaded file, if not that in the URL

    def file(self, language: str) -> str:
        return self.name or self.url.format(language=language).rpartition("/")[2]


class QuestionSet(NamedTuple):
    license: str
    languages: Tuple[str, ...]
    page: str
    files: Dict[str, Source]  # by the name that run_tf_squad.py expects
    note: str = ""
    is_original: bool = False  # the files are what run_tf_squad.py reads, and stay as they are
    language_in_id: Optional[Dict[str, str]] = None  # language -> what the ids of its questions begin with


_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset/"
_XQUAD = "https://raw.githubusercontent.com/google-deepmind/xquad/7d30520c717524000f0d9d2f9c10a069acd9d285/"
_MLQA = ("https://dl.fbaipublicfiles.com/MLQA/MLQA_V1.zip",
         "sha256:246e8089933d13007fe80684d5c5c0713d6834cf8b3b4a0ec7c66f0a0d2baac8")
_GERMANQUAD = "https://huggingface.co/datasets/deepset/germanquad/resolve/refs%2Fconvert%2Fparquet/plain_text/"
_SOQAL = "https://raw.githubusercontent.com/husseinmozannar/SOQAL/master/data/"
_CMRC = "https://raw.githubusercontent.com/ymcui/cmrc2018/master/squad-style-data/"
_KLUE = "https://raw.githubusercontent.com/KLUE-benchmark/KLUE/main/klue_benchmark/klue-mrc-v1.1/"
_TYDI = "https://storage.googleapis.com/tydiqa/v1.1/tydiqa-goldp-v1.1-"

QUESTION_SETS = {
    "squad": QuestionSet(
        "CC BY-SA 4.0", ("en",), "https://rajpurkar.github.io/SQuAD-explorer/", {
            "train-v1.1.json": Source(_SQUAD + "train-v1.1.json", size=30288272, digest=
                                      "sha256:3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955"),
            "dev-v1.1.json": Source(_SQUAD + "dev-v1.1.json", size=4854279, digest=
                                    "sha256:95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9"),
            "train-v2.0.json": Source(_SQUAD + "train-v2.0.json", size=42123633, digest=
                                      "sha256:68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002"),
            "dev-v2.0.json": Source(_SQUAD + "dev-v2.0.json", size=4370528, digest=
                                    "sha256:80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8")},
        is_original=True),
    "xquad": QuestionSet(
        "CC BY-SA 4.0", ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"),
        "https://github.com/google-deepmind/xquad", {"dev-v1.1.json": Source(_XQUAD + "xquad.{language}.json", digests={
            "ar": "sha256:abdabd7afed5c635d99cca0f3f0d0c9d9ed0bc77451e963c2e4e0638c29e486d",
            "de": "sha256:990b5d746746ed65ed4702ea5f35f99ffa4e2f1c390c07d003642acd937916f9",
            "en": "sha256:e4c57d1c9143aaa1c5d265ba5987a65f4e69528d2a98f29d6e75019b10344f29",
            "es": "sha256:dcbae93ec3a9f4b9e78fd834a171d6f96c1a875e10e15b7530b7e4ef4971e37e",
            "tr": "sha256:92179a564774b7696100d144c1e10870d0a966b6fccbdd254a65b9d2ab1971cc",
            "vi": "sha256:f619a1eb11fb42d3ab0834259e488a65f585447ef6154437bfb7199d85161a04"})},
        "translated from SQuAD's development set: for evaluation only"),
    "mlqa": QuestionSet(
        "CC BY-SA 3.0", ("ar", "de", "en", "es", "hi", "vi", "zh"), "https://github.com/facebookresearch/MLQA", {
            "dev-v1.1.json": Source(_MLQA[0], "MLQA_V1/test/test-context-{language}-question-{language}.json",
                                    _MLQA[1])},
        "the test set, context and question in the same language: for evaluation only"),
    "tydiqa": QuestionSet(
        "Apache 2.0", ("ar", "bn", "en", "fi", "id", "ko", "ru", "sw", "te"),
        "https://github.com/google-research-datasets/tydiqa", {
            "train-v1.1.json": Source(_TYDI + "train.json"), "dev-v1.1.json": Source(_TYDI + "dev.json")},
        "the gold passage task", language_in_id={
            "ar": "arabic-", "bn": "bengali-", "en": "english-", "fi": "finnish-", "id": "indonesian-", "ko": "korean-",
            "ru": "russian-", "sw": "swahili-", "te": "telugu-"}),
    "germanquad": QuestionSet(
        "CC BY 4.0", ("de",), "https://huggingface.co/datasets/deepset/germanquad", {
            "train-v1.1.json": Source(_GERMANQUAD + "train/0000.parquet", kind="parquet", name="train.parquet"),
            "dev-v1.1.json": Source(_GERMANQUAD + "test/0000.parquet", kind="parquet", name="test.parquet")},
        "needs pyarrow; dev is the test set"),
    "fquad": QuestionSet(
        "CC BY-NC-SA 3.0", ("fr",), "https://fquad.illuin.tech/", {
            "train-v1.1.json": Source("https://storage.googleapis.com/illuin/fquad/train.json.zip", "train.json"),
            "dev-v1.1.json": Source("https://storage.googleapis.com/illuin/fquad/valid.json.zip", "valid.json")},
        "no commercial use"),
    "arcd": QuestionSet(
        "MIT", ("ar",), "https://github.com/husseinmozannar/SOQAL", {
            "train-v1.1.json": Source(_SOQAL + "arcd-train.json"), "dev-v1.1.json": Source(_SOQAL + "arcd-test.json")},
        "dev is the test set"),
    "cmrc2018": QuestionSet(
        "CC BY-SA 4.0", ("zh",), "https://github.com/ymcui/cmrc2018", {
            "train-v1.1.json": Source(_CMRC + "cmrc2018_train.json"),
            "dev-v1.1.json": Source(_CMRC + "cmrc2018_dev.json")}),
    "korquad": QuestionSet(
        "CC BY-ND 2.0 KR", ("ko",), "https://korquad.github.io/KorQuad%201.0/", {
            "train-v1.1.json": Source("https://korquad.github.io/dataset/KorQuAD_v1.0_train.json", digest=
                                      "sha256:40d5115879a701751781df721d901abfa736d8db5f89000f2619433f39bf2dd2"),
            "dev-v1.1.json": Source("https://korquad.github.io/dataset/KorQuAD_v1.0_dev.json")},
        "changed copies must not be passed on"),
    "klue-mrc": QuestionSet(
        "CC BY-SA 4.0", ("ko",), "https://github.com/KLUE-benchmark/KLUE", {
            "train-v2.0.json": Source(_KLUE + "klue-mrc-v1.1_train.json"),
            "dev-v2.0.json": Source(_KLUE + "klue-mrc-v1.1_dev.json")},
        "with unanswerable questions"),
}


# --- Conversion ---


class Converted(NamedTuple):
    content: dict  # SQuAD 1.1 or 2.0
    questions: int
    moved: int  # answers whose position was wrong, and the text was found elsewhere
    dropped: int  # questions without an answer that is in the context


def check_json(path: str):
    """Raises Corrupt if a file is not JSON with SQuAD's outer structure: an error page, or half a file."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            articles = json.load(file)["data"]
        if not (isinstance(articles, list) and articles and articles[0]["paragraphs"] is not None):
            raise ValueError("no articles")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise Corrupt(f"is not a SQuAD file ({in_short(error)})") from error


def read(path: str, kind: str) -> List[dict]:
    """The articles of a downloaded file. Raises: UserError: it has another format, or pyarrow is missing."""
    if kind == "parquet":
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise UserError(f"{path} needs the library pyarrow: pip install pyarrow.") from error
        try:
            table = pyarrow.parquet.read_table(path)
            table.validate(full=True)  # damaged data would end the process
            return articles_of(table.to_pylist())
        except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged, or has other columns than expected ({in_brief(error)}): delete it and "
                            "download it again.") from error
    try:
        check_json(path)
    except Corrupt as error:
        raise UserError(f"{path} {error}: delete it and download it again.") from error
    with open(path, encoding="utf-8-sig") as file:
        return json.load(file)["data"]


def articles_of(rows: List[dict]) -> List[dict]:
    """SQuAD's articles from rows of Hugging Face's `squad` features: one question each, answers as lists."""
    paragraphs: Dict[str, dict] = {}
    for row in rows:
        answers = [dict(text=text, answer_start=start)
                   for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"])]
        paragraph = paragraphs.setdefault(row["context"], dict(context=row["context"], qas=[]))
        paragraph["qas"].append(dict(id=str(row["id"]), question=row["question"], answers=answers))
    return [dict(title="", paragraphs=list(paragraphs.values()))]


def convert(articles: List[dict], version: str, source: str, id_prefix: str = "") -> Converted:
    """The articles as SQuAD 1.1 or 2.0 has them.

    An answer must be at its position in the context. One that is elsewhere in it is moved to the nearest occurrence;
    a question without an answer in the context is dropped.

    Args:
        id_prefix: keep only questions whose id begins so.
    Raises: UserError: another structure.
    """
    converted, ids = [], set()
    questions = moved = dropped = 0
    try:
        for article in articles:
            paragraphs = []
            for paragraph in article["paragraphs"]:
                entries = []
                for entry in paragraph["qas"]:
                    identity = str(entry.get("id", entry.get("guid")))
                    if identity.startswith(id_prefix):
                        new, shifts = _entry(entry, identity, paragraph["context"], version)
                        moved += shifts
                        dropped += new is None or identity in ids
                        if new is not None and identity not in ids:
                            entries.append(new)
                            ids.add(identity)
                questions += len(entries)
                if entries:
                    paragraphs.append(dict(context=paragraph["context"], qas=entries))
            if paragraphs:
                converted.append(dict(title=str(article.get("title", "")), paragraphs=paragraphs))
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{source} has another structure than expected ({in_brief(error)}): it may have changed since "
                        "this version of the command.") from error
    if not questions:
        raise UserError(f"{source} has no questions that can be used: it may have changed since this version of the "
                        "command.")
    content = dict(version=version if version == "1.1" else "v2.0", data=converted)  # as in the official files
    return Converted(content, questions, moved, dropped)


def _entry(entry: dict, identity: str, context: str, version: str) -> Tuple[Optional[dict], int]:
    """A question as SQuAD has it, or None without an answer, and how many answers have been moved."""
    impossible = bool(entry.get("is_impossible", False))
    answers, moved = [], 0
    for answer in [] if impossible else entry["answers"]:
        text, start = answer["text"], answer["answer_start"]
        if context[max(start, 0):max(start, 0) + len(text)] != text:
            start, moved = _nearest(context, text, start), moved + 1
        if text and start >= 0 and dict(text=text, answer_start=start) not in answers:
            answers.append(dict(text=text, answer_start=start))
    if not answers and not impossible or impossible and version == "1.1":
        return None, moved
    new = dict(id=identity, question=entry["question"], answers=answers)
    return (new if version == "1.1" else dict(new, is_impossible=impossible)), moved


def _nearest(context: str, text: str, start: int) -> int:
    """Where `text` begins nearest to `start`; -1: nowhere."""
    found, place = -1, context.find(text)
    while place >= 0:
        if found < 0 or abs(place - start) < abs(found - start):
            found = place
        place = context.find(text, place + 1)
    return found


def table() -> str:
    """The table of docs/downloads.md."""
    rows = ["| dataset | languages | license | files | checksum | note |", "|---|---|---|---|---|---|"]
    for name, entry in QUESTION_SETS.items():
        stems = ", ".join(os.path.splitext(file)[0] for file in entry.files)
        sources = entry.files.values()
        known = "published" if all(source.digest for source in sources) else "some" if any(
            source.digest or source.digests for source in sources) else "first download"
        rows.append(f"| [`{name}`]({entry.page}) | {', '.join(entry.languages)} | {entry.license} | {stems} | {known} "
                    f"| {entry.note} |")
    return "\n".join(rows)
