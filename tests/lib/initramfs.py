# SPDX-License-Identifier: MIT
"""The initial RAM disk of a guest: busybox, the modules that the root file system and the drives need, guest-init.sh."""

import hashlib
import lzma
import os
import stat
from pathlib import Path

# Built-in ones are skipped: which those are differs by kernel.
MODULES = ("9pnet_virtio", "9p", "overlay", "nvme", "virtio_blk")


def path_for(cache, kernel):
    """Path of the RAM disk for this kernel; made now if there is none that fits."""
    lib = Path(__file__).parent
    busybox = Path("/bin/busybox").read_bytes()
    init = (lib / "guest-init.sh").read_bytes()
    code = Path(__file__).read_bytes()
    index = Path(f"/lib/modules/{kernel}/modules.dep").read_bytes()
    key = hashlib.sha256(b"\0".join((kernel.encode(), busybox, init, code, index))).hexdigest()[:16]
    folder = Path(cache) / "images"
    folder.mkdir(exist_ok=True)
    path = folder / f"initramfs-{key}.cpio"
    if not path.exists():
        # Another run may make the same at the same time; whoever renames last wins, with equal contents.
        partial = folder / f"initramfs-{key}.{os.getpid()}.partial"
        partial.write_bytes(_archive(kernel, busybox, init))
        partial.rename(path)
    return path


def _archive(kernel, busybox, init):
    archive = _Cpio()
    for folder in ("bin", "dev", "proc", "sys", "modules", "host", "lower", "kernel", "rw", "new"):
        archive.add(folder, stat.S_IFDIR | 0o755)
    archive.add("bin/busybox", stat.S_IFREG | 0o755, busybox)
    archive.add("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
    archive.add("init", stat.S_IFREG | 0o755, init)
    files = _modules_in_order(kernel)
    for name, data in files:
        archive.add(f"modules/{name}", stat.S_IFREG | 0o644, data)
    archive.add("modules/order", stat.S_IFREG | 0o644, "".join(f"{name}\n" for name, _ in files).encode())
    return archive.finish()


def _modules_in_order(kernel):
    """(file name, contents) of MODULES and all they depend on, each after what it depends on."""
    root = Path(f"/lib/modules/{kernel}")
    needs = {}
    for line in (root / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[_module_name(path)] = (path, [_module_name(item) for item in rest.split()])
    builtin = {_module_name(line) for line in (root / "modules.builtin").read_text().splitlines()}
    ordered = {}

    def visit(name):
        if name in ordered or name in builtin:
            return
        path, depends = needs[name]
        for other in depends:
            visit(other)
        data = (root / path).read_bytes()
        ordered[name] = (f"{name}.ko", lzma.decompress(data) if path.endswith(".xz") else data)

    for module in MODULES:
        visit(module)
    return list(ordered.values())


def _module_name(path):
    return Path(path).name.partition(".")[0].replace("-", "_")


class _Cpio:
    """A 'newc' archive."""

    def __init__(self):
        self.data = bytearray()
        self.inode = 0

    def add(self, name, mode, contents=b""):
        self.inode += 1
        encoded = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(contents), 0, 0, 0, 0, len(encoded), 0)
        self.data += b"070701" + b"".join(b"%08X" % value for value in fields) + encoded
        self._pad()
        self.data += contents
        self._pad()

    def _pad(self):
        self.data += b"\0" * (-len(self.data) % 4)

    def finish(self):
        self.add("TRAILER!!!", 0)
        return bytes(self.data)
