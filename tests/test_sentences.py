"""data/sentences.py: hand-checked cases of many languages, long quotations, and that no text is lost."""
from __future__ import annotations

import sys

import pytest
import support

sys.path.insert(0, str(support.ROOT / "data"))

import sentences  # noqa: E402

CASES = [
    ("en", ["Mr. Smith met Dr. Jones at 5 p.m. on Monday.", "They talked."]),
    ("en", ["He lives in the U.S. and works for Acme Inc. in Boston.", "She does not."]),
    ("en", ["The value rose by 3.14 percent to 2.5 million.", "Nobody knew why."]),
    ("en", ["J. R. R. Tolkien wrote it.", "C. S. Lewis read it."]),
    ("en", ["\"Where are you going?\" asked the old man.", "\"Home,\" she said."]),
    ("en", ["“Stop!” he cried.", "“I will not stop.”"]),
    ("en", ["Wait... what did he say?", "I do not know."]),
    ("en", ["See Fig. 3 and Sec. 4.2 for details.", "The proof is in App. B."]),
    ("en", ["Visit www.example.com or write to a.b@example.org.", "Thank you!"]),
    ("en", ["Is it true?!", "Yes.", "No!"]),
    ("en", ["St. Paul's Cathedral is in London.", "It is old."]),
    ("en", ["He was born on Jan. 5, 1890, in Paris.", "He died in 1950."]),
    ("en", ["It cost $5.50 (approx. €5).", "We paid."]),
    ("en", ["I saw it, i.e. I was there.", "You were not, e.g. on Sunday."]),
    ("en", ["Version 2.0.1 was released.", "Version 3 follows."]),
    ("en", ["No. 5 is alive.", "Prof. Plum is not."]),
    ("en", ["He said: \"It is over. We lost.\"", "Then he left."]),
    ("en", ["The company (founded in 1901 by W. Brown.) closed.", "It reopened later."]),
    ("en", ["Mrs. Bennet was delighted.", "Mr. Bennet, however, was not."]),
    ("en", [
        "“My dear Mr. Bennet,” said his lady to him one day, “have you heard that Netherfield Park is let at last?”",
        "Mr. Bennet replied that he had not.",
    ]),
    ("en", ["Capt. Ahab vs. the whale, vol. 2, pp. 3-5.", "The end."]),
    ("de", ["Am 3. Oktober 1990 wurde Deutschland vereint.", "Das war vor dem 21. Jahrhundert."]),
    ("de", ["Er kam z. B. um 8.30 Uhr an.", "Dr. Müller wartete schon."]),
    ("de", ["Das ist ca. 5 km entfernt, d.h. sehr nah.", "Wir gehen zu Fuß."]),
    ("de", ["Ludwig XIV. war König von Frankreich.", "Er starb 1715."]),
    ("de", ["„Wohin gehst du?“, fragte er.", "„Nach Hause.“"]),
    ("fr", ["M. Dupont habite à Paris.", "Il est né en 1950."]),
    ("fr", ["« Bonjour ! » dit-elle.", "Il ne répondit pas."]),
    ("fr", ["Mme. Curie reçut le prix en 1903.", "Pourquoi ?", "Personne ne le sait."]),
    ("es", ["¿Dónde está el Sr. García?", "¡No lo sé!"]),
    ("es", ["La Dra. López llegó tarde.", "Nadie dijo nada."]),
    ("it", ["Il sig. Rossi abita a Roma.", "Il dott. Bianchi no."]),
    ("pt", ["O Sr. Silva mora em Lisboa.", "A Dra. Souza não."]),
    ("nl", ["Dhr. Jansen woont in Utrecht.", "Hij is bijv. vaak thuis."]),
    ("ru", ["В 1812 г. Наполеон вошёл в Москву.", "Он ушёл зимой."]),
    ("ru", ["А. С. Пушкин родился в Москве.", "Он поэт."]),
    ("pl", ["Prof. Nowak mieszka na ul. Długiej.", "Jest stary."]),
    ("zh", ["你好。", "你叫什么名字？", "我叫李明！"]),
    ("zh", ["他说：“我不知道。”", "然后他走了。"]),
    ("zh", ["等等……你是谁？", "圆周率是3.14。"]),
    ("ja", ["吾輩は猫である。", "名前はまだ無い。"]),
    ("ja", ["「どこへ行くの？」と彼は聞いた。", "彼女は答えなかった。"]),
    ("ar", ["أين أنت؟", "أنا في البيت.", "شكرا!"]),
    ("hi", ["यह एक किताब है।", "वह कहाँ है?", "मुझे नहीं पता।"]),
    ("ur", ["یہ کتاب ہے۔", "وہ کہاں ہے؟"]),
    ("hy", ["Սա գիրք է։", "Ու՞ր է նա։"]),
    ("am", ["ይህ መጽሐፍ ነው።", "አንተስ፧"]),
    ("tr", ["Dr. Yılmaz saat 5.30'da geldi.", "Prof. Kaya gelmedi."]),
    ("ko", ["안녕하세요.", "이름이 무엇입니까?"]),
]


newer_library = pytest.mark.skipif(sys.version_info < (3, 10),
                                   reason="sentencex 0.6.1, the last for Python 3.8, splits fewer cases")


@newer_library
@pytest.mark.parametrize("language, expected", CASES, ids=[f"{language}-{number}" for number, (language, _) in
                                                           enumerate(CASES)])
def test_a_paragraph_is_split_as_a_reader_would(language, expected):
    between = "" if language in ("zh", "ja") else " "
    assert sentences.split(between.join(expected), language) == expected


@newer_library
@pytest.mark.parametrize("text, expected", [
    ("He sang: Ta ra la! and was happy. Then he left.", ["He sang: Ta ra la! and was happy.", "Then he left."]),
    ("I have come to terms . \"", ["I have come to terms . \""]),
    ("all is lower case. even names are. so it is.", ["all is lower case.", "even names are.", "so it is."])])
def test_lower_case_and_lone_marks_do_not_begin_a_sentence(text, expected):
    assert sentences.split(text, "en") == expected


@newer_library
def test_a_long_quotation_is_split_and_keeps_its_marks():
    said = [f"This is sentence number {number} of a speech that goes on and on." for number in range(8)]
    paragraph = f"“{' '.join(said)}” he said, and left. “Good.”"
    found = sentences.split(paragraph, "en")
    assert " ".join(found) == paragraph
    assert found[0] == f"“{said[0]}" and found[7] == f"{said[7]}” he said, and left." and found[8] == "“Good.”"
    assert len(found) == 9


@pytest.mark.parametrize("paragraph", ["", " ", "...", "“", "a", "?!?!", "“One. Two.", "One.” Two. “", "x" * 1000,
                                       "“" * 300 + "A. B.", "A. b. C.\u2060 D"])
@pytest.mark.parametrize("language", ["en", "ja", "xx", "de-AT"])
def test_no_character_is_lost(paragraph, language):
    assert "".join("".join(sentences.split(paragraph, language)).split()) == "".join(paragraph.split())
