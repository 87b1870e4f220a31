"""A small causal language model of the rendered world's template language, to put a bridge to.

It is trained on texts alone. Captions stand where a bridge will put media, or are left out, and
questions follow: so it reads, as large language models do, and knows what answers are likely
without any media. What it never sees is a picture or a sound.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as HubTokenizer
from torch import Tensor
from torch.nn import functional as F

from valor.data.manifest import Record
from valor.encoders.text import Memory
from valor.encoders.towers import TowerConfig
from valor.models.language_model import LanguageDecoder, read_prompt, word_ids
from valor.processing.tokenizer import Tokenizer
from valor.recipes.bridge import BridgeParts
from valor.training.monitor import Report, silent
from valor.types import AUDIOVISUAL, Modality, TextBatch, Tokens

_BATCH = 48
_WITHOUT = 0.3
"""How often a text comes without what is seen, and without what is heard."""
_LEARNING_RATE = 2e-3
_MAX_LENGTH = 64


def train_language_model(
    records: Sequence[Record],
    out: Path,
    *,
    num_steps: int = 1500,
    seed: int = 0,
    report: Report = silent,
) -> Path:
    """Train on the texts of a rendered world and write a folder as transformers does.

    Cost: 0.2 s of processor time for a step.

    Args:
        records: With captions about vision and audio, and questions.
        out: Folder with weights and tokenizer, for `recipes.bridge.assemble`.
        num_steps: Of 48 texts each.
        seed: Of weights and order.
        report: Told about progress.

    Returns:
        `out`.
    """
    parts = BridgeParts()
    tokenizer = _words(records, parts)
    torch.manual_seed(seed)
    model = _fresh_model(tokenizer)
    tower = TowerConfig(
        architecture={**model.config.to_dict(), "architectures": ["LlamaForCausalLM"]}, dim=128
    )
    prompt = read_prompt(parts.prompt, tokenizer)
    decoder = LanguageDecoder(tower, prompt, word_ids(parts.caption, tokenizer), model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _LEARNING_RATE, total_steps=num_steps, pct_start=0.1
    )
    rng = np.random.default_rng(seed)
    for step in range(num_steps):
        chosen = [records[int(row)] for row in rng.integers(len(records), size=_BATCH)]
        loss = _loss(decoder, tokenizer, chosen, rng, describes=step % 4 == 0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report("language", step + 1, num_steps)
    model.save_pretrained(out)
    _save_tokenizer(tokenizer, out)
    return out


def as_media(
    decoder: LanguageDecoder, tokenizer: Tokenizer, texts: dict[Modality, list[str]]
) -> Memory:
    """Word vectors of captions in the places of media; an empty text is a missing modality."""
    embed = decoder.language_model.get_input_embeddings()
    tokens = {}
    for modality, captions in texts.items():
        batch = decoder.question_prompt(tokenizer.encode(captions, max_length=_MAX_LENGTH))
        tokens[modality] = Tokens(features=embed(batch.token_ids), valid=batch.valid)
    return Memory(tokens=tokens, layers=[], sources={})


def captions_about(record: Record, about: Modality) -> list[str]:
    """The captions of a record that are about exactly these modalities."""
    return [caption.text for caption in record.captions if caption.about == about]


def _loss(
    decoder: LanguageDecoder,
    tokenizer: Tokenizer,
    records: Sequence[Record],
    rng: np.random.Generator,
    *,
    describes: bool,
) -> Tensor:
    """Cross-entropy of answers, or of captions, behind what is said to be seen and heard."""

    def draw(options: Sequence[Any]) -> Any:
        return options[int(rng.integers(len(options)))]

    said = {
        modality: [
            "" if rng.random() < _WITHOUT else draw(captions_about(record, modality))
            for record in records
        ]
        for modality in AUDIOVISUAL
    }
    if describes:
        prompt = decoder.caption_prompt(len(records))
        written = [draw(captions_about(record, AUDIOVISUAL)) for record in records]
    else:
        asked = [draw(record.questions) for record in records]
        questions = tokenizer.encode([q.text for q in asked], max_length=_MAX_LENGTH)
        prompt, written = decoder.question_prompt(questions), [q.answers[0] for q in asked]
    texts: TextBatch = tokenizer.encode(written, max_length=_MAX_LENGTH)
    logits = decoder.read(prompt, texts, as_media(decoder, tokenizer, said), AUDIOVISUAL)
    scored = texts.valid[:, 1:]
    return F.cross_entropy(logits[:, :-1][scored], texts.token_ids[:, 1:][scored])


def _fresh_model(tokenizer: Tokenizer) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.special.pad,
            bos_token_id=tokenizer.special.start,
            eos_token_id=tokenizer.special.end,
        )
    )


def _words(records: Sequence[Record], parts: BridgeParts) -> Tokenizer:
    texts = {text for record in records for text in record.texts}
    return Tokenizer.train(texts | {parts.prompt, parts.caption})


def _save_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=HubTokenizer.from_str(tokenizer.to_json()),
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
    ).save_pretrained(out)
