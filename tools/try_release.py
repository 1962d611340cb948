"""Try what `make release` built: install it in an empty environment, with its library and without.

    python tools/try_release.py dist

The wheel is installed with everything it needs; then the sdist takes its place, built where no
compiler works. Both label the same picture. The versions are those of constraints.txt.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 30_000_000
"""Bytes of an archive; the bundled weights are 18 million of them."""
_SMOKE = """
import json, sys
import numpy as np
import sctnet
from sctnet.data.synthetic.streets import open_synthetic
image, _ = open_synthetic(["test"]).pair(0)
labels = sctnet.Segmenter("sctnet-s-camvid", precision="fp32")(np.ascontiguousarray(image)).labels
np.save(sys.argv[1], labels)
print(json.dumps({"from": sctnet.__file__, "classes": len(np.unique(labels))}))
"""


def main() -> None:
    """Look at the archives, install both, compare their labels."""
    dist = Path(sys.argv[1])
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        _tell(wheel, [(each.filename, each.file_size) for each in archive.infolist()])
    with tarfile.open(sdist) as tar:
        _tell(sdist, [(each.name, each.size) for each in tar.getmembers()])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)  # noqa: S603
        constraints = ["-c", str(ROOT / "constraints.txt")]
        _pip(folder, "install", *constraints, str(wheel))
        first = _smoke(folder, "compiled library")
        no_compiler = {"CC": "/bin/false", "CXX": "/bin/false"}
        again = ["--force-reinstall", "--no-deps", "--no-binary", "sctnet"]
        _pip(folder, "install", *again, str(sdist), **no_compiler)
        second = _smoke(folder, "torch")
        compare = "import numpy, sys; a, b = map(numpy.load, sys.argv[1:]); print((a == b).mean())"
        equal = float(_run(folder, "python", "-c", compare, first, second))
        if equal < 0.9999:
            sys.exit(f"{dist}: with and without the library only {equal:.4%} of labels are equal")
        print(f"with and without the library: {equal:.4%} of the labels are equal")


def _tell(path: Path, files: list[tuple[str, int]]) -> None:
    size = path.stat().st_size
    print(f"{path.name}: {size / 1e6:.1f} MB, {len(files)} files; the largest:")
    for name, length in sorted(files, key=lambda file: -file[1])[:4]:
        print(f"    {length / 1e6:5.1f} MB  {name}")
    if size > LIMIT:
        sys.exit(f"{path}: above {LIMIT} bytes: leave out what does not belong to the package")


def _smoke(folder: Path, kernels: str) -> str:
    """Run the command and a prediction; return the file of labels."""
    outside = {"cwd": folder}
    print(_run(folder, "sctnet", "--version", **outside).strip())
    told = json.loads(_run(folder, "sctnet", "doctor", "--json", **outside))["processor"]["kernels"]
    if kernels not in told.lower():
        sys.exit(f"sctnet doctor: kernels are {told}, where {kernels} was expected")
    labels = str(folder / f"{kernels.split()[0]}.npy")
    found = json.loads(_run(folder, "python", "-c", _SMOKE, labels, **outside))
    if found["classes"] < 2 or not found["from"].startswith(str(folder)):
        sys.exit(f"a prediction of the installed package: {found}")
    print(f"    kernels: {told}; {found['classes']} classes in a drawn street")
    return labels


def _run(folder: Path, program: str, *arguments: str, cwd: Path | None = None) -> str:
    command = [str(folder / "env" / "bin" / program), *arguments]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd)  # noqa: S603
    return told.stdout


def _pip(folder: Path, *arguments: str, **variables: str) -> None:
    command = [str(folder / "env" / "bin" / "pip"), *arguments, "--quiet"]
    command += ["--disable-pip-version-check"]
    subprocess.run(command, check=True, env={**os.environ, **variables})  # noqa: S603


if __name__ == "__main__":
    main()
