"""Small texts and SQuAD-style questions in German, Chinese and Arabic, for tests of vocabularies.

Every sentence is made of a template and invented facts. What is hard for offsets into the text is there: umlauts
(composed and decomposed), ligatures, full-width digits, vowel signs, text without spaces, no-break and repeated spaces.
"""
from __future__ import annotations

import random
from typing import Dict, List, Tuple

PARTS: Dict[str, Dict[str, List[str]]] = {
    "german": {
        "first": ["Jürgen", "Käthe", "Ju\u0308rgen", "Wolfgang", "Änne", "Friedrich", "Zoë", "Sören", "Maria"],
        "last": ["Weiß", "Müller", "Schönﬁeld", "Groß", "Bäcker", "von der Heide", "Straßburger", "Öhm", "Lang"],
        "place": ["Köln", "München", "Düsseldorf", "Bad Tölz", "Gießen", "Frankfurt\u00a0am\u00a0Main", "Ulm"],
        "work": ["Bäckermeisterin", "Gießerei", "Donaudampfschifffahrtsgesellschaft", "Schule für Blinde", "Mühle"],
        "year": ["1848", "１９１２", "1973", "2001", "1789"],
        "syllables": ["schön", "wald", "heim", "ber", "gen", "müh", "le", "stein", "graf", "eß", "linden", "ö", "hof"],
    },
    "chinese": {
        "first": ["王", "李", "张", "刘", "欧阳", "司马", "陈"],
        "last": ["小明", "丽华", "建国", "雪", "子涵", "志强", "美玲"],
        "place": ["北京", "上海市", "乌鲁木齐", "台北", "香港特别行政区", "成都", "ＸＹ镇"],
        "work": ["一家面包店", "第三中学", "天文台", "图书馆", "造船厂"],
        "year": ["1949年", "一九八四年", "２００８年", "公元前221年", "1912年"],
        "syllables": list("安德烈卡尔文森伯格罗马诺维奇"),
    },
    "arabic": {
        "first": ["مُحَمَّد", "فاطمة", "أحمد", "إبراهيم", "لَيْلَى", "عبد الله", "زينب"],
        "last": ["السَّعدي", "المصري", "الخوارزمي", "بن يوسف", "الحسيني", "القرطبي"],
        "place": ["القاهرة", "بغداد", "الدار البيضاء", "دِمَشْق", "الرياض", "تونس"],
        "work": ["مدرسة للبنات", "مرصد", "مكتبة كبيرة", "مصنع للسُّفن", "مستشفى"],
        "year": ["١٩٤٨", "1973", "سنة ٢٠٠١", "1258م"],
        "syllables": ["ال", "با", "سِي", "مَر", "دو", "ني", "خال", "رَش", "تَم", "قا", "وي", "ين"],
    },
}
SENTENCES = {
    "german": ["{name} wurde {year} in {place} geboren.", "In {place} gründete {name} im Jahre {year} eine {work}.",
               "Die {work} in {place} gehörte {name}, bis sie {year} schloss.", "Nach {year} zog {name}  nach {place}!",
               "„Über {place} weiß ich nichts“, sagte {name} {year}."],
    "chinese": ["{name}于{year}在{place}出生。", "{year}，{name}在{place}创办了{work}。",
                "{place}的{work}属于{name}，{year}关闭。", "后来{name}搬到了{place}（{year}）。",
                "“我对{place}一无所知”，{name}在{year}说。"],
    "arabic": ["ولد {name} في {place} عام {year}.", "أسس {name} {work} في {place} في {year}.",
               "كانت {work} في {place} ملكا لـ{name} حتى {year}.", "ثم انتقل {name}  إلى {place} بعد {year}!",
               "قال {name} في {year}: «لا أعرف شيئا عن {place}»."],
}
QUESTIONS = {
    "german": {"place": "Wo wurde {name} geboren?", "year": "Wann war {name} dort?",
               "name": "Wer war {year} in {place}?", "work": "Was gab es in {place}?"},
    "chinese": {"place": "{name}在哪里出生？", "year": "{name}什么时候在那里？", "name": "{year}谁在{place}？",
                "work": "{place}有什么？"},
    "arabic": {"place": "أين ولد {name}؟", "year": "متى كان {name} هناك؟", "name": "من كان في {place} في {year}؟",
               "work": "ماذا يوجد في {place}؟"},
}
LANGUAGES = tuple(PARTS)


def sentence(language: str, draw: random.Random) -> Tuple[str, Dict[str, str]]:
    """A sentence, and the facts in it by what they are."""
    facts = {kind: draw.choice(values) for kind, values in PARTS[language].items()}
    if draw.random() < 0.5:  # an invented name: there are more words than a vocabulary can hold
        facts["last"] = "".join(draw.choices(PARTS[language]["syllables"], k=draw.randint(2, 4))).capitalize()
    facts["name"] = facts.pop("first") + ("" if language == "chinese" else " ") + facts.pop("last")
    template = draw.choice(SENTENCES[language])
    facts = {kind: value for kind, value in facts.items() if f"{{{kind}}}" in template}
    return template.format(**facts), facts


def train_sentencepiece(path, texts: List[str], **options) -> str:
    """Writes a SentencePiece model with ELECTRA's special tokens to `path`."""
    import sentencepiece
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(**{**dict(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=600, hard_vocab_limit=False, minloglevel=2,
            pad_id=0, unk_id=1, bos_id=2, eos_id=3, pad_piece="[PAD]", unk_piece="[UNK]", bos_piece="[CLS]",
            eos_piece="[SEP]", control_symbols=["[MASK]"]), **options})
    return str(path)


def corpus(language: str, count: int, seed: int = 1) -> List[str]:
    """Sentences, with a blank line after every sixth."""
    draw = random.Random(f"{language} {seed}")
    return [line for number in range(count) for line in (sentence(language, draw)[0], *([""] * (number % 6 == 5)))]


def squad(language: str, count: int, seed: int = 2) -> dict:
    """`count` questions in SQuAD's format, four to a paragraph; every answer is an exact span of its paragraph."""
    draw = random.Random(f"{language} {seed}")
    paragraphs, number = [], 0
    while number < count:
        context, entries, glue = "", [], "" if language == "chinese" else " "
        for text, facts in (sentence(language, draw) for _ in range(8)):
            start = len(context)
            context += text + glue
            kind = draw.choice(sorted(set(facts) & set(QUESTIONS[language])))
            if len(entries) < 4 and number < count:
                question = QUESTIONS[language][kind].format(**{"place": "", "year": "", "name": "", **facts})
                entries.append({"id": f"{language}-{number}", "question": question, "answers": [
                    {"text": facts[kind], "answer_start": start + text.index(facts[kind])}]})
                number += 1
        paragraphs.append({"context": context, "qas": entries})
    return {"version": "1.1", "data": [{"title": language, "paragraphs": paragraphs}]}
