"""Training: one loop, two learners, and the one file that starts them as Ray Train workers."""
