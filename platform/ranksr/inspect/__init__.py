"""Commands that read a finished or running run and change nothing in it: show, compare, score, export."""
