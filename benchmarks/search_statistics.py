"""Embeddings that follow the statistics of a trained model, in any number.

    python benchmarks/search_statistics.py MODEL WORLD [--json FILE]

embeds what a trained model sees, hears and reads in a rendered world, and writes what
`bench_search.py` draws its library and its queries from (`search_statistics.json`): in the 48
directions in which its vectors lie (98 % of their length), the mean and covariance of a segment's
vision and audio vectors, how tokens of one segment differ, how much weights vary, and how each word
of a text, by the rank of its weight, follows from the segment that the text is about. What is left
of a vector is noise of that length in all dimensions.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from valor.data.manifest import read_manifest
from valor.inference import load
from valor.models.fusion import token_weights
from valor.models.verbs import need_embedder
from valor.types import Embeddings, Modality

NUM_DIRECTIONS = 48
NUM_WORDS = 6
"""The others of a text have weights below 0.001."""
NUM_CAUSES = 12
"""Directions of each modality that words follow from."""
NUM_TOKENS = {Modality.VISION: 8, Modality.AUDIO: 2}
SINGLES = tuple(NUM_TOKENS)


@dataclass(frozen=True)
class Side:
    """Vectors of one modality, or the words of one rank."""

    mean: list[float]
    factor: list[list[float]]
    """Media: Cholesky factor of the covariance. Words: what follows from the segment."""
    deviation: list[float]
    """Media: of a segment's tokens around their mean. Words: of what does not follow."""
    rest: float
    """Length of what the directions leave out."""
    logit: tuple[float, float]
    """Mean and deviation."""


@dataclass(frozen=True)
class Statistics:
    """What a model's embeddings are like."""

    source: str
    causes: dict[str, list[list[float]]]
    """By modality, the directions that words follow from."""
    media: dict[str, Side]
    words: dict[str, list[Side]]
    """By what a text is about, by rank."""

    @classmethod
    def read(cls, path: Path) -> "Statistics":
        values = json.loads(path.read_text(encoding="utf-8"))
        media = {name: Side(**side) for name, side in values["media"].items()}
        words = {name: [Side(**side) for side in sides] for name, sides in values["words"].items()}
        return cls(source=values["source"], causes=values["causes"], media=media, words=words)


class Generator:
    """Draws segments, and texts about them.

    Args:
        statistics: Of which kind.
        dim: Width of the embeddings.
        seed: Of everything.
    """

    def __init__(self, statistics: Statistics, *, dim: int, seed: int) -> None:
        self._statistics = statistics
        self._random = torch.Generator().manual_seed(seed)
        self._basis = torch.linalg.qr(self._normal(dim, NUM_DIRECTIONS)).Q

    def segments(self, num: int) -> tuple[dict[Modality, Embeddings], torch.Tensor]:
        """Return embeddings by modality, and what texts about these segments follow from."""
        media, causes = {}, []
        for single, num_tokens in NUM_TOKENS.items():
            side = self._statistics.media[single.label]
            factor, spread = torch.tensor(side.factor), torch.tensor(side.deviation)
            middle = torch.tensor(side.mean) + self._normal(num, NUM_DIRECTIONS) @ factor.T
            tokens = middle[:, None] + self._normal(num, num_tokens, NUM_DIRECTIONS) * spread
            logits = side.logit[0] + side.logit[1] * self._normal(num, 1).expand(-1, num_tokens)
            media[single] = self._embeddings(tokens, logits, rest=torch.tensor([side.rest]))
            causes.append(middle @ torch.tensor(self._statistics.causes[single.label]).T)
        return media, torch.cat(causes, dim=1)

    def texts(self, about: str, causes: torch.Tensor) -> Embeddings:
        """Return the words of a text about each segment."""
        sides = self._statistics.words[about]
        words, logits = [], []
        for side in sides:
            noise = self._normal(len(causes), NUM_DIRECTIONS) * torch.tensor(side.deviation)
            follows = causes @ torch.tensor(side.factor)
            words.append(torch.tensor(side.mean) + follows + noise)
            logits.append(side.logit[0] + side.logit[1] * self._normal(len(causes)))
        rest = torch.tensor([side.rest for side in sides])
        return self._embeddings(torch.stack(words, dim=1), torch.stack(logits, dim=1), rest=rest)

    def _embeddings(
        self, tokens: torch.Tensor, logits: torch.Tensor, *, rest: torch.Tensor
    ) -> Embeddings:
        dim = len(self._basis)
        inside = F.normalize(tokens, dim=-1) * (1 - rest**2).sqrt()[:, None] @ self._basis.T
        noise = self._normal(*tokens.shape[:2], dim) * (rest / dim**0.5)[:, None]
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool)
        vectors = F.normalize(inside + noise, dim=-1)
        return Embeddings(vectors=vectors, weight_logits=logits, valid=valid)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._random)


