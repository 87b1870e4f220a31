"""Caption writing at base size: encode and decode times against the matrix-product rate.

ViT-B/16 at 224 px, 4 frames, 1 audio window, 12-layer decoder, beam 3, batch 2, 2 CPU threads,
float32, 30 tokens forced. The limit of encoding, 1, is the time that its 326 GFLOP take at the
float32 matrix rate measured in the same run. `decode_s` contains the cross-attention keys and
values. Times and rate are the best of several.

Beside it stands the cached beam search of a transformers encoder-decoder of equal size (BART with
a 12-layer decoder of 768 dimensions over as many encoder states), and decode time by length.
"""

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from valor.config import evolve
from valor.encoders.text import Memory
from valor.evaluation.provenance import finish
from valor.models.generation import GenerationConfig, generate
from valor.models.valor import Valor, ValorConfig
from valor.types import AUDIOVISUAL, Batch, SpecialIds

SPECIAL = SpecialIds(pad=0, start=101, end=102, mask=103)
ENCODE_FLOP = 326e9
"""Of two samples: multiplications and additions of ViT-B/16 on 8 frames and AST on 2 windows."""


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matrix_rate() -> float:
    """Float32 operations per second of a matrix product."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / min(timed(lambda: a @ b) for _ in range(9))


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def fastest(call: Callable[[], object]) -> float:
    return min(timed(call) for _ in range(2))


def build() -> tuple[Valor, Batch]:
    torch.manual_seed(0)
    model = Valor(evolve(ValorConfig(), {"text.dropout": 0.0})).eval()
    model.decoder.pack()
    batch = Batch(
        ids=["a", "b"],
        pixels=torch.randn(2, 4, 3, 224, 224),
        frame_valid=torch.ones(2, 4, dtype=torch.bool),
        spectrograms=torch.randn(2, 1, 64, 512),
        window_valid=torch.ones(2, 1, dtype=torch.bool),
    )
    return model, batch


def write(model: Valor, outputs: dict, tokens: int, num_beams: int = 3) -> None:
    """Keys and values of the media, then `tokens` words, however soon the text would end."""
    write_from(model, model.remember(outputs), tokens, num_beams)


def write_from(model: Valor, memory: Memory, tokens: int, num_beams: int) -> None:
    config = GenerationConfig(num_beams=num_beams, min_tokens=tokens, max_tokens=tokens)
    written = generate(model.decoder, memory, AUDIOVISUAL, special=SPECIAL, config=config)
    if written.num_tokens.tolist() != [tokens] * 2:
        raise AssertionError(f"wrote {written.num_tokens.tolist()} tokens, not {tokens}")


def transformers_search(num_states: int) -> Callable[[int], Tensor]:
    """Cached beam search of an encoder-decoder of equal size over given encoder states."""
    from transformers import BartConfig, BartForConditionalGeneration
    from transformers.modeling_outputs import BaseModelOutput

    config = BartConfig(
        vocab_size=30_522,
        d_model=768,
        encoder_layers=1,
        decoder_layers=12,
        decoder_attention_heads=12,
        decoder_ffn_dim=3072,
        encoder_ffn_dim=64,
        max_position_embeddings=128,
        pad_token_id=SPECIAL.pad,
        bos_token_id=SPECIAL.start,
        eos_token_id=SPECIAL.end,
        decoder_start_token_id=SPECIAL.start,
        forced_eos_token_id=None,
    )
    model: Any = BartForConditionalGeneration(config).eval()
    states = torch.randn(2, num_states, 768)

    def search(tokens: int) -> Tensor:
        return model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=torch.ones(2, num_states, dtype=torch.long),
            num_beams=3,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
        )

    return search


@torch.inference_mode()
def measure(repeats: int) -> dict[str, float]:
    before = peak_bytes()
    model, batch = build()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    write_from(model, model.remember(model.encode_media(batch)), 30, num_beams=3)
    peak = peak_bytes() - before
    outputs = model.encode_media(batch)
    encodes, decodes, rates = [], [], []
    for _ in range(repeats):
        rates.append(matrix_rate())
        encodes.append(timed(lambda: model.encode_media(batch)))
        decodes.append(timed(lambda: write(model, outputs, 30)))
    by_length = {n: fastest(partial(write, model, outputs, n)) for n in (10, 60)}
    greedy = fastest(partial(write, model, outputs, 30, num_beams=1))
    num_states = sum(output.tokens.valid.shape[1] for output in outputs.values())
    search = transformers_search(num_states)
    theirs = {n: fastest(partial(search, n)) for n in (10, 30, 60)}
    rate, encode, decode = max(rates), min(encodes), min(decodes)
    ideal = ENCODE_FLOP / rate
    return {
        "decode_over_ideal_encode": decode / ideal,
        "encode_over_ideal": encode / ideal,
        "decode_over_encode": decode / encode,
        "peak_over_weights": peak / weights,
        "transformers_over_ours_10": theirs[10] / by_length[10],
        "transformers_over_ours_30": theirs[30] / decode,
        "transformers_over_ours_60": theirs[60] / by_length[60],
        "seconds_per_token_10_to_30": (decode - by_length[10]) / 20,
        "seconds_per_token_30_to_60": (by_length[60] - decode) / 30,
        "encode_s": encode,
        "decode_s": decode,
        "decode_greedy_s": greedy,
        "decode_10_s": by_length[10],
        "decode_60_s": by_length[60],
        "ideal_encode_s": ideal,
        "matrix_gflop_per_s": rate / 1e9,
        "weights_mib": weights / 2**20,
        "peak_mib": peak / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    found = measure(1 if arguments.quick else 5)
    finish(found, arguments.json)


if __name__ == "__main__":
    main()
