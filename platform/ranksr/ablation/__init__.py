"""Ablations: study (what), schedule (in which order), tune (by Ray Tune), results (what they leave), show."""
