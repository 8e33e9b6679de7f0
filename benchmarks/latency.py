"""Print the figures of the benchmark `latency` as JSON; the same as `sovrun bench latency --json`."""

import json

from sovrun.bench.scenarios import run_scenario

if __name__ == "__main__":
    print(json.dumps(run_scenario("latency"), indent=2))
