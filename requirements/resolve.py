"""Write the pinned requirements beside this file from pyproject.toml: versions and hashes for every supported platform.

It must not write where a package came from: what it writes is installed from any index that has the same files.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PROJECT = FOLDER.parent / "pyproject.toml"

# Each file with what it is made of; the first one decides the versions of the others, save of APART.
FILES = {
    "dev.txt": [str(PROJECT), "--extra=demo", "--extra=django", "--extra=integrity", f"--group={PROJECT}:dev"],
    "demo.txt": [str(PROJECT), "--extra=demo", f"--group={PROJECT}:build"],
    "run.txt": [str(PROJECT), "--extra=integrity"],
    "build.txt": [f"--group={PROJECT}:build"],
    "bench.txt": [f"--group={PROJECT}:bench"],
}
APART = {"bench.txt"}
OPTIONS = [
    "--quiet",
    "--no-config",
    "--universal",
    "--upgrade",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-annotate",
    "--no-header",
]


def resolve() -> None:
    pinned: list[str] = []
    for name, sources in FILES.items():
        constraints = [] if name in APART else pinned
        command = ["-m", "uv", "pip", "compile", *sources, *OPTIONS, *constraints, f"--output-file={FOLDER / name}"]
        subprocess.run([sys.executable, *command], check=True)
        pinned = [f"--constraint={FOLDER / 'dev.txt'}"]


if __name__ == "__main__":
    resolve()
