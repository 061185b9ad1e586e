"""How well the empty bins beside a carrier reveal the SNR, with the receive filter on and off.

    python benchmarks/guard_bands.py --num 640
    python benchmarks/guard_bands.py --protocol WiFi --num 2000

A logistic regression gets the mean and the standard deviation over time [dB] of the bins outside the carrier only, and
predicts which of the seven SNRs it is; chance is 14 %. It is scored twice: on values in dB relative to the recording's
mean power, and on values normalized as the model sees them, where the spread inside the carrier also shifts the bins
outside.
"""

import argparse

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lwm_spectro_hf import SpectrogramFeatureExtractor
from lwm_spectro_hf.data.recipe import PROTOCOLS, Recipe
from lwm_spectro_hf.data.synthesis import draw_recordings


def features(recipe: Recipe, num: int, normalization: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Statistics of the bins beyond the carrier and the filter's transition band, and the SNR."""
    window = "boxcar" if "synchronous" in recipe.receivers else "hann"
    extractor = SpectrogramFeatureExtractor(window_function=window, normalization=normalization)
    rows, labels = [], []
    for chunk in range(-(-num // recipe.chunk_size)):
        batch = draw_recordings(recipe, chunk, seed)
        frequencies = np.fft.fftshift(np.fft.fftfreq(extractor.fft_size, 1 / batch.sampling_rate))
        outside = np.abs(frequencies) > 0.5 * batch.bandwidth_hz * 1.25 + 2 * batch.sampling_rate / extractor.fft_size
        values = extractor.spectrogram(batch.iq)[:, 0][..., torch.from_numpy(outside)]
        rows.append(torch.cat([values.mean(1), values.std(1)], -1).numpy())
        labels.append(batch.snr_db.numpy())
    return np.concatenate(rows), np.concatenate(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, nargs="+", default=["LTE", "WiFi"], help="protocols with guard bands"
    )
    parser.add_argument("--num", type=int, default=1280, help="recordings of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| protocol | receiver | filter | relative to the mean power | as the model sees them |")
    print("| --- | --- | --- | --- | --- |")
    for protocol in args.protocol:
        for receiver in ("synchronous", "blind"):
            for share in (1.0, 0.0):
                recipe = Recipe(
                    protocols=(protocol,),
                    receivers={receiver: 1.0},
                    receive_filter=share,
                    full_load=1.0,
                    resource_blocks={"LTE": (6,)},
                    native_rate=0.0,
                    contiguous_view=1.0,
                    radio_rates_hz=(2.4e6,) if protocol == "LTE" else (40e6,),
                )
                cells = []
                for normalization in ("none", "per_sample"):
                    values, labels = features(recipe, args.num, normalization, args.seed)
                    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.03))
                    cells.append(100 * cross_val_score(model, values, labels.astype(int), cv=5).mean())
                state = "on" if share else "off"
                print(f"| {protocol} | {receiver} | {state} | {cells[0]:.0f} % | {cells[1]:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