def fit(model: str, world: Path, *, num: int = 1000) -> Statistics:
    embedder = need_embedder(load(model))
    records = read_manifest(world)[:num]
    parts: dict[Modality, list[Embeddings]] = defaultdict(list)
    for start in range(0, len(records), 16):
        segments = [embedder.read(str(r.media)) for r in records[start : start + 16]]
        for single, part in embedder.embed_media(segments).items():
            parts[single].append(part)
    media = {single: _joined(parts[single]) for single in SINGLES}
    texts: dict[str, tuple[list[str], list[int]]] = defaultdict(lambda: ([], []))
    for row, record in enumerate(records):
        for caption in record.captions:
            texts[caption.about.label][0].append(caption.text)
            texts[caption.about.label][1].append(row)
    words = {about: (embedder.embed_text(said), rows) for about, (said, rows) in texts.items()}
    return describe(media, words, source=f"{Path(model).name} on {len(records)} segments")


def describe(
    media: dict[Modality, Embeddings],
    texts: dict[str, tuple[Embeddings, list[int]]],
    *,
    source: str,
) -> Statistics:
    """Fit; each text comes with the row of media that it is about."""
    tokens = [media[single].vectors for single in SINGLES]
    said = torch.cat([text.vectors[text.valid] for text, _ in texts.values()])
    second = [_second_moment(part.flatten(0, 1)) for part in tokens] + [_second_moment(said)]
    basis = torch.linalg.eigh(torch.stack(second).sum(dim=0)).eigenvectors[:, -NUM_DIRECTIONS:]
    middles, sides, causes = [], {}, {}
    for single in SINGLES:
        inside = media[single].vectors @ basis
        middle = inside.mean(dim=1)
        covariance = torch.cov(middle.T) + 1e-6 * torch.eye(NUM_DIRECTIONS)
        directions = torch.linalg.eigh(covariance).eigenvectors[:, -NUM_CAUSES:].T
        num = inside.shape[1]
        spread = (inside.var(dim=1).mean(dim=0).sqrt()) if num > 1 else torch.zeros(NUM_DIRECTIONS)
        sides[single.label] = _side(
            middle.mean(dim=0),
            torch.linalg.cholesky(covariance),
            spread if num > 1 else torch.tensor(sides["vision"].deviation),
            inside,
            media[single].weight_logits.mean(dim=1),
        )
        causes[single.label] = directions.tolist()
        middles.append(middle @ directions.T)
    cause = torch.cat(middles, dim=1)
    seen, heard = (F.normalize(media[single].vectors.mean(dim=1), dim=-1) for single in SINGLES)
    apart = (seen - heard) @ basis
    words = {
        about: _words(text, cause[rows], apart[rows], basis)
        for about, (text, rows) in texts.items()
    }
    return Statistics(source=source, causes=causes, media=sides, words=words)


def _words(
    text: Embeddings, cause: torch.Tensor, apart: torch.Tensor, basis: torch.Tensor
) -> list[Side]:
    """Regress the words of each rank on what the text is about.

    Of the two that matter most, the one that is nearer to what is seen comes first.
    """
    order = token_weights(text).argsort(dim=1, descending=True)[:, :NUM_WORDS]
    rows = torch.arange(len(order))[:, None]
    two = text.vectors[rows, order[:, :2]] @ basis
    nearer = torch.einsum("twe,te->tw", two, apart).argsort(dim=1, descending=True)
    order[:, :2] = order[rows, nearer]
    inside, logits = text.vectors[rows, order] @ basis, text.weight_logits[rows, order]
    known = torch.cat([cause, torch.ones(len(cause), 1)], dim=1)
    sides = []
    for rank in range(order.shape[1]):
        solution = torch.linalg.lstsq(known, inside[:, rank]).solution
        left = (inside[:, rank] - known @ solution).std(dim=0)
        sides.append(_side(solution[-1], solution[:-1], left, inside[:, rank], logits[:, rank]))
    return sides


def _side(
    mean: torch.Tensor,
    factor: torch.Tensor,
    deviation: torch.Tensor,
    inside: torch.Tensor,
    logits: torch.Tensor,
) -> Side:
    rest = (1 - inside.square().sum(dim=-1).mean()).clamp(min=0).sqrt()
    return Side(
        mean=mean.tolist(),
        factor=factor.tolist(),
        deviation=deviation.tolist(),
        rest=rest.item(),
        logit=(logits.mean().item(), logits.std().item()),
    )


def _second_moment(vectors: torch.Tensor) -> torch.Tensor:
    return vectors.T @ vectors / len(vectors)


def _joined(parts: list[Embeddings]) -> Embeddings:
    return Embeddings(
        vectors=torch.cat([part.vectors for part in parts]),
        weight_logits=torch.cat([part.weight_logits for part in parts]),
        valid=torch.cat([part.valid for part in parts]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("world", type=Path, help="its manifest")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--quick", action="store_true", help="200 segments")
    arguments = parser.parse_args()
    found = fit(arguments.model, arguments.world, num=200 if arguments.quick else 1000)
    values = json.loads(json.dumps(asdict(found)), parse_float=lambda text: round(float(text), 3))
    arguments.json.write_text(json.dumps(values) + "\n", encoding="utf-8")
    print(f"{arguments.json}: {found.source}")


if __name__ == "__main__":
    main()
