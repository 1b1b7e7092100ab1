"""Fault injection: trainings that are ended, refused and cut off; `harness` begins them."""
