"""Downloads and unpacks Debian packages as sources of recordings, without installing them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from opensnac.errors import OpensnacError


def unpack(name: str, folder: Path) -> str:
    """Download a Debian package, unpack it into `folder`/root and return its version."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise OpensnacError(f"{program} not found: this recipe needs Debian or a derivative")
    download = subprocess.run(["apt-get", "download", name], cwd=folder, capture_output=True, text=True)
    archives = list(folder.glob("*.deb"))
    if download.returncode != 0 or not archives:
        words = (download.stderr.strip() or "no output").splitlines()[-1]
        raise OpensnacError(f"{name} could not be downloaded: {words}; run `apt-get update` and try again")
    subprocess.run(["dpkg-deb", "-x", str(archives[0]), str(folder / "root")], check=True)
    shown = subprocess.run(["dpkg-deb", "-f", str(archives[0]), "Version"], check=True, capture_output=True, text=True)
    return shown.stdout.strip()
