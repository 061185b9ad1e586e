"""Compute the best accuracy that the powers of resource elements allow, by SNR: the reference for all results.

    python examples/likelihood_bound.py --num-elements 576 --trials 8       # a minute; coarse
    python examples/likelihood_bound.py                                     # 9,216 elements: minutes
    python examples/likelihood_bound.py --trials 1000 --device cuda
    python examples/likelihood_bound.py --joint --num-elements 2304         # SNR, and SNR with modulation, as well

The observer knows the channel and sees one aligned rectangular window; see `lwm_spectro_hf.evaluation.bound`.
"""

import argparse

import torch

from lwm_spectro_hf.data.recipe import SNRS_DB
from lwm_spectro_hf.evaluation.bound import likelihood_bound
from lwm_spectro_hf.phy import lte, wifi
from lwm_spectro_hf.phy.sequences import CONSTELLATION_ORDERS
from lwm_spectro_hf.scripting import one_line_errors, usable_device

# LTE and 5G use the same four modulations.
SETS = {"WiFi": wifi.MODULATIONS, "LTE, 5G": lte.MODULATIONS, "all five": tuple(CONSTELLATION_ORDERS)}


def print_joint(modulations: tuple[str, ...], arguments: argparse.Namespace, generator: torch.Generator) -> None:
    """Print the accuracy for SNR, SNR with modulation, and modulation at unknown SNR; signal power known or not."""
    for target in ("snr_db", "joint", "modulation"):
        for known in (True, False):
            bound = likelihood_bound(
                modulations,
                SNRS_DB,
                arguments.num_elements,
                generator,
                target=target,
                known_power=known,
                num_trials=arguments.trials,
            )
            print(
                f"  {target:<10} of {len(bound.classes):>2}, power {'known' if known else 'unknown':<8}"
                f"{100 * bound.accuracy:5.1f} +- {100 * bound.standard_error:.1f}",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--num-elements", type=int, default=9216, help="resource elements per spectrogram (default: %(default)s)"
    )
    parser.add_argument("--trials", type=int, default=100, help="trials per class (default: %(default)s)")
    parser.add_argument("--joint", action="store_true", help="also compute the joint tasks over all SNRs")
    parser.add_argument("--device", default="cpu", help="device to compute on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random draws (default: %(default)s)")
    arguments = parser.parse_args()

    generator = torch.Generator(usable_device(arguments.device)).manual_seed(arguments.seed)
    print(f"Accuracy [%] +- standard error; {arguments.num_elements} elements, {arguments.trials} trials per class")
    print(f"{'SNR [dB]':<10}" + "".join(f"{snr_db:>13}" for snr_db in SNRS_DB))
    for name, modulations in SETS.items():
        print(f"{name:<10}", end="", flush=True)
        for snr_db in SNRS_DB:
            bound = likelihood_bound(
                modulations, (snr_db,), arguments.num_elements, generator, num_trials=arguments.trials
            )
            print(f"{100 * bound.accuracy:>7.1f} +-{100 * bound.standard_error:4.1f}", end="", flush=True)
        print(f"   {', '.join(modulations)}")
    if arguments.joint:
        for name, modulations in SETS.items():
            print(name)
            print_joint(modulations, arguments, generator)


if __name__ == "__main__":
    with one_line_errors():
        main()
