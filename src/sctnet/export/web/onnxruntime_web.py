"""The files of onnxruntime-web, which compute a model in the browser (MIT licence, Microsoft).

They are too large for this package, so npm fetches them once; then they lie in the user's cache.
Their checksums are written here: what a page contains does not depend on where it came from.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from sctnet.errors import SctnetError
from sctnet.writing import cache_folder, write_whole

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"

_SUMS = """
219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b  ort.wasm.min.mjs
e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b  ort-wasm-simd-threaded.mjs
3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2  ort-wasm-simd-threaded.wasm
3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0  ort.webgpu.min.mjs
3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28  ort-wasm-simd-threaded.asyncify.mjs
39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da  ort-wasm-simd-threaded.asyncify.wasm
"""  # noqa: E501
FILES = {name: digest for digest, name in map(str.split, _SUMS.strip().splitlines())}
"""Their SHA-256; a browser fetches the first three, or where it has WebGPU the last three."""

WEBASSEMBLY = tuple(FILES)[:3]


def runtime_files(given: str | os.PathLike[str] | None = None) -> Path:
    """Return a folder that holds all :data:`FILES`, unchanged.

    ``given`` is npm's package: its archive (.tgz), or the folder that it was unpacked or installed
    to. By default the files are in the user's cache, fetched by npm the first time. Raises
    :class:`SctnetError` where they cannot be had, and for files that are not those of
    :data:`VERSION`.
    """
    cache = cache_folder() / "sctnet" / f"onnxruntime-web-{VERSION}"
    if given is None and _holds_all(cache):
        return cache
    try:
        with tempfile.TemporaryDirectory(prefix="sctnet-web-") as folder:
            source = _fetched(Path(folder)) if given is None else Path(given)
            content = _read(source)
            cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SctnetError(
            f"{error.filename or cache}: cannot be read or written ({error.strerror or error})"
        ) from error
    for name, data in content.items():
        write_whole(cache / name, data)
    return cache


def _holds_all(folder: Path) -> bool:
    return all(
        (folder / name).is_file() and _sha256((folder / name).read_bytes()) == digest
        for name, digest in FILES.items()
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _fetched(folder: Path) -> Path:
    """Return the archive of the package, from npm."""
    npm, reason = shutil.which("npm"), "it is not installed"
    if npm is not None:
        done = subprocess.run(  # noqa: S603 - npm itself, with a name and a version from here
            [npm, "pack", "--silent", PACKAGE],
            cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        archive = next(folder.glob("*.tgz"), None)
        if done.returncode == 0 and archive is not None:
            return archive
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = said[0].strip()[:200] if said else f"it ended with {done.returncode}"
    raise SctnetError(
        f"a page needs {PACKAGE}, which npm fetches once, and npm cannot ({reason}): install "
        f"Node.js, or run `npm pack {PACKAGE}` on a computer with a network and give the file by "
        "--runtime-folder"
    )


def _read(source: Path) -> dict[str, bytes]:
    """Return the files' contents, from an archive or a folder; each must have its checksum."""
    if source.is_dir():
        places = (source, source / "dist", source / "node_modules" / "onnxruntime-web" / "dist")
        folder = next((place for place in places if (place / next(iter(FILES))).is_file()), source)
        content = {
            name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()
        }
    else:
        try:
            with tarfile.open(source) as archive:
                content = {
                    name: member.read()
                    for name in FILES
                    if (member := _member(archive, f"package/dist/{name}")) is not None
                }
        except (tarfile.TarError, EOFError) as error:
            raise SctnetError(
                f"{source}: not an archive of npm ({error}): give the .tgz that `npm pack "
                f"{PACKAGE}` writes, or a folder"
            ) from error
    for name, digest in FILES.items():
        if _sha256(content.get(name, b"")) != digest:
            what = "is not that of" if name in content else "is missing; this is not"
            raise SctnetError(
                f"{source}: {name} {what} {PACKAGE}: give what `npm pack {PACKAGE}` writes"
            )
    return content


def _member(archive: tarfile.TarFile, name: str) -> "tarfile.ExFileObject | None":
    try:
        return archive.extractfile(name)  # type: ignore[return-value]
    except KeyError:
        return None
