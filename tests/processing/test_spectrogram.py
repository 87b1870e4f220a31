"""Laws of the log-mel front end."""

import kaldi_native_fbank as knf
import numpy as np
import pytest
import torch

from valor.processing.spectrogram import SILENCE, SpectrogramConfig, log_mel, spectrogram_windows


def kaldi(waveform, config):
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.samp_freq = config.sample_rate_hz
    options.frame_opts.window_type = "hanning" if config.window == "hann" else config.window
    options.frame_opts.frame_length_ms = config.frame_s * 1000
    options.frame_opts.frame_shift_ms = config.hop_s * 1000
    options.mel_opts.num_bins = config.num_mels
    options.energy_floor = 0
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(config.sample_rate_hz, waveform.tolist())
    fbank.input_finished()
    return np.array([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


@pytest.mark.parametrize("window", ["hann", "povey"])
@pytest.mark.parametrize("rate_hz", [16_000, 22_050])
@pytest.mark.parametrize("num_mels", [64, 80, 128])
def test_equals_kaldi(window, rate_hz, num_mels):
    config = SpectrogramConfig(sample_rate_hz=rate_hz, num_mels=num_mels, window=window)
    time_s = torch.arange(rate_hz) / rate_hz
    tone = 0.3 * torch.sin(2 * torch.pi * 523 * time_s) + 0.02 * torch.randn(rate_hz)
    ours, theirs = log_mel(tone, config).numpy(), kaldi(tone, config)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_batch_equals_its_rows():
    waveforms = torch.randn(3, 8000)
    config = SpectrogramConfig()
    for row, waveform in zip(log_mel(waveforms, config), waveforms, strict=True):
        torch.testing.assert_close(row, log_mel(waveform, config))


def test_a_waveform_shorter_than_a_frame_gives_one_window_of_silence():
    config = SpectrogramConfig(hops_per_window=32)
    windows = spectrogram_windows(torch.zeros(10), config)
    silence = (SILENCE - config.mean) / (2 * config.deviation)
    torch.testing.assert_close(windows, torch.full((1, 64, 32), silence))


def test_an_exact_multiple_gets_no_empty_window():
    config = SpectrogramConfig(hops_per_window=50, num_windows=9)
    samples = 400 + 160 * 99
    assert len(spectrogram_windows(torch.randn(samples), config)) == 2
    assert len(spectrogram_windows(torch.randn(samples + 160), config)) == 3


def test_windows_of_a_long_sound_are_spread_over_it():
    config = SpectrogramConfig(hops_per_window=50, num_windows=3)
    waveform = torch.cat([torch.zeros(40_000), torch.randn(40_000)])
    windows = spectrogram_windows(waveform, config)
    assert len(windows) == 3
    assert windows[0].mean() < windows[-1].mean()
