"""Tiny models of the llama architecture whose few weights are made by hand, and the demo model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.backends.engine.gguf import Precision, Tensor, Value, write_gguf

DEMO_TEXT = (
    "This is the built-in demo model. It is a real GGUF file, run by llama.cpp, but its few "
    "weights are made by hand, so every prompt gets these same words. Set ORCHESTRATOR_MODEL to "
    "the path of your own GGUF, or to 'small', which downloads one, and talk to something clever."
)

# ChatML, the shape most small instruct models use.
_CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_CONTROL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
_UNKNOWN, _BEGIN, _, _, END_OF_TURN = range(len(_CONTROL))

# The types of tokens, by the format's own codes.
_NORMAL_TYPE, _UNKNOWN_TYPE, _CONTROL_TYPE, _BYTE_TYPE = 1, 2, 3, 6

FIRST_PIECE = len(_CONTROL) + 256
"""The number of the first piece's token: before it come control tokens and one for each byte."""

_HEAD_WIDTH = 32
_LONGEST_CONTEXT = 1_048_576

Weights = Mapping[tuple[int, int], float]


@dataclass(frozen=True, slots=True)
class TinyLlama:
    """What such a model is made of; it is cheap to write and any llama.cpp runs it.

    ``pieces`` are the texts it can say, ``embedding`` and ``output`` map (token, column) to
    weights, and ``width`` is the number of columns, a multiple of 32. Each layer adds
    ``attention`` times the mean of all tokens so far, and is otherwise there to take time.
    """

    name: str
    pieces: Sequence[str]
    width: int
    embedding: Weights
    output: Weights
    attention: float = 0.0
    layers: int = 1
    feed_forward: int = 64
    context: int = 4096
    """How many tokens llama.cpp lets a conversation have, whatever it's asked for."""
    chat_template: str = field(default=_CHAT_TEMPLATE, repr=False)

    def write(self, path: Path) -> None:
        """Write the model as a GGUF file."""
        write_gguf(path, self._metadata(), list(self._tensors()))

    def _metadata(self) -> dict[str, Value]:
        heads = self.width // _HEAD_WIDTH
        return {
            "general.architecture": "llama",
            "general.name": self.name,
            "general.file_type": 1,
            "llama.vocab_size": FIRST_PIECE + len(self.pieces),
            "llama.context_length": self.context,
            "llama.embedding_length": self.width,
            "llama.block_count": self.layers,
            "llama.feed_forward_length": self.feed_forward,
            "llama.attention.head_count": heads,
            "llama.attention.head_count_kv": heads,
            "llama.rope.dimension_count": _HEAD_WIDTH,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "tokenizer.chat_template": self.chat_template,
            **self._tokenizer(),
        }

    def _tokenizer(self) -> dict[str, Value]:
        count = len(self.pieces)
        return {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [
                *_CONTROL,
                *(f"<0x{byte:02X}>" for byte in range(256)),
                *(piece.replace(" ", "\u2581") for piece in self.pieces),
            ],
            "tokenizer.ggml.scores": [0.0] * FIRST_PIECE + [-float(rank) for rank in range(count)],
            "tokenizer.ggml.token_type": [
                _UNKNOWN_TYPE,
                *[_CONTROL_TYPE] * (len(_CONTROL) - 1),
                *[_BYTE_TYPE] * 256,
                *[_NORMAL_TYPE] * count,
            ],
            "tokenizer.ggml.unknown_token_id": _UNKNOWN,
            "tokenizer.ggml.bos_token_id": _BEGIN,
            "tokenizer.ggml.eos_token_id": END_OF_TURN,
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.add_space_prefix": False,
        }

    def _tensors(self) -> list[Tensor]:
        vocabulary = FIRST_PIECE + len(self.pieces)
        tensors = [
            Tensor("token_embd.weight", vocabulary, self.width, self.embedding),
            Tensor("output.weight", vocabulary, self.width, self.output),
            self._norm("output_norm"),
        ]
        for layer in range(self.layers):
            tensors += self._layer(f"blk.{layer}")
        return tensors

    def _layer(self, prefix: str) -> list[Tensor]:
        width, inner = self.width, self.feed_forward
        unity = {(column, column): 1.0 for column in range(width)}
        mean = dict.fromkeys(unity, self.attention)
        return [
            self._norm(f"{prefix}.attn_norm"),
            # Without questions and keys, every token gets the same attention.
            Tensor(f"{prefix}.attn_q.weight", width, width),
            Tensor(f"{prefix}.attn_k.weight", width, width),
            Tensor(f"{prefix}.attn_v.weight", width, width, unity if self.attention else {}),
            Tensor(f"{prefix}.attn_output.weight", width, width, mean if self.attention else {}),
            self._norm(f"{prefix}.ffn_norm"),
            Tensor(f"{prefix}.ffn_gate.weight", inner, width),
            Tensor(f"{prefix}.ffn_up.weight", inner, width),
            Tensor(f"{prefix}.ffn_down.weight", width, inner),
        ]

    def _norm(self, name: str) -> Tensor:
        ones = {(0, column): 1.0 for column in range(self.width)}
        return Tensor(f"{name}.weight", 1, self.width, ones, Precision.FLOAT32)


def demo_model(text: str = DEMO_TEXT) -> TinyLlama:
    """Return a model that answers ``text`` to every prompt, and then ends its turn."""
    pieces = _different_pieces(text)
    # One column for each piece, and column 0 for all that a prompt is made of.
    width = -(-(len(pieces) + 1) // _HEAD_WIDTH) * _HEAD_WIDTH
    tokens = [FIRST_PIECE + number for number in range(len(pieces))]
    embedding = dict.fromkeys(((token, 0) for token in range(FIRST_PIECE)), 1.0)
    embedding |= {(token, column): 1.0 for column, token in enumerate(tokens, 1)}
    # So large that no temperature makes another token likely.
    output = {(token, column): 16.0 for column, token in enumerate([*tokens, END_OF_TURN])}
    # What was said before doesn't matter to it, so any length will do.
    return TinyLlama("demo", pieces, width, embedding, output, context=_LONGEST_CONTEXT)


def _different_pieces(text: str) -> list[str]:
    """Cut ``text`` into pieces of which no two are the same: each says which one comes next."""
    pieces: list[str] = []
    pending = ""
    for word in re.findall(r"\s*\S+", text):
        pending += word
        if pending not in pieces:
            pieces.append(pending)
            pending = ""
    if pending:
        pieces[-1] += pending
    return pieces
