"""An ablation study: each trial is the pipeline with a few overrides.

python jobs/ablation.py configs/demo.yaml configs/ablations/loss.yaml --run runs/demo
ray job submit --working-dir . -- python jobs/ablation.py configs/paper.yaml configs/ablations/loss.yaml --run s3://bucket/paper
"""

import pathlib
import sys

# A submitted job has the repository as its working folder and nothing of ours installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "platform"))

from ranksr import cli

if __name__ == "__main__":
    sys.exit(cli.job("ablation", __doc__))
