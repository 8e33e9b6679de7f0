"""Print the figures of the benchmark `throughput` as JSON; the same as `sovrun bench throughput --json`."""

import json

from sovrun.bench.scenarios import run_scenario

if __name__ == "__main__":
    print(json.dumps(run_scenario("throughput"), indent=2))
