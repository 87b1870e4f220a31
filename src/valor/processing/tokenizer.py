"""Text to token ids and back, with any `tokenizer.json`; a decoder's is BERT-like.

The tokenizers library does the work; this adds batching with masks and the training of a small
word-piece vocabulary from a corpus, for models that start from scratch.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as HubTokenizer
from torch import Tensor

from valor.errors import ModelError
from valor.types import SpecialIds, TextBatch

AnyTokenizer = TypeVar("AnyTokenizer", bound="TextTokenizer")

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class TextTokenizer:
    """Text to token ids, for a text encoder of any family: starts and ends texts as it learned to.

    Args:
        tokenizer: States its padding, or has BERT's.

    Raises:
        ModelError: If what to pad with is not known.
    """

    def __init__(self, tokenizer: HubTokenizer) -> None:
        stated = tokenizer.padding
        pad = stated["pad_id"] if stated else tokenizer.token_to_id(_SPECIAL[0])
        if pad is None:
            raise ModelError(f"tokenizer.json has no padding, and no token {_SPECIAL[0]}")
        self._tokenizer = tokenizer
        self._pad: int = pad
        sample = tokenizer.encode("a")
        self._ending = sample.ids[-1:] if sample.special_tokens_mask[-1] else []

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str], *, max_length: int) -> TextBatch:
        """Tokenize texts.

        Args:
            texts: One per row; an empty text gives a row without any valid token.
            max_length: Longest row in tokens, start and end included; the end token is kept.

        Returns:
            Padded ids, as long as the longest text.
        """
        rows = [self._ids(text, max_length) for text in texts]
        length = max((len(row) for row in rows), default=0) or 1
        padded = [row + [self._pad] * (length - len(row)) for row in rows]
        sizes = torch.tensor([len(row) for row in rows])
        return TextBatch(
            token_ids=torch.tensor(padded, dtype=torch.long).view(len(rows), length),
            valid=torch.arange(length)[None] < sizes[:, None],
        )

    def without_punctuation(self: AnyTokenizer) -> AnyTokenizer:
        """Let texts lose their punctuation first, and return self."""
        removed = normalizers.Replace(Regex("[" + re.escape(string.punctuation) + "]"), "")
        own = self._tokenizer.normalizer
        parts = [removed] if own is None else [removed, own]
        self._tokenizer.normalizer = normalizers.Sequence(parts)
        return self

    def to_json(self) -> str:
        """The `tokenizer.json` text."""
        return self._tokenizer.to_str(pretty=True)

    @classmethod
    def from_file(cls: type[AnyTokenizer], path: Path) -> AnyTokenizer:
        """Read a `tokenizer.json`; a missing or damaged one is a `ModelError`."""
        if not path.is_file():
            raise ModelError(f"{path}: missing, but a model folder holds a {path.name}")
        try:
            return cls(HubTokenizer.from_file(str(path)))
        except Exception as error:  # The library raises bare Exception for a damaged file.
            raise ModelError(f"{path}: {error}") from None

    @classmethod
    def from_hub(cls: type[AnyTokenizer], source: str | Path) -> AnyTokenizer:
        """Read the tokenizer of a transformers model by hub id or folder, or raise `ModelError`."""
        tokenizer, own = _read_from_hub(source)
        if own.pad_token_id is not None:
            tokenizer.enable_padding(pad_id=own.pad_token_id, pad_token=own.pad_token)
        return cls(tokenizer)

    def _ids(self, text: str, max_length: int) -> list[int]:
        if not text.strip():
            return []
        ids = self._tokenizer.encode(text).ids
        if len(ids) <= max_length:
            return ids
        return ids[: max_length - len(self._ending)] + self._ending


class Tokenizer(TextTokenizer):
    """What a decoder reads and writes: `[CLS] words [SEP]`, padded with `[PAD]`, as BERT does it.

    Args:
        tokenizer: With BERT's five special tokens, or one that states its padding and puts special
            tokens of its own around texts, as those of `for_language_model` do.

    Raises:
        ModelError: If a special token is missing.
    """

    def __init__(self, tokenizer: HubTokenizer) -> None:
        super().__init__(tokenizer)
        ids = {token: tokenizer.token_to_id(token) for token in _SPECIAL}
        missing = [token for token, index in ids.items() if index is None]
        pad, _, start, end, mask = (index or 0 for index in ids.values())
        if missing:
            around = tokenizer.encode("")
            if not tokenizer.padding or len(around.ids) != 2 or 0 in around.special_tokens_mask:
                raise ModelError(
                    f"tokenizer.json lacks {', '.join(missing)}; give a BERT-like one, or one "
                    "of a language model that starts, ends and pads texts"
                )
            (start, end), pad, mask = around.ids, self._pad, -1
        self.special = SpecialIds(pad=pad, start=start, end=end, mask=mask)

    @classmethod
    def for_language_model(cls, source: str | Path) -> "Tokenizer":
        """Read a causal language model's tokenizer and let it start and end texts.

        A model without a token for the start or for padding uses that of the end; there is no
        [MASK], whose id is -1.

        Args:
            source: Hub id or folder of the model.

        Returns:
            The tokenizer.

        Raises:
            ModelError: If it cannot be read or has no token for the end.
        """
        tokenizer, own = _read_from_hub(source)
        end = own.eos_token
        if end is None:
            raise ModelError(f"{source}: the tokenizer has no token that ends a text")
        start, pad = own.bos_token or end, own.pad_token or end
        tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad), pad_token=pad)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in {start, end}],
        )
        return cls(tokenizer)

    def decode(self, token_ids: Int[Tensor, "texts length"]) -> list[str]:
        """Turn rows of ids back into texts, without special tokens."""
        return self._tokenizer.decode_batch(token_ids.tolist())

    @classmethod
    def from_vocabulary(cls, path: Path) -> "Tokenizer":
        """Read the `vocab.txt` of an uncased BERT, as VALOR uses it.

        Texts lose their punctuation and upper case (upstream `data/data.py`).

        Args:
            path: One word piece per line.

        Returns:
            The tokenizer.

        Raises:
            ModelError: If the file cannot be read or lacks a special token.
        """
        try:
            pieces = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: cannot be read ({error})") from None
        pieces = pieces[:-1] if not pieces[-1] else pieces
        return cls(_word_pieces(pieces, normalizers.BertNormalizer())).without_punctuation()

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int = 2000) -> "Tokenizer":
        """Make a lower-cased word-piece vocabulary of a corpus.

        It holds every character, so that any word can be spelt, and the most frequent words. Equal
        texts in any order give the same one, which the library's own trainer does not promise.

        Args:
            texts: The corpus.
            vocab_size: At most this many tokens, but for the characters.

        Returns:
            The tokenizer.
        """
        normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        counts = Counter(
            word
            for text in texts
            for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
        )
        characters = sorted({character for word in counts for character in word})
        pieces = [*_SPECIAL, *characters, *(f"##{character}" for character in characters)]
        words = sorted((word for word in counts if len(word) > 1), key=lambda w: (-counts[w], w))
        pieces += words[: max(0, vocab_size - len(pieces))]
        return cls(_word_pieces(pieces, normalizer))


def _read_from_hub(source: str | Path) -> tuple[HubTokenizer, Any]:
    """The tokenizer of a transformers model, untruncated, and the library's view of it."""
    from transformers import AutoTokenizer

    try:
        own: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer = HubTokenizer.from_str(own.backend_tokenizer.to_str())
    except (OSError, ValueError, ImportError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{source}: no tokenizer can be loaded ({reason}); give a folder with a "
            "tokenizer.json, or a hub id that is downloaded or can be reached"
        ) from None
    tokenizer.no_truncation()
    return tokenizer, own


def _word_pieces(pieces: Sequence[str], normalizer: normalizers.Normalizer) -> HubTokenizer:
    """BERT's tokenizer over a vocabulary, whose special tokens stay whole in any text."""
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    missing = [token for token in _SPECIAL if token not in vocabulary]
    if missing:
        raise ModelError(f"the vocabulary of {len(pieces)} pieces lacks {', '.join(missing)}")
    tokenizer = HubTokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(_SPECIAL))
    start, end = vocabulary["[CLS]"], vocabulary["[SEP]"]
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", end), ("[CLS]", start))
    return tokenizer
