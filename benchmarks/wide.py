"""Print the figures of the benchmark `wide` as JSON; the same as `sovrun bench wide --json`."""

import json

from sovrun.bench.scenarios import run_scenario

if __name__ == "__main__":
    print(json.dumps(run_scenario("wide"), indent=2))
