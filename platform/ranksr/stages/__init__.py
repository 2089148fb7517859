"""The Ray Data work of four stages: patches, calibration, rank dataset, evaluation."""
