"""The user study (paper, section 4.5): make one of a run, serve it to participants, evaluate their answers."""
