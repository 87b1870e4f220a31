"""Looks at held-out records while a run goes on: which weights are best, and when to stop.

A look measures the weights as the model folder would hold them, on a copy of the model, so that
training never notices. What was found so far is part of the run's state: a resumed run decides as
an uninterrupted one would.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor, nn

from valor.checkpoints.folder import weights_of
from valor.config import configclass
from valor.data.manifest import Record
from valor.data.reading import Source
from valor.errors import ConfigError, ManifestError, MediaError
from valor.evaluation.options import Options
from valor.evaluation.outputs import Outputs, merge
from valor.evaluation.retrieval import retrieval
from valor.evaluation.run import answering, captioning
from valor.inference import at_work
from valor.processes import gather, share
from valor.processing.processor import Processor
from valor.training.step import ObjectivesConfig
from valor.types import Embedder, Modality, Sample, as_groups

_AT_ONCE = 16
_DECIDING = {"retrieval": "mrr", "captioning": "cider", "answering": "accuracy"}
_SHOWN = {"retrieval": ("r1", "mrr"), "captioning": ("cider",), "answering": ("accuracy",)}

Weights = dict[str, Tensor]
Task = Literal["retrieval", "captioning", "answering"]


@configclass
class ProbeConfig:
    """Looks at held-out records while a run goes on; the best weights are kept in `best/`."""

    every: int = 0
    """Steps between two looks; 0 for none."""
    split: str = "val"
    """Of the data; it is not learned from."""
    num_records: int = 256
    """Looked at: the first so many."""
    task: Task | None = None
    """What is measured: `retrieval` by the mean reciprocal rank of texts to media, `captioning`
    by CIDEr, `answering` by accuracy. None takes the first of them that the run learns."""
    patience: int = 0
    """The run ends after so many looks in a row that were not better than the best; 0 for never."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        if min(self.every, self.patience) < 0 or self.num_records < 2:
            raise ValueError(
                f"every={self.every} and patience={self.patience} must be at least 0 and "
                f"num_records={self.num_records} at least 2"
            )


_NO_LOOKS = ProbeConfig()


class Probe:
    """Remembers the best look and knows when to stop.

    Args:
        config: How often, and how patient.
        measure: Figures of weights; `probe` decides, and higher is better.
        keep: Called with weights that are better than all before.
    """

    def __init__(
        self,
        config: ProbeConfig = _NO_LOOKS,
        measure: Callable[[Weights], Mapping[str, float]] = lambda weights: {},
        keep: Callable[[Weights], None] = lambda weights: None,
    ) -> None:
        self._config, self._measure, self._keep = config, measure, keep
        self.best: float | None = None
        self.num_waited = 0

    @property
    def state(self) -> dict[str, Any]:
        """What a resumed run needs to know."""
        return {"best": self.best, "num_waited": self.num_waited}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a `state`, if there is one."""
        if state:
            self.best, self.num_waited = state["best"], state["num_waited"]

    @property
    def gives_up(self) -> bool:
        """Whether patience is over."""
        return 0 < self._config.patience <= self.num_waited

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether to look after a step, counted from 0; the last one is looked at too."""
        every = self._config.every
        return every > 0 and ((step + 1) % every == 0 or step + 1 == num_steps)

    def look(self, weights: Weights) -> dict[str, float]:
        """Measure weights, and keep them if they are the best; returns the figures.

        Where they cannot be written, as the disk is full, a `TrainingError` says so.
        """
        figures = dict(self._measure(weights))
        if self.best is None or figures["probe"] > self.best:
            self.best, self.num_waited = figures["probe"], 0
            self._keep(weights)
        else:
            self.num_waited += 1
        return figures


