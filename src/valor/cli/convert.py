"""`valor convert`: a released checkpoint as a model folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from valor.cli.arguments import Json, parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Turn a released checkpoint into a model folder."""

    source: tyro.conf.Positional[Path]
    """Folder with a .pt or .safetensors and its hps.json, optionally vocab.txt; or a released
    folder with ckpt/ and log/ as it is. Or the .pth of a TMANet."""
    out: tyro.conf.Positional[Path]
    """Model folder to write."""
    json: Json = False
    """A JSON object on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="convert")
    if arguments.source.is_file():
        return _convert_tmanet(arguments)
    from valor.checkpoints.folder import load_model
    from valor.checkpoints.official import convert

    config = convert(arguments.source, arguments.out)
    model, processor, fingerprint = load_model(arguments.out)
    row = {
        "model": str(arguments.out),
        "fingerprint": fingerprint,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vision": config.vision.kind,
        "text": config.text.kind,
        "contrast": config.contrast,
        "cross_attention": config.decoder_config.cross_attention,
        "has_words": processor.config.has_words,
    }
    if arguments.json:
        print(json.dumps(row))
        return 0
    print(
        f"{arguments.out}: {row['parameters'] / 1e6:.1f} M parameters, "
        f"vision {config.vision.kind}, text {config.text.kind}, {config.contrast} contrast"
    )
    if not processor.config.has_words:
        print("no words: a vocab.txt (for CLIP texts also its tokenizer.json) must lie beside it")
    return 0


def _convert_tmanet(arguments: Arguments) -> int:
    from valor.checkpoints.official_tmanet import convert_tmanet

    config = convert_tmanet(arguments.source, arguments.out)
    row = {
        "model": str(arguments.out),
        "kind": config.kind,
        "past_frames": config.head.num_slots,
        "classes": len(config.classes),
    }
    text = (
        f"{arguments.out}: masks of {row['classes']} classes from {row['past_frames']} past frames"
    )
    print(json.dumps(row) if arguments.json else text)
    return 0
