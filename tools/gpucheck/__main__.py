"""`python3 -m gpucheck models|check|measure`, for gpu_check.sh; and, wherever matplotlib, msgspec
and numpy are, `python3 -m gpucheck plot FILE.json -o FILE.png`.

Exit status: 0 done, 75 more is left, 1 failed.
"""

import sys


def main() -> int:
    # Each imports what the other's machine may lack.
    if sys.argv[1:2] == ["plot"]:
        from gpucheck.costs.plot import main as draw

        return draw(sys.argv[2:])
    from gpucheck.stages import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
