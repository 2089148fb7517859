"""The report's part on rank datasets and Rankers, also printed by `ranksr dataset show`."""
