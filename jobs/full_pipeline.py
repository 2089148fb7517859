"""The whole pipeline: photographs in, a trained RankSRGAN and a report out.

python jobs/full_pipeline.py configs/demo.yaml --run runs/demo
ray job submit --working-dir . -- python jobs/full_pipeline.py configs/paper.yaml --run s3://bucket/paper
"""

import pathlib
import sys

# A submitted job has the repository as its working folder and nothing of ours installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "platform"))

from ranksr import cli

if __name__ == "__main__":
    sys.exit(cli.job("full_pipeline", __doc__))
