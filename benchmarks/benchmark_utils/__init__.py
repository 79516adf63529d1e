"""What the benchmark's data sets, solvers and scripts share."""
