"""The AIM 2020 challenge: its tables, our counts and timings of its networks beside them, rank correlations."""
