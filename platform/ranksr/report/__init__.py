"""The report of a run: tables beside the paper's, training curves and pictures on one page that opens from disk."""

from ranksr.report.ablation.records import read_ablation, read_ablations
from ranksr.report.ablation.summary import ablation_text
from ranksr.report.page import build_report, duration, results_table_text
from ranksr.report.people import read_studies
from ranksr.report.rank.words import rank_dataset_json, rank_dataset_text
from ranksr.report.story import RankerStory, Story, read_ranker, remarks

__all__ = [
    "RankerStory",
    "Story",
    "ablation_text",
    "build_report",
    "duration",
    "rank_dataset_json",
    "rank_dataset_text",
    "read_ablation",
    "read_ablations",
    "read_ranker",
    "read_studies",
    "remarks",
    "results_table_text",
]
