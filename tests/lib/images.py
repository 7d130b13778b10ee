# SPDX-License-Identifier: MIT
"""Drive images, made from a short description and kept in the cache as templates. Every run works on copies of its own.

  blank:SIZE            zeros (sparse)
  pattern:TAG:SIZE      every 8-byte little-endian word is TAG << 56 | byte offset: misplaced and stale data show
  ext4:SIZE, xfs:SIZE   an empty file system
  ext4-with:PATH:SIZE   ext4 with a copy of the tree's file PATH in its top folder
"""

import array
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

# Part of every template's key: raise when a maker below changes.
RECIPE = 1


class ImageError(Exception):
    pass


def parse_size(text):
    match = re.fullmatch(r"([1-9][0-9]*)([KMG]?)", text)
    if not match:
        raise ImageError(f"size '{text}' is not a number with K, M, G or nothing behind it")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def create_sparse(path, size):
    with open(path, "xb") as image:
        image.truncate(size)


def copy(source, target):
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", "--", source, target], check=True)


def template(cache, tree_key, description):
    """Path of the image that fits the description; made now if there is none."""
    folder = Path(cache) / "images"
    folder.mkdir(exist_ok=True)
    key = hashlib.sha256(f"{RECIPE} {tree_key} {description}".encode()).hexdigest()[:16]
    path = folder / f"{description.partition(':')[0]}-{key}.img"
    if path.exists():
        return path
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            _make(partial, description)
            partial.rename(path)
    return path


def _make(path, description):
    kind, *arguments = description.split(":")
    makers = {"blank": _make_blank, "pattern": _make_pattern, "ext4": _make_ext4, "xfs": _make_xfs, "ext4-with": _make_ext4_with}
    if kind not in makers:
        raise ImageError(f"image '{description}': kind '{kind}' is none of {', '.join(makers)}")
    try:
        makers[kind](path, *arguments)
    except TypeError as error:
        raise ImageError(f"image '{description}': wrong number of fields") from error
    except subprocess.CalledProcessError as error:
        raise ImageError(f"image '{description}': {error.cmd[0]} failed: {error.stderr.strip()}") from error


def _run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)


def _make_blank(path, size):
    create_sparse(path, parse_size(size))


def _make_pattern(path, tag, size):
    total, base, step = parse_size(size), int(tag, 16) << 56, 1 << 20
    with open(path, "xb") as image:
        for offset in range(0, total, step):
            image.write(array.array("Q", range(base + offset, base + min(offset + step, total), 8)).tobytes())


def _make_ext4(path, size, *options):
    create_sparse(path, parse_size(size))
    # Nothing is left for the guest's kernel to initialise later: its writes would show up among those of a test.
    _run("mke2fs", "-q", "-t", "ext4", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", *options, path)


def _make_ext4_with(path, source, size):
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        os.chmod(folder, 0o755)
        try:
            shutil.copy(source, folder)
        except OSError as error:
            raise ImageError(f"cannot copy {source}: {error.strerror}") from error
        _make_ext4(path, size, "-d", folder)


def _make_xfs(path, size):
    create_sparse(path, parse_size(size))
    _run("mkfs.xfs", "-q", "-f", path)
