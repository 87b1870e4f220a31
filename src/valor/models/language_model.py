"""A causal language model of the transformers library as the part of a system that writes.

Media stand in its prompt as vectors of its own width, between words, and it goes on from there. It
is frozen unless its configuration says otherwise; its architecture is part of ours, its weights are
parameters like any other, as with the towers.
"""

import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from torch import Tensor, nn

from valor.config import configclass
from valor.encoders.architectures import build_model
from valor.encoders.text import Memory
from valor.encoders.towers import TowerConfig, TransformersTower
from valor.errors import ModelError
from valor.models.generation import Generated, GenerationConfig
from valor.processing.tokenizer import Tokenizer
from valor.types import Groups, Modality, SpecialIds, TextBatch, as_groups, union

_SLOT = re.compile(r"<(vision|audio|text)>")
_NOT_ARCHITECTURE = ("_name_or_path", "dtype", "transformers_version")


@configclass
class PromptPart:
    """A stretch of the prompt: words, and what comes after them."""

    words: tuple[int, ...]
    """Token ids."""
    slot: Modality | None = None
    """Vision or audio, or text for the question. A row that does not have it lacks the words too;
    None for words alone, which every row has."""


def read_prompt(template: str, tokenizer: Tokenizer) -> tuple[PromptPart, ...]:
    """Read a prompt such as `video <vision> sound <audio> <text> answer`.

    Args:
        template: The words before a slot belong to it and are left out with it.
        tokenizer: The language model's.

    Returns:
        The parts in order.
    """
    *pieces, last = _SLOT.split(template)
    parts = [
        PromptPart(words=word_ids(words, tokenizer), slot=Modality.parse(slot))
        for words, slot in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return (*parts, PromptPart(words=word_ids(last, tokenizer)))


def word_ids(text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids of a text without start and end."""
    ids = tokenizer.encode([text], max_length=1000).token_ids[0].tolist()
    return tuple(ids[1:-1])


def read_language_model(source: str | Path) -> tuple[TowerConfig, nn.Module]:
    """Load a pretrained causal language model, frozen.

    Args:
        source: Hub id, or a folder as `save_pretrained` writes it.

    Returns:
        The configuration and the model.

    Raises:
        ModelError: If it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{source}: no language model can be loaded ({reason}); give a folder with config.json "
            "and model.safetensors, or the hub id of a causal model that can be reached"
        ) from None
    architecture = json.loads(model.config.to_json_string(use_diff=False))
    architecture |= {"architectures": [type(model).__name__]}
    config = TowerConfig(
        architecture={k: v for k, v in architecture.items() if k not in _NOT_ARCHITECTURE},
        dim=model.get_input_embeddings().embedding_dim,
        frozen=True,
        source=Path(source).name if Path(source).is_dir() else str(source),
    )
    return config, model


class LanguageDecoder(nn.Module):
    """Predicts words behind a prompt in which media and text take turns.

    Args:
        config: Architecture of the language model; whether it is frozen.
        prompt: Its parts; the last one is words alone.
        caption: Token ids of the request that takes the question's place for captions.
        model: With weights, from `read_language_model`; None builds one with random weights.
    """

    def __init__(
        self,
        config: TowerConfig,
        prompt: Sequence[PromptPart],
        caption: Sequence[int],
        model: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.tower = TransformersTower(config, model or build_model(config.architecture))
        self.prompt, self.caption = tuple(prompt), tuple(caption)
        self._inputs = inspect.signature(self.language_model.forward).parameters

    @property
    def language_model(self) -> Any:
        """The transformers model."""
        return self.tower.model

    def caption_prompt(self, num_rows: int) -> TextBatch:
        """The request for a caption."""
        ids = self._ids(self.caption).expand(num_rows, -1)
        return TextBatch(token_ids=ids, valid=torch.ones_like(ids, dtype=torch.bool))

    def question_prompt(self, questions: TextBatch) -> TextBatch:
        """The question without its start and end."""
        return TextBatch(token_ids=questions.token_ids[:, 1:-1], valid=questions.valid[:, 2:])

    def read(
        self, prompt: TextBatch, texts: TextBatch, memory: Memory, groups: Groups
    ) -> Float[Tensor, "rows length vocab"]:
        """Score the word after every word of the texts.

        Args:
            prompt: Question or request of each row.
            texts: With a start, whose place the prompt's last word takes.
            memory: Media vectors in the language model's width.
            groups: The modalities to look at, or those of each of a row's texts.

        Returns:
            Logits; those at the start are of the first word.
        """
        x, valid = self.embed_prompt(prompt, memory, groups)
        words = self._embed(texts.token_ids[:, 1:])
        valid = torch.cat([valid, texts.valid[:, 1:]], dim=1)
        num = texts.token_ids.shape[1]
        known = self.known(
            position_ids=(valid.cumsum(dim=1) - 1).clamp(min=0), logits_to_keep=num, use_cache=False
        )
        output = self.tower(
            inputs_embeds=torch.cat([x, words], dim=1), attention_mask=valid.long(), **known
        )
        return output.logits[:, -num:]

    def known(self, **inputs: Any) -> dict[str, Any]:
        """Those of the inputs that this language model takes."""
        return {name: value for name, value in inputs.items() if name in self._inputs}

    def word_logits(self, hidden: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
        """`read` gives logits already, since language models differ in how they make them."""
        return hidden.float()

    def embed_prompt(
        self, prompt: TextBatch, memory: Memory, groups: Groups
    ) -> tuple[Float[Tensor, "rows length dim"], Bool[Tensor, "rows length"]]:
        """The prompt as vectors; what a row lacks is padding before its first word."""
        several = as_groups(groups)
        vectors, valid = list[Tensor](), list[Tensor]()
        asked = (self._embed(prompt.token_ids), prompt.valid)
        for part in self.prompt:
            follows = []
            if part.slot is Modality.TEXT:
                follows = [asked]
            elif part.slot is not None:
                if part.slot not in union(several) or part.slot not in memory.tokens:
                    continue
                tokens = memory.tokens[part.slot]
                features = tokens.features.to(asked[0].dtype)
                sees = tokens.valid.new_tensor([[part.slot in group] for group in several])
                there = (tokens.valid[:, None] & sees).flatten(0, 1)
                follows = [(features.repeat_interleave(len(several), dim=0), there)]
            words = self._embed(self._ids(part.words)).expand(len(prompt.valid), -1, -1)
            present = torch.ones_like(words[..., 0], dtype=torch.bool)
            for _, there in follows:
                present = present & there.any(dim=1, keepdim=True)
            vectors += [words, *(x for x, _ in follows)]
            valid += [present, *(there for _, there in follows)]
        return _to_the_right(torch.cat(vectors, dim=1), torch.cat(valid, dim=1))

    @torch.no_grad()
    def write(
        self,
        prompt: TextBatch,
        memory: Memory,
        group: Modality,
        *,
        special: SpecialIds,
        config: GenerationConfig,
    ) -> Generated:
        """Generate by the language model's own means, over its cache.

        Args:
            prompt: Question or request of each row.
            memory: What to describe.
            group: The modalities to look at; a row may lack some of them.
            special: The tokenizer's special ids.
            config: How words are chosen. The best sum of log-probabilities wins among beams.

        Returns:
            The text of each row.
        """
        x, valid = self.embed_prompt(prompt, memory, group)
        ids = self.language_model.generate(
            inputs_embeds=x,
            attention_mask=valid.long(),
            generation_config=_own_config(config, special),
        )
        is_end = ids == special.end
        in_text = is_end.cumsum(dim=1) - is_end.long() == 0
        start = torch.full_like(ids[:, :1], special.start)
        texts = TextBatch(
            token_ids=torch.cat([start, ids], dim=1),
            valid=torch.cat([torch.ones_like(in_text[:, :1]), in_text], dim=1),
        )
        scores = self.read(prompt, texts, memory, group)[:, :-1].float().log_softmax(dim=-1)
        chosen = scores.gather(2, ids[..., None])[..., 0]
        return Generated(
            token_ids=ids.masked_fill(~in_text | is_end, special.pad),
            log_probability=chosen.masked_fill(~in_text, 0.0).sum(dim=1),
            num_tokens=in_text.sum(dim=1),
            ended=is_end.any(dim=1),
        )

    def _ids(self, ids: Sequence[int]) -> Tensor:
        device = self.language_model.get_input_embeddings().weight.device
        return torch.tensor([ids], dtype=torch.long, device=device)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.language_model.get_input_embeddings()(ids)


def _to_the_right(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Bring each row's valid vectors to its end, in order, and cut away what is padding in all."""
    order = valid.long().argsort(dim=1, stable=True)
    order = order[:, x.shape[1] - int(valid.sum(dim=1).max()) :]
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[2])), valid.gather(1, order)


def _own_config(config: GenerationConfig, special: SpecialIds) -> Any:
    """The same choices in the words of transformers."""
    from transformers import GenerationConfig as OwnConfig

    drawn = {"temperature": config.temperature, "top_k": config.top_k or 0, "top_p": config.top_p}
    return OwnConfig(
        max_new_tokens=config.max_tokens,
        min_new_tokens=config.min_tokens,
        num_beams=config.num_beams,
        length_penalty=0.0 if config.num_beams > 1 else 1.0,
        do_sample=bool(config.temperature),
        bos_token_id=special.start,
        eos_token_id=special.end,
        pad_token_id=special.pad,
        **(drawn if config.temperature else {}),
    )
