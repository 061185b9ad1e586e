"""Compare the delay spreads and path counts of ray-traced cities with TR 38.901, as a table and a figure.

python dataset_scripts/compare_scenarios.py
python dataset_scripts/compare_scenarios.py --figure delay_spread.png munich florence
"""

import argparse

import numpy as np
from scipy.special import ndtri

from lwm_spectro_hf.channel.scenarios import delay_spread_statistics, list_scenarios, load_scenario

SHARES = (0.1, 0.5, 0.9)


def quantiles(values: np.ndarray) -> str:
    if len(values) == 0:
        return "none"
    low, median, high = np.quantile(values, SHARES)
    return f"{median:.0f} ({low:.0f} to {high:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "scenarios",
        nargs="*",
        default=list_scenarios(),
        help="scenario names or folders (default: all that are included in this package)",
    )
    parser.add_argument("--figure", help="draw the distributions to this file")
    arguments = parser.parse_args()

    print("| city | users | in sight | paths | delay spread in sight, ns | without, ns | latest path of 90 %, ns |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    spreads = {True: {}, False: {}}
    for name in arguments.scenarios:
        scenario = load_scenario(name)
        spread, sight = scenario.delay_spread_s.numpy() * 1e9, scenario.line_of_sight.numpy()
        for line_of_sight in (True, False):
            spreads[line_of_sight][scenario.name] = spread[sight == line_of_sight]
        latest = np.quantile(scenario.delays_s.max(1).values.numpy() * 1e9, 0.9)
        paths = quantiles(scenario.num_paths.numpy())
        print(
            f"| {scenario.name} | {len(scenario)} | {100 * sight.mean():.0f} % | {paths} | {quantiles(spread[sight])} "
            f"| {quantiles(spread[~sight])} | {latest:.0f} |"
        )
    for environment in ("UMi", "UMa"):
        cells = []
        for line_of_sight in (True, False):
            mean, std = delay_spread_statistics(environment, line_of_sight, scenario.carrier_hz)
            low, median, high = 10 ** (mean + std * ndtri(SHARES) + 9)
            cells.append(f"{median:.0f} ({low:.0f} to {high:.0f})")
        print(f"| **TR 38.901 {environment}** | | | | {cells[0]} | {cells[1]} | |")
    if arguments.figure:
        draw(spreads, scenario.carrier_hz, arguments.figure)


def draw(spreads: dict[bool, dict[str, np.ndarray]], carrier_hz: float, file: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, line_of_sight in zip(figure.subplots(1, 2, sharey=True), (True, False), strict=True):
        for name, values in spreads[line_of_sight].items():
            axes.semilogx(np.sort(values), np.linspace(0, 1, len(values)), lw=1, alpha=0.7, label=name)
        for environment, style in (("UMi", "k--"), ("UMa", "k:")):
            mean, std = delay_spread_statistics(environment, line_of_sight, carrier_hz)
            share = np.linspace(0.005, 0.995, 200)
            axes.semilogx(10 ** (mean + std * ndtri(share) + 9), share, style, lw=2, label=f"TR 38.901 {environment}")
        axes.set(xlim=(1, 2000), xlabel="RMS delay spread, ns", title="in sight" if line_of_sight else "out of sight")
    axes.legend(fontsize="x-small", ncols=2, loc="upper left")
    figure.axes[0].set_ylabel("share of users below")
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
