"""Print the figures of the benchmark `chain` as JSON; the same as `sovrun bench chain --json`."""

import json

from sovrun.bench.scenarios import run_scenario

if __name__ == "__main__":
    print(json.dumps(run_scenario("chain"), indent=2))