class HeldOut:
    """Measures weights on held-out records; processes share them and agree on the figures.

    Args:
        model: Of the run's kind, to be filled with weights; nobody else uses it.
        processor: Its preprocessing.
        source: The held-out records; those that cannot be read are left out.
        objectives: Say what the run learns, from each part of its data.
        config: What is measured.
        progress: Told how many records of how many are read.

    Raises:
        ConfigError: If the run does not learn the task, or the model cannot do it.
        ManifestError: If fewer than two records can be read and have the texts.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Processor,
        source: Source,
        objectives: Sequence[ObjectivesConfig],
        config: ProbeConfig,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._task, self._groups = measured_task(objectives, config.task)
        self._model: Any = at_work(model.eval().requires_grad_(requires_grad=False), processor)
        self._model.caption_beams = 1
        if self._task == "retrieval" and not isinstance(self._model, Embedder):
            raise ConfigError("probe.task: the model embeds nothing; take captioning or answering")
        self._records: list[Record] = []
        self._samples: list[Sample] = []
        num = min(config.num_records, len(source))
        for index in share(range(num)):
            try:
                record, sample = source.load(index, processor, None)
            except MediaError:
                continue
            finally:
                progress(index + 1, num)
            self._records.append(record)
            self._samples.append(sample)
        wanted = "questions" if self._task == "answering" else "captions"
        num_read = sum(gather(sum(bool(getattr(record, wanted)) for record in self._records)))
        if num_read < 2:
            raise ManifestError(
                f"{num_read} of {num} held-out records can be read and have {wanted}; "
                "give two or more"
            )

    @torch.no_grad()
    def __call__(self, weights: Weights) -> dict[str, float]:
        """Figures by group of modalities, and their mean, `probe`, by which weights are compared.

        Args:
            weights: All of the model's, by name.

        Returns:
            `probe`, and figures such as `probe/r1/audiovisual`.

        Raises:
            ManifestError: If no held-out record has the media that the task needs.
        """
        for name, tensor in weights_of(self._model.system).items():
            tensor.copy_(weights[name])
        own = [self._outputs(first) for first in range(0, len(self._records), _AT_ONCE)]
        found = self._report(merge([part for parts in gather(own) for part in parts]))
        if not found:
            raise ManifestError(
                f"no held-out record has the media that {self._task} needs; "
                "name others with --probe.split"
            )
        figures = {
            f"probe/{name}/{label}": float(row[name])
            for label, row in found.items()
            for name in _SHOWN[self._task]
        }
        deciding = _DECIDING[self._task]
        figures = {"probe": fmean(float(row[deciding]) for row in found.values()), **figures}
        return gather(figures)[0]  # A rank that differs in the last bit must not decide otherwise.

    def _outputs(self, first: int) -> Outputs:
        """What the model says of some of this process's records."""
        cut = slice(first, first + _AT_ONCE)
        outputs, samples = Outputs(records=self._records[cut]), self._samples[cut]
        if self._task == "retrieval":
            outputs.media = self._model.embed_samples(samples)
            return outputs
        asked = [(samples[row], question.text) for row, question in outputs.questions]
        for group in self._groups:
            if self._task == "captioning":
                written = self._model.write(samples, group)
                outputs.captions[group] = [text if used else None for text, used, _ in written]
            elif asked:
                shown, questions = zip(*asked, strict=True)
                written = self._model.write(shown, group, questions)
                outputs.answers[group] = [text for text, _, _ in written]
        return outputs

    def _report(self, outputs: Outputs) -> dict[str, Any]:
        """Figures by label of a group."""
        options = Options(groups=tuple(self._groups))
        if self._task == "retrieval":
            report = retrieval(self._model, outputs, options)
            return {label: row["text_to_media"] for label, row in report.items()}
        measure = captioning if self._task == "captioning" else answering
        return measure(outputs, options)


def measured_task(
    objectives: Sequence[ObjectivesConfig], wanted: Task | None
) -> tuple[Task, Sequence[Modality]]:
    """Find what is measured.

    Args:
        objectives: Of the run, from each part of its data.
        wanted: None for the first task that the run learns.

    Returns:
        The task, and the groups of media that the run learns it from.

    Raises:
        ConfigError: If the run does not learn it.
    """
    groups: dict[Task, dict[Modality, None]] = {"retrieval": {}, "captioning": {}, "answering": {}}
    for own in objectives:
        if own.alignment:
            groups["retrieval"] |= dict.fromkeys(own.alignment.groups)
        if writing := own.captioning or own.self_critical:
            groups["captioning"] |= dict.fromkeys(as_groups(writing.groups))
        if own.answering:
            groups["answering"] |= {own.answering.using: None}
    learned: list[Task] = [name for name in groups if groups[name]]
    task = wanted or next(iter(learned), None)
    if task not in learned:
        raise ConfigError(
            f"probe.task: the run learns {', '.join(learned) or 'nothing that can be measured'}"
            f"{f', not {task}' if task else '; set probe.every to 0'}"
        )
    return task, list(groups[task])
