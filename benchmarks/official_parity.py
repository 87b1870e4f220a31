"""Equality with the released implementation: convert, run, compare every recorded number.

    python benchmarks/official_parity.py FOLDER...

Each folder holds a released checkpoint with its `config.json`, and `io.safetensors` with recorded
inputs (`in.*`) and results (`out.*`); a folder of TMANet holds its memory head alone. Every result
is computed anew through the public methods of the converted model. One row per result; the exit
code is 1 if any is further off than the tolerance or unknown. Token ids must be equal up to and
including the end token.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from valor.checkpoints.folder import load_model
from valor.checkpoints.official import convert, read_weights
from valor.checkpoints.official_tmanet import load_head
from valor.evaluation.predictions import write_json
from valor.evaluation.provenance import provenance
from valor.models.fusion import join, similarity
from valor.models.generation import GenerationConfig, generate
from valor.objectives.alignment import contrastive_loss
from valor.types import AUDIOVISUAL, Batch, Modality, SpecialIds, TextBatch

GROUPS = {"tv": Modality.VISION, "ta": Modality.AUDIO, "tva": AUDIOVISUAL}
SINGLE = {"v": Modality.VISION, "a": Modality.AUDIO}


class Parity:
    """A converted model with the recorded inputs of the released one."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.described = json.loads((folder / "config.json").read_text())
        convert(folder, work)
        self.model, _, _ = load_model(work)
        self.io = load_file(folder / "io.safetensors")
        self.special = SpecialIds(
            pad=self.described["special_tokens"]["pad"],
            start=self.described["special_tokens"]["bos"],
            end=self.described["special_tokens"]["eos"],
            mask=self.described["special_tokens"]["mask"],
        )
        pixels, sound = self.io["in.video_pixels"], self.io["in.audio_spectrograms"]
        batch = Batch(
            ids=[str(row) for row in range(len(pixels))],
            pixels=pixels,
            frame_valid=torch.ones(pixels.shape[:2], dtype=torch.bool),
            spectrograms=sound,
            window_valid=torch.ones(sound.shape[:2], dtype=torch.bool),
        )
        self.outputs = self.model.encode_media(batch)
        self.media = self.model.embed_media(self.outputs)
        self.memory = self.model.remember(self.outputs)
        self.texts = self.read("in.text_tokens")
        self.words = self.model.encode_text(self.texts)

    def read(self, name: str) -> TextBatch:
        ids = self.io[name]
        return TextBatch(token_ids=ids, valid=ids != self.special.pad)

    def hidden(self, modality: Modality, wanted: Tensor) -> tuple[Tensor, Tensor]:
        return self.outputs[modality].tokens.features.view(wanted.shape), wanted

    def features(self, name: str, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """A padded word has no features here."""
        found = self.words if name == "t" else self.media[SINGLE[name]]
        there = found.valid if wanted.ndim == found.vectors.ndim else found.valid[:, 0]
        ours = found.vectors if wanted.ndim == found.vectors.ndim else found.vectors[:, 0]
        return ours[there], wanted[there]

    def scores(self, group: str, padded_words: Literal["zero", "excluded"]) -> Tensor:
        return similarity(self.words, join(self.media, GROUPS[group]), padded_words=padded_words)

    def contrastive(self, group: str) -> Tensor:
        scores = self.scores(group, "zero")
        itself = torch.eye(len(scores), dtype=torch.bool)
        return contrastive_loss(scores, itself, self.model.log_scale)

    def logits(self, group: str) -> Tensor:
        decoder, masked = self.model.decoder, self.read("in.masked_tokens")
        prompt = decoder.caption_prompt(len(masked.valid))
        hidden = decoder.read(prompt, masked, self.memory, GROUPS[group])
        return decoder.word_logits(hidden)

    def captioning(self, group: str) -> Tensor:
        labels = self.io["in.masked_labels"]
        return F.cross_entropy(self.logits(group)[labels != -1], labels[labels != -1])

    def total(self) -> Tensor:
        ratio = self.described["options"]["contra_loss_ratio"]
        contrast = torch.stack([self.contrastive(group) for group in GROUPS]).mean()
        return ratio * contrast + torch.stack([self.captioning(group) for group in GROUPS]).mean()

    def written(self, group: str, num_beams: int, question: str | None, length: int) -> Tensor:
        return generate(
            self.model.decoder,
            self.memory,
            GROUPS[group],
            special=self.special,
            question=self.read(question) if question else None,
            config=GenerationConfig(num_beams=num_beams, max_tokens=length),
        ).token_ids

    def number(self, name: str, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Our value of a result, and the recorded one, both where the result is defined."""
        kind, _, rest = name.removeprefix("out.").rpartition("_")
        simple: dict[str, Callable[[str], Tensor]] = {
            "score": lambda group: self.scores(group, "zero"),
            "masked_score": lambda group: self.scores(group, "excluded"),
            "contrastive_loss": self.contrastive,
            "caption_loss": self.captioning,
        }
        if name == "out.total_loss":
            return self.total(), wanted
        if rest == "hidden":
            return self.hidden({"video": SINGLE["v"], "audio": SINGLE["a"]}[kind], wanted)
        if kind == "feat":
            return self.features(rest, wanted)
        if kind == "caption_logits":
            valid = self.io["in.masked_tokens"] != self.special.pad
            return self.logits(rest)[valid], wanted[valid]
        return simple[kind](rest), wanted

    def compare(self, name: str, tolerance: float) -> tuple[bool, str]:
        """Whether a result is equal, and what to print."""
        wanted = self.io[name]
        search = re.fullmatch(r"out\.(greedy|answer|beam(\d+))_tokens_(\w+)", name)
        if search:
            beams = int(search[2] or 1)
            question = "in.question_tokens" if search[1] == "answer" else None
            ours = self.written(search[3], beams, question, wanted.shape[1])
            same = sum(
                self.until_end(mine) == self.until_end(theirs)
                for mine, theirs in zip(ours, wanted, strict=True)
            )
            return same == len(wanted), f"{same} of {len(wanted)} texts equal"
        try:
            ours, wanted = self.number(name, wanted)
        except KeyError:
            return False, "unknown result"
        return compare_numbers(ours, wanted, tolerance)

    def until_end(self, ids: Tensor) -> list[int]:
        """Token ids before the end token; ours is cut there already."""
        row = ids.tolist()
        row = row[: row.index(self.special.end)] if self.special.end in row else row
        return [token for token in row if token != self.special.pad]


class MemoryParity:
    """A released TMANet head; upstream puts the memory's frames before the rows of a batch."""

    def __init__(self, folder: Path) -> None:
        self.io = load_file(folder / "io.safetensors")
        state = folder / "official_state_dict.safetensors"
        head = load_head(read_weights(state), where=str(state))
        current = self.io["in.query_features"]
        past = self.io["in.memory_features"].transpose(0, 1)
        keys, values = head.remember(past)
        self.found = {
            "out.query_key": head.query_key(current),
            "out.query_value": head.query_value(current),
            "out.memory_keys": keys.transpose(0, 1),
            "out.memory_values": values.transpose(0, 1),
            "out.read": head.join(current, past),
            "out.logits": head(current, past),
        }

    def compare(self, name: str, tolerance: float) -> tuple[bool, str]:
        """Whether a result is equal, and what to print."""
        if name not in self.found:
            return False, "unknown result"
        return compare_numbers(self.found[name], self.io[name], tolerance)


def compare_numbers(ours: Tensor, wanted: Tensor, tolerance: float) -> tuple[bool, str]:
    if ours.shape != wanted.shape:
        return False, f"sizes {list(ours.shape)} instead of {list(wanted.shape)}"
    off = (ours - wanted).abs().max().item()
    return off <= tolerance, f"largest difference {off:.1e}"


def read_parity(folder: Path, work: Path) -> Parity | MemoryParity:
    is_memory = "frames_in_memory" in json.loads((folder / "config.json").read_text())
    return MemoryParity(folder) if is_memory else Parity(folder, work)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--json", type=Path, help="write the differences by folder and result")
    parser.add_argument("--quick", action="store_true", help="the same; it takes seconds")
    arguments = parser.parse_args()
    rows: dict[str, dict[str, str]] = {}
    num, num_equal = 0, 0
    for folder in arguments.folders:
        with tempfile.TemporaryDirectory() as work, torch.no_grad():
            parity = read_parity(folder, Path(work) / "model")
            rows[folder.name] = {}
            for name in sorted(name for name in parity.io if name.startswith("out.")):
                equal, found = parity.compare(name, arguments.tolerance)
                print(f"{'ok ' if equal else 'OFF'} {folder.name:20} {name:28} {found}")
                rows[folder.name][name] = found
                num, num_equal = num + 1, num_equal + equal
    if arguments.json:
        write_json(arguments.json, {**rows, **provenance()})
    print(f"{num_equal} of {num} results equal in {len(arguments.folders)} released models")
    return int(num_equal < num)


if __name__ == "__main__":
    sys.exit(main())
