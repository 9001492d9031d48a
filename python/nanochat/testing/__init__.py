"""What tests and benchmarks share: error against an oracle, and fair timing."""
