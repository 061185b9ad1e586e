"""Trace the scenarios that ship with the package, with Sionna RT on a CPU.

A small one, in under a minute:

    python dataset_scripts/trace_scenarios.py --num-users 60 --out scenarios oldtown_brick

All twenty, as shipped (LLVM 22 of Debian's `libllvm22`; other versions abort on some processors):

    export DRJIT_LIBLLVM_PATH=/usr/lib/x86_64-linux-gnu/libLLVM-22.so
    pip install '.[raytracing,data]'
    python dataset_scripts/trace_scenarios.py --out src/lwm_spectro_hf/channel/scenarios_data
"""

import argparse
import time

from lwm_spectro_hf.channel.raytracing import TRACED_CITIES, Tracing, trace_scenario
from lwm_spectro_hf.extras import require
from lwm_spectro_hf.scripting import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "cities", nargs="*", default=TRACED_CITIES, help=f"any of {', '.join(TRACED_CITIES)} (default: all)"
    )
    parser.add_argument("--out", required=True, help="folder to write, with one subfolder per city")
    parser.add_argument("--num-users", type=int, default=Tracing.num_users)
    parser.add_argument("--seed", type=int, default=Tracing.seed)
    parser.add_argument("--threads", type=int, help="Dr.Jit threads (default: all cores)")
    arguments = parser.parse_args()
    if arguments.threads:
        require("drjit", extra="raytracing").set_thread_count(arguments.threads)
    for city in arguments.cities:
        start = time.perf_counter()
        print(city, flush=True)
        folder = trace_scenario(city, arguments.out, Tracing(num_users=arguments.num_users, seed=arguments.seed))
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"  {size / 1e3:.0f} kB in {folder}, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
