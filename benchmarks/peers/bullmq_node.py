# /// script
# requires-python = ">=3.11"
# dependencies = []
#
# [tool.npm]
# dependencies = ["bullmq@6.7.0", "ioredis@6.0.0"]
# ///
# mypy: ignore-errors
"""bullmq for node: this file tells about it, bullmq_node.mjs takes its place for all else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import common

SCRIPT = str(Path(__file__).with_suffix(".mjs"))
PEER = common.Peer(
    name="bullmq_node",
    language="JavaScript",
    packages=(),
    settings="one node process, ioredis, completed jobs are removed",
    delivery="at-least-once: a lock of 30 s for each job is renewed; stalled jobs go back, once by default",
    publish=(common.ONE, common.CONCURRENT, common.MANY),
    publisher=lambda: None,
    work=lambda *_: None,
)

if sys.argv[1:] == ["about"]:
    versions = subprocess.run(["node", SCRIPT, "versions"], check=True, capture_output=True).stdout
    print(json.dumps({**common.about(PEER), "versions": json.loads(versions)}))
else:
    os.execvp("node", ["node", SCRIPT, *sys.argv[1:]])
