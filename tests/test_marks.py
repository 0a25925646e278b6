"""Texts that differ by marks alone, in six languages, with the settings that users get."""

import random
from pathlib import Path

import pytest
from small_runs import make_rows, read_metrics, write_csv

from wave_network import ENGLISH
from wave_network.cli import main
from wave_network.tokenization import load_wave_tokenizer
from wave_network.training.start import look_at

# Words around, in scripts without spaces with a | between them; and pairs of words, one of each class.
LANGUAGES = {
    "Spanish": (
        "hace mucho tiempo la casa de mi familia tiene una puerta grande y el perro come pan en la cocina",
        "año ano, peña pena, caña cana, moño mono, cuña cuna, papá papa, esté este, sábana sabana",
    ),
    "Vietnamese": (
        "tôi đi học ở trường với bạn và ăn cơm mỗi ngày trong nhà của mẹ rất vui",
        "má mả, bán bàn, cá cà, dừa dứa, tóc tọc, bò bó, lá là, mía mìa, cửa cứa",
    ),
    "Russian": (
        "вчера мы шли домой и видели большой дом на улице где живут наши друзья",
        "всё все, нёбо небо, осёл осел, узнаём узнаем, падёж падеж, мёл мел, берёт берет",
    ),
    "Hindi": (
        "वह हर दिन घर से बाज़ार तक चलता था और दोस्त के साथ खाना खाता है",
        "में मैं, दीन दिन, काल कल, मील मिल, बाल बल, पीता पिता, सूना सुना, काम कम",
    ),
    "Thai": (
        "เมื่อวาน|ฉัน|เดิน|กลับ|บ้าน|กิน|ข้าว|กับ|เพื่อน|ที่|ตลาด|ใหญ่",
        "ม้า มา, ไป้ ไป, ข่าว ขาว, เสื้อ เสือ, ป้า ปา, ใกล้ ใกล, น้า นา, ไม้ ไม",
    ),
    "Japanese": (
        "きのう|ともだち|と|いっしょに|えき|の|まえで|ごはん|を|たべました",
        "バス パス, ばし はし, がき かき, パン ハン, だんす たんす, でんき てんき, ブタ フタ, ピン ヒン",
    ),
}
BORROWED = ["online", "marketing", "software", "feedback", "the", "streaming", "smartphone", "meeting", "of", "cloud"]


def make_texts(language: str, count: int, seed: int) -> list[dict[str, str]]:
    chooser = random.Random(seed)
    around, pairs = LANGUAGES[language]
    between = "|" if "|" in around else None
    rows = []
    for index in range(count):
        words = chooser.choices(around.split(between), k=chooser.randint(3, 7))
        words.insert(chooser.randint(0, len(words)), chooser.choice(pairs.split(", ")).split()[index % 2])
        rows.append({"text": ("" if between else " ").join(words), "label": "xy"[index % 2]})
    return rows


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_such_text_is_taken_for_english(language: str):
    """Nor are those that borrow every fifth word."""
    tokenizer, chooser = load_wave_tokenizer(ENGLISH), random.Random(0)
    texts = [row["text"] for row in make_texts(language, 200, seed=0)]
    assert not look_at(texts, tokenizer)[0]
    assert not look_at([f"{text} {chooser.choice(BORROWED)}" for text in texts], tokenizer)[0]
    assert look_at([f"the coach said that {row['text']} was good" for row in make_rows(200, seed=0)], tokenizer)[0]


@pytest.mark.nightly
@pytest.mark.parametrize("language", LANGUAGES)
def test_marks_are_learned_as_characters_are(language: str, tmp_path: Path):
    """As by TF-IDF on characters, which gets every text right."""
    write_csv(tmp_path / "train.csv", make_texts(language, 1000, seed=0))
    write_csv(tmp_path / "test.csv", make_texts(language, 200, seed=1))
    main(["finetune", str(tmp_path), "--output_dir", str(tmp_path / "run"), "--use_cpu", "yes"])
    metrics = read_metrics(tmp_path / "run")
    assert (metrics["base_model"], metrics["results"]["test"]["accuracy"]) == (None, 1.0)
