"""`python -m lwm_spectro_hf` is the command `lwm-spectro`."""

from lwm_spectro_cli import main

if __name__ == "__main__":
    raise SystemExit(main())
