"""A stranger's objective: what is seen and what is heard of one recording should lie close."""

from typing import Any, Literal

from valor.config import configclass
from valor.models.fusion import similarity
from valor.objectives.base import LossTerm
from valor.types import Batch, Modality, SpecialIds

_KIND = "tests.thirdparty.objective:TogetherConfig"


@configclass
class TogetherConfig:
    kind: Literal["tests.thirdparty.objective:TogetherConfig"] = _KIND
    weight: float = 0.5

    def terms(
        self, encoded: Any, batch: Batch, decoder: Any, special: SpecialIds
    ) -> dict[str, LossTerm]:
        seen, heard = encoded.media[Modality.VISION], encoded.media[Modality.AUDIO]
        value = 1 - similarity(heard, seen).diagonal().mean()
        return {"together": LossTerm(value=value, weight=self.weight, num_rows=len(batch.ids))}
