"""What would go wrong in a long run: the cluster, its nodes, the run's storage and the config, checked in a minute.

python jobs/doctor.py configs/demo.yaml --run runs/demo
ray job submit --working-dir . -- python jobs/doctor.py configs/paper.yaml --run s3://bucket/paper
"""

import pathlib
import sys

# A submitted job has the repository as its working folder and nothing of ours installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "platform"))

from ranksr import cli

if __name__ == "__main__":
    sys.exit(cli.job("doctor", __doc__))
