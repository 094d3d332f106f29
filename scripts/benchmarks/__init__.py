"""What is measured, one package a benchmark; each follows `figures.Benchmark`."""
