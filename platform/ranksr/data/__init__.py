"""Photographs in, patches and rank datasets out: Ray Data jobs, and the feeds that training draws from."""
