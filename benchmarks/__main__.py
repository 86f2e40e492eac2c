"""``make bench``: run every scenario on a private server and print medians and ratios."""

import sys

from benchmarks import drain, publish
from benchmarks.support import private_server
from streamq import logs
from streamq.cli.output import print_table
from streamq.cli.run import run_async


async def main() -> None:
    """Run all scenarios."""
    logs.configure("error")
    rows: list[dict[str, object]] = []
    async with private_server() as url:
        for scenario in (publish, drain):
            print(f"{scenario.__name__} ...", file=sys.stderr)
            rows += await scenario.run(url)
    print_table(rows, list(rows[0]))


if __name__ == "__main__":
    run_async(main)
