"""What measures: the workloads W1 to W4 and the machine's raw commit rate, in one run, so that ratios can be read."""
