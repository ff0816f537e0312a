"""Other languages: sentences, and their phonemes by espeak-ng.

espeak-ng is GPL-3, so it is never needed: it comes only with the extra `languages` (PyPI espeakng-loader), is called
through its C interface, and nothing of it is part of this project. Kokoro learnt these languages' phonemes; hibari
knows English only. A sentence of another language starts with its tag, as in `fr: Bonjour.`
"""

from __future__ import annotations

import ctypes
import importlib
import unicodedata
from functools import lru_cache

from engine.errors import ExtraMissingError

SENTENCES_OF: dict[str, tuple[str, ...]] = {
    "de": ("Guten Morgen, wie geht es Ihnen?", "Fünf Bäume blühen vor dem Bahnhof.", "Möchten Sie noch etwas Butter?",
           "Das Wetter wird morgen wieder besser.", "Mein Bruder wohnt in einem kleinen Dorf.",
           "Bitte öffnen Sie das Fenster.", "Wir haben zwölf Äpfel und vier Birnen gekauft.",
           "Warum fährt der Bus heute so früh?", "Vielen Dank für Ihre Hilfe.", "Ich weiß es leider nicht mehr."),
    "es": ("Buenos días, ¿cómo está usted?", "Mi hermana vive cerca del puerto.", "Quiero una mesa para dos personas.",
           "El autobús sale a las nueve y media.", "Me gusta mucho la música de piano.",
           "¿Puede repetir la pregunta, por favor?", "Ayer llovió durante toda la tarde.",
           "Pablo compró pan, vino y uvas.", "No me acuerdo de su nombre.", "Muchas gracias por su ayuda."),
    "fr": ("Bonjour, comment allez-vous?", "Je voudrais deux billets pour Paris.", "Il pleut depuis ce matin.",
           "Mon frère a une petite maison bleue.", "Pouvez-vous ouvrir la fenêtre, s'il vous plaît?",
           "Nous avons mangé une bonne soupe.", "Le prochain train part à neuf heures.",
           "Un vieux bateau flotte sur le fleuve.", "Merci beaucoup pour votre aide.", "Je ne sais pas encore."),
    "it": ("Buongiorno, come sta?", "Mio fratello abita vicino al porto.", "Vorrei un bicchiere di vino bianco.",
           "Il treno parte alle nove e mezza.", "Potrebbe ripetere la domanda, per favore?",
           "Oggi fa molto freddo in montagna.", "Abbiamo comprato pane, burro e formaggio.",
           "Non mi ricordo più il suo nome.", "Grazie mille per il suo aiuto.", "La bambina gioca nel giardino."),
    "pt": ("Bom dia, como vai você?", "Meu irmão mora perto da praia.", "Eu queria um copo de água, por favor.",
           "O ônibus sai às nove e meia.", "Você pode repetir a pergunta?", "Ontem choveu a tarde inteira.",
           "Compramos pão, manteiga e uvas.", "Muito obrigado pela sua ajuda.", "Não sei onde ele está.",
           "A música vem da janela azul."),
}  # fmt: skip
"""Written for this project. The last two of each language are for tests."""

TEST_SENTENCES = 2
_ESPEAK_NAMES = {"pt": "pt-br"}
_KOKORO_SPELLING = (("tʃ", "ʧ"), ("dʒ", "ʤ"), ("ɚ", "əɹ"), ("ɝ", "ɜɹ"), ("g", "ɡ"), ("ɱ", "m"), ("ɫ", "l"), ("ʀ", "ʁ"),
                    ("r", "ɾ"), ("ʏ", "y"), ("-", ""), ("\u0361", ""), ("\u032f", ""), ("\u0329", ""),
                    ("c\u0327", "ç"))  # fmt: skip
_AUDIO_OUTPUT_SYNCHRONOUS, _TEXT_UTF8, _PHONEMES_IPA = 2, 1, 2


def draw_foreign(pick: float, split: str) -> str:
    """A tagged sentence of a split, by a number in [0, 1)."""
    lines = [
        f"{language}: {sentence}"
        for language, sentences in sorted(SENTENCES_OF.items())
        for sentence in (sentences[-TEST_SENTENCES:] if split == "test" else sentences[:-TEST_SENTENCES])
    ]
    return lines[int(pick * len(lines))]


def language_of(text: str) -> tuple[str, str]:
    """(language, sentence) of a text; English has no tag."""
    tag, colon, sentence = text.partition(": ")
    return (tag, sentence) if colon and tag in SENTENCES_OF else ("en", text)


def foreign_phonemes(text: str, language: str) -> str:
    """A sentence as IPA letters in Kokoro's way of writing. Raises ExtraMissingError without espeak-ng."""
    parts = _spoken_parts(text)
    ipa = unicodedata.normalize("NFD", "".join(_espeak(part, language) + mark for part, mark in parts))
    for other, kokoro in _KOKORO_SPELLING:
        ipa = ipa.replace(other, kokoro)
    return ipa


def _spoken_parts(text: str) -> list[tuple[str, str]]:
    """Words between punctuation, with the mark after them: espeak-ng drops the marks, which time the pauses."""
    parts: list[tuple[str, str]] = []
    words = ""
    for letter in text.replace("¿", "").replace("¡", ""):
        if letter in ",.?!;:":
            parts.append((words.strip(), letter + " "))
            words = ""
        else:
            words += letter
    return [part for part in [*parts, (words.strip(), "")] if part[0]]


def _espeak(words: str, language: str) -> str:
    library = _library()
    if library.espeak_SetVoiceByName(_ESPEAK_NAMES.get(language, language).encode()) != 0:
        raise ExtraMissingError(f"espeak-ng has no voice for {language!r}: reinstall `visavis[languages]`")
    text = ctypes.c_char_p(words.encode())
    out = []
    pointer = ctypes.pointer(ctypes.cast(text, ctypes.c_void_p))
    while pointer.contents.value:
        out.append(library.espeak_TextToPhonemes(pointer, _TEXT_UTF8, _PHONEMES_IPA).decode())
    return " ".join(out)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    try:
        loader = importlib.import_module("espeakng_loader")
    except ImportError as error:
        raise ExtraMissingError("other languages need espeak-ng: `pip install visavis[languages]`") from error
    library = ctypes.CDLL(loader.get_library_path())
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, loader.get_data_path().encode(), 0)
    return library
