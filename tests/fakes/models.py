"""GGUF models for tests of the engine: it is clear from each word whose answer it belongs to."""

from pathlib import Path

from orchestrator.backends.engine.tiny_llama import FIRST_PIECE, TinyLlama

VOICES = "ABCDEFGHIJKLMNOPQRSTUVWX"
STEPS = 10

_START = 0
_FIRST_STEP = 1
_FIRST_VOICE = _FIRST_STEP + STEPS

# A word follows from the last one and from the voice. What a token is outweighs the mean of all
# (at most 8 in all columns together), and the voice, which is in the prompt alone, a mean's share.
_SELF = 16.0
_STEP_WEIGHT = 16.0
_VOICE_WEIGHT = 4000.0


def answer_of(voice: str, words: int) -> str:
    """What the model says to the prompt ``voice``, a letter of VOICES."""
    return "".join(f" {voice.lower()}{number % STEPS}" for number in range(words))


def write_voices(path: Path) -> Path:
    """Write a model that counts in the voice of its prompt's letter, and never ends by itself.

    The voice is told from the attention to the prompt, so an answer is right only as long as
    nothing of another conversation gets into its slot.
    """
    return _voices(path, width=64, layers=1, feed_forward=64)


def write_slow_reader(path: Path) -> Path:
    """Write a model that takes some milliseconds for each token of a long prompt."""
    return _voices(path, width=512, layers=8, feed_forward=2048)


def write_slow_speaker(path: Path) -> Path:
    """Write a model that says what the one of ``write_voices`` does, in milliseconds a word."""
    return _voices(path, width=512, layers=1, feed_forward=16384)


def _voices(path: Path, width: int, layers: int, feed_forward: int) -> Path:
    embedding = {(token, _START): _SELF for token in range(FIRST_PIECE + len(VOICES))}
    output = {}
    words = []
    for voice, letter in enumerate(VOICES):
        embedding[FIRST_PIECE + voice, _FIRST_VOICE + voice] = _SELF
        for step in range(STEPS):
            token = FIRST_PIECE + len(VOICES) + len(words)
            words.append(f" {letter.lower()}{step}")
            embedding[token, _FIRST_STEP + step] = _SELF
            output[token, _FIRST_STEP + (step - 1) % STEPS] = _STEP_WEIGHT
            output[token, _FIRST_VOICE + voice] = _VOICE_WEIGHT
            if step == 0:
                output[token, _START] = _STEP_WEIGHT
    TinyLlama(
        "voices",
        [*VOICES, *words],
        width,
        embedding,
        output,
        attention=1.0,
        layers=layers,
        feed_forward=feed_forward,
        context=16384,
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
    ).write(path)
    return path
