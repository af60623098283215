"""The chart as helm renders it."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "nearql"
NAMESPACE = "search"
HELM = shutil.which("helm") or "helm"


@functools.cache
def template(*settings: str) -> subprocess.CompletedProcess[str]:
    """`helm template` with `--set` values."""
    options = [option for setting in settings for option in ("--set", setting)]
    command = [HELM, "template", "demo", str(CHART), "--namespace", NAMESPACE, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def render(*settings: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The rendered objects by kind and name."""
    done = template(*settings)
    assert done.returncode == 0, done.stderr
    objects = [document for document in yaml.safe_load_all(done.stdout) if document]
    return {(o["kind"], o["metadata"]["name"]): o for o in objects}


def pod(*settings: str) -> dict[str, Any]:
    """The pod's spec."""
    spec: dict[str, Any] = render(*settings)["StatefulSet", "demo-nearql"]["spec"]["template"][
        "spec"
    ]
    return spec
