# SPDX-License-Identifier: MIT
"""Boots a guest for one command. Runs inside the tree, called by tests/vm, which documents the options and the exit status."""

import argparse
import ctypes
import difflib
import errno
import fcntl
import fnmatch
import json
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import tty
from pathlib import Path

import hotplug
import images
import initramfs
import kernel_log
import topology as topologies

EXIT_TIMEOUT = 124
EXIT_GUEST = 125
EXIT_SETUP = 126
KVM_CREATE_VM = 0xAE01
KVM_PROBE_S = 20
PR_SET_PDEATHSIG = 1
# How many past runs keep their logs. Drive images and video memory are kept only where --run-dir asks for it.
KEPT_RUNS = 20
# A guest that had a fault gets this long to end by itself, so that its log is complete.
GRACE_S = 30
ESCAPE = b"\x1d"  # Ctrl-]
# Stolen memory lies from here on: above the kernel, and below the initial RAM disk, which QEMU puts near the end of RAM below 4 GiB.
STOLEN_START = 0x30000000
STOLEN_ALIGN = 2 << 20
LOW_RAM_END = 2 << 30  # in the file with the guest's RAM, addresses are offsets up to here
LOW_RAM_RESERVE = 64 << 20
RAM = "ram"


class SetupError(Exception):
    pass


def say(message):
    print(f"vm: {message}", file=sys.stderr, flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in ("cache", "checkout", "tree", "tree-key", "build", "kernel", "kernel-layer", "topology", "memory", "share", "trace", "run-dir", "accel"):
        parser.add_argument(f"--{name}", required=name not in ("share", "trace", "run-dir", "build", "kernel-layer"))
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--timeout", type=int, required=True)
    # How many times longer than usual the kernel may take for everything.
    parser.add_argument("--slowness", type=int, required=True)
    parser.add_argument("--disk", action="append", default=[])
    parser.add_argument("--append", action="append", default=[])
    for name in ("interactive", "modules"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def kvm_works(cache, tree):
    """Whether KVM can run a guest here. /dev/kvm may exist, and even make a virtual machine, where it cannot: without permission,
    or nested in something that does not emulate enough. So a guest is booted once per boot of the host, with a kernel of Debian's,
    which are in the tree: a debugging kernel would take minutes to tell nothing else."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    verdict = Path(cache) / "images" / f"kvm-{boot}"
    try:
        with open("/dev/kvm", "rb+", buffering=0) as kvm:
            os.close(fcntl.ioctl(kvm, KVM_CREATE_VM, 0))
    except OSError:
        return False
    if not verdict.exists():
        kernel = next(Path(tree).glob("boot/vmlinuz-*")).name.removeprefix("vmlinuz-")
        say("trying whether KVM can run a guest here (once)")
        command = ["qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none", "-M", "q35", "-accel", "kvm", "-cpu", "max"]
        command += ["-m", "1G", "-kernel", f"/boot/vmlinuz-{kernel}", "-initrd", str(initramfs.path_for(cache, kernel))]
        command += ["-append", "console=ttyS0 panic=-1 no_timer_check -- probe", "-serial", "stdio"]
        works = _boots(command, KVM_PROBE_S)
        say("KVM works" if works else "KVM exists but cannot run a guest; going on without it (TCG, slower)")
        verdict.write_text("works" if works else "broken")
    return verdict.read_text() == "works"


def _boots(command, limit):
    qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_die_with_parent)
    timer = threading.Timer(limit, qemu.kill)
    timer.start()
    try:
        for line in qemu.stdout:
            # After the second of these QEMU would only wait.
            if b"guest: probe" in line or b"KVM internal error" in line:
                return b"guest: probe" in line
        return False
    finally:
        timer.cancel()
        qemu.kill()
        qemu.wait()


def _link_or_copy(source, target):
    # --run-dir may be on another file system, or be mounted as one.
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copy2(source, target)


class Run:
    """A run directory, and the QEMU arguments that belong to what lies in it."""

    def __init__(self, options):
        self.options = options
        self.temporary = options.run_dir is None
        if self.temporary:
            runs = Path(options.cache) / "runs"
            runs.mkdir(exist_ok=True)
            _prune(runs)
            self.path = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{options.topology}-{os.getpid()}"
            self.path.mkdir()
        else:
            self.path = Path(options.run_dir)
            if any(self.path.iterdir()):
                raise SetupError(f"--run-dir {self.path} is not empty")
        self.topology = topologies.load(Path(options.checkout) / "tests" / "topologies", options.topology)
        self.stolen = self._place_stolen()  # start by name

    def _place_stolen(self):
        starts, start = {}, STOLEN_START
        for vram in self.topology.vrams:
            if not vram.stolen:
                continue
            size = images.parse_size(vram.size)
            if size % STOLEN_ALIGN:
                raise SetupError(f"{self.topology.name}: {vram.name}: stolen memory is a multiple of 2M, not {vram.size}")
            starts[vram.name], start = start, start + size
        end = start + LOW_RAM_RESERVE
        if starts and end > LOW_RAM_END:
            raise SetupError(f"{self.topology.name}: too much stolen memory")
        if starts and end > images.parse_size(self.options.memory):
            raise SetupError(f"--memory {self.options.memory} is too little for a topology with stolen memory: at least {end >> 20}M")
        return starts

    def prepare(self):
        options = self.options
        for index, disk in enumerate(options.disk):
            drive = self.topology.add_file_drive(f"DISK{index}")
            (self.path / drive.file_name).symlink_to(disk)
        for drive in self.topology.drives:
            target = self.path / drive.file_name
            if not target.is_symlink():
                images.copy(images.template(options.cache, options.tree_key, drive.image), target)
        for vram in self.topology.vrams:
            if not vram.stolen:
                images.create_sparse(self.path / vram.file_name, images.parse_size(vram.size))
        if self.stolen:
            images.create_sparse(self.path / RAM, images.parse_size(options.memory))
        if options.trace:
            _check_events(options.trace.split(","))
        shutil.copy(Path(options.checkout) / "tests" / "topologies" / f"{self.topology.name}.json", self.path / "topology.json")
        self._write_machine()
        self._write_command()
        self._snapshot_build()

    def _memory_file(self, vram):
        """File in the run directory, and where in it the memory begins."""
        return (RAM, self.stolen[vram.name]) if vram.stolen else (vram.file_name, 0)

    def _write_machine(self):
        """Where the guest finds what the topology names. "file" and "offset" are the host's view of a memory; "stolen" is its address as RAM."""
        devices = {name: {"place": place} for name, place in self.topology.places.items()}
        for vram in self.topology.vrams:
            file, offset = self._memory_file(vram)
            memory = {"file": file, "offset": offset, "size": images.parse_size(vram.size)}
            if vram.stolen:
                memory["stolen"] = self.stolen[vram.name]
            devices[vram.name]["memory"] = memory
        (self.path / "machine.json").write_text(json.dumps({"devices": devices}, indent=2) + "\n")

    def _write_command(self):
        options = self.options
        kept = {name: value for name, value in os.environ.items() if name.startswith(("DMABRIDGE_", "GTEST_")) or name == "TERM"}
        lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(kept.items())]
        lines += [f"export DMABRIDGE_TOPOLOGY={self.topology.name}", f"export DMABRIDGE_SLOWNESS={options.slowness}", f"exec {shlex.join(options.command)}"]
        (self.path / "command").write_text("\n".join(lines) + "\n")
        terminal = ""
        if options.interactive:
            columns, rows = os.get_terminal_size(sys.stdin.fileno())
            terminal = f"rows {rows} cols {columns}"
        flags = {
            "HAVE_BUILD": options.build,
            "HAVE_SHARE": options.share,
            "HAVE_KERNEL_LAYER": options.kernel_layer,
            "LOAD_MODULES": options.modules,
            "INTERACTIVE": options.interactive,
        }
        environment = {name: "1" if value else "" for name, value in flags.items()}
        stolen = [f"{self.topology.places[name]}@{start:#x}" for name, start in self.stolen.items()]
        environment |= {"DRIVES": str(len(self.topology.drives)), "TERMINAL_SIZE": terminal, "STOLEN": " ".join(stolen)}
        environment |= {"SLOWNESS": str(options.slowness)}
        (self.path / "guest.env").write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in environment.items()))

    def _snapshot_build(self):
        """What is installed now, so that another build during this run changes nothing here."""
        if self.options.build:
            installed = Path(self.options.build) / "install" / "opt" / "dmabridge"
            if installed.exists():
                shutil.copytree(installed, self.path / "install", symlinks=True, copy_function=_link_or_copy)
        if self.options.modules:
            shutil.copytree(Path(self.options.build) / "modules" / self.options.kernel, self.path / "modules", copy_function=_link_or_copy)

    def qemu_arguments(self, ports, monitor):
        options, topology = self.options, self.topology
        accelerator = options.accel
        if accelerator != "tcg":
            works = kvm_works(options.cache, options.tree)
            if accelerator == "kvm" and not works:
                raise SetupError("--accel kvm: KVM cannot run a guest here (/dev/kvm is missing, forbidden, or lacks what a guest needs)")
            accelerator = "kvm" if works else "tcg"
        arguments = ["qemu-system-x86_64", "-name", "dmabridge", "-nodefaults", "-no-reboot", "-display", "none"]
        arguments += ["-M", "q35" + (",memory-backend=ram" if self.stolen else ""), "-accel", "tcg,thread=multi" if accelerator == "tcg" else "kvm"]
        # Slots as servers have them: the guest's pciehp driver runs them, and not QEMU's ACPI tables.
        arguments += ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
        arguments += ["-cpu", topology.cpu, "-smp", str(options.cpus), "-m", options.memory]
        arguments += ["-kernel", f"/boot/vmlinuz-{options.kernel}", "-initrd", str(initramfs.path_for(options.cache, options.kernel))]
        arguments += ["-append", self._kernel_arguments()]
        arguments += ["-chardev", f"file,id=console,path={self.path}/console.log", "-serial", "chardev:console"]
        for device in topology.iommu:
            arguments += ["-device", device]
        arguments += self._storage()
        for device in topology.devices:
            arguments += ["-device", device]
        arguments += ["-device", f"virtio-serial-pci,id=ports,bus=pcie.0,addr={topology.next_other_slot()}"]
        for name, fd in ports.items():
            kind = "virtconsole" if name == "terminal" else "virtserialport"
            arguments += ["-chardev", f"socket,id=port-{name},fd={fd}", "-device", f"{kind},bus=ports.0,chardev=port-{name},name={name}"]
        arguments += ["-chardev", f"socket,id=monitor,fd={monitor}", "-object", "monitor-qmp,id=qmp,chardev=monitor"]
        for tag, path, readonly in self._shares():
            arguments += ["-fsdev", f"local,id=fs-{tag},path={_escape(path)},security_model=none,multidevs=remap,readonly={readonly}"]
            arguments += ["-device", f"virtio-9p-pci,fsdev=fs-{tag},mount_tag={tag},bus=pcie.0,addr={topology.next_other_slot()}"]
        if options.trace:
            arguments += ["-D", f"{self.path}/trace.log"]
            for event in options.trace.split(","):
                arguments += ["-trace", event]
        return arguments

    def _kernel_arguments(self):
        arguments = "console=ttyS0 loglevel=5 mitigations=off nokaslr no_timer_check panic=-1 log_buf_len=4M kfence.sample_interval=100"
        if self.options.kernel_layer:
            # KASAN knows kernel memory by the number of levels, which it asks code that is patched at boot: an interrupt in between, and it reports anything.
            arguments += " no5lvl"
        reserved = [f"memmap={vram.size}${self.stolen[vram.name]:#x}" for vram in self.topology.vrams if vram.stolen]
        return " ".join([arguments, *reserved, *self.topology.kernel_args, *self.options.append])

    def _storage(self):
        arguments = []
        for drive in self.topology.drives:
            path = self.path / drive.file_name
            snapshot = "on" if path.is_symlink() else "off"
            arguments += ["-drive", f"file={_escape(path)},if=none,id={drive.file_name},format=raw,cache=unsafe,snapshot={snapshot}"]
        if self.stolen:
            arguments += ["-object", f"memory-backend-file,id=ram,mem-path={_escape(self.path / RAM)},size={self.options.memory},share=on"]
        for memory in self.memories():
            arguments += ["-object", memory.backend]
        return arguments

    def memories(self):
        for vram in self.topology.vrams:
            file, offset = self._memory_file(vram)
            backend_name = f"mem-{vram.name}"
            backend = f"memory-backend-file,id={backend_name},mem-path={_escape(self.path / file)},offset={offset},size={vram.size},share=on"
            yield hotplug.Memory(vram.name, self.topology.device(vram.name), backend, backend_name)

    def _shares(self):
        options = self.options
        shares = [("tree", options.tree, "on"), ("host", self.path, "on"), ("src", options.checkout, "on")]
        if options.build:
            shares.append(("build", options.build, "on"))
        if options.share:
            shares.append(("share", options.share, "off"))
        if options.kernel_layer:
            shares.append(("kernel", options.kernel_layer, "on"))
        return shares

    def log(self, name):
        path = self.path / name
        return path.read_bytes() if path.exists() else b""

    def close(self):
        if not self.temporary:
            return
        for pattern in ("disk-*", "vram-*", RAM):
            for path in self.path.glob(pattern):
                path.unlink()
        for folder in ("install", "modules"):
            shutil.rmtree(self.path / folder, ignore_errors=True)


def _check_events(patterns):
    known = subprocess.run(["qemu-system-x86_64", "-trace", "help"], check=True, capture_output=True, text=True).stdout.split()
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            close = difflib.get_close_matches(pattern, known, 5) or fnmatch.filter(known, f"*{pattern.strip('*')}*")[:5]
            raise SetupError(f"--trace: QEMU has no event that matches '{pattern}'" + (f"; near it: {', '.join(close)}" if close else ""))


def _escape(path):
    """QEMU's option syntax doubles commas."""
    return str(path).replace(",", ",,")


def _prune(runs):
    finished = sorted((path for path in runs.iterdir() if not _alive(path)), key=lambda path: path.stat().st_mtime)
    for path in finished[:-KEPT_RUNS]:
        shutil.rmtree(path, ignore_errors=True)


def _alive(run):
    pid = run.name.rpartition("-")[2]
    return pid.isdigit() and Path(f"/proc/{pid}").exists()


class Output(threading.Thread):
    """Hands on what a port sends. Reads as fast as it comes, however slow the reader of our own output is: a guest
    that has to wait for its host does so with interrupts off."""

    def __init__(self, source, target):
        super().__init__(daemon=True)
        self.source, self.target = source, target
        self.chunks, self.changed, self.ended = [], threading.Condition(), False
        self.writer = threading.Thread(target=self._write, daemon=True)
        self.start()
        self.writer.start()

    def run(self):
        while chunk := _receive(self.source):
            with self.changed:
                self.chunks.append(chunk)
                self.changed.notify()
        with self.changed:
            self.ended = True
            self.changed.notify()

    def _write(self):
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.chunks or self.ended)
                chunks, self.chunks = self.chunks, []
                if not chunks:
                    return
            try:
                self.target.write(b"".join(chunks))
                self.target.flush()
            except BrokenPipeError:
                return

    def finish(self):
        self.join()
        self.writer.join()


def _receive(source):
    try:
        return source.recv(1 << 16)
    except ConnectionResetError:
        return b""


class Guest:
    """A running QEMU, and the far ends of its ports."""

    def __init__(self, run):
        self.run = run
        self.interactive = run.options.interactive
        names = ["status", "dmesg", "machine"] + (["terminal"] if self.interactive else ["stdout", "stderr"])
        pairs = {name: socket.socketpair() for name in names}
        self.ports = {name: ours for name, (ours, _) in pairs.items()}
        monitor, far_monitor = socket.socketpair()
        far_ends = [far for _, far in pairs.values()] + [far_monitor]
        arguments = run.qemu_arguments({name: far.fileno() for name, (_, far) in pairs.items()}, far_monitor.fileno())
        (run.path / "qemu.cmdline").write_text(shlex.join(arguments) + "\n")
        self.errors = open(run.path / "qemu.log", "wb")
        self.process = subprocess.Popen(
            arguments, pass_fds=[far.fileno() for far in far_ends], stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors, preexec_fn=_die_with_parent
        )
        for far in far_ends:
            far.close()
        hotplug.HotPlug(self.ports["machine"], monitor, run.memories(), run.topology.ports)
        self.outputs = []
        self.status = b""
        self.dmesg = b""

    def wait(self, timeout):
        """Until QEMU has ended. Returns None, or why it had to be killed."""
        start, fault_seen, checked = time.monotonic(), None, 0
        if not self.interactive:
            self.outputs = [Output(self.ports["stdout"], sys.stdout.buffer), Output(self.ports["stderr"], sys.stderr.buffer)]
        collectors = [threading.Thread(target=self._collect, args=(name,), daemon=True) for name in ("status", "dmesg")]
        for collector in collectors:
            collector.start()
        killed = None
        with Terminal(self.ports["terminal"]) if self.interactive else _nothing() as terminal:
            while self.process.poll() is None:
                now = time.monotonic()
                if terminal is not None and terminal.escaped:
                    killed = "interrupted"
                elif timeout and now - start > timeout:
                    killed = "timeout"
                elif fault_seen is not None and now - fault_seen > GRACE_S * self.run.options.slowness:
                    killed = "fault"
                if killed:
                    self.kill()
                    break
                if fault_seen is None and now - checked > 1:
                    checked = now
                    if kernel_log.splats(self.run.log("console.log")):
                        fault_seen = now
                try:
                    self.process.wait(0.1)
                except subprocess.TimeoutExpired:
                    pass
        for thread in collectors:
            thread.join()
        for output in self.outputs:
            output.finish()
        (self.run.path / "dmesg.log").write_bytes(self.dmesg)
        return killed

    def _collect(self, name):
        while chunk := _receive(self.ports[name]):
            setattr(self, name, getattr(self, name) + chunk)

    def kill(self):
        self.process.kill()
        self.process.wait()


def _die_with_parent():
    # No QEMU outlives a killed run; a terminal's Ctrl-C is for us to handle.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpgid(0, 0)


class _nothing:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return False


class Terminal:
    """Joins our terminal, in raw mode, with the guest's."""

    def __init__(self, port):
        self.port, self.escaped = port, False

    def __enter__(self):
        self.saved = termios.tcgetattr(sys.stdin)
        say("the guest's terminal; Ctrl-] ends the guest")
        tty.setraw(sys.stdin)
        threading.Thread(target=self._relay, daemon=True).start()
        return self

    def __exit__(self, *_):
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self.saved)
        return False

    def _relay(self):
        with selectors.DefaultSelector() as selector:
            selector.register(sys.stdin, selectors.EVENT_READ)
            selector.register(self.port, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.port:
                        data = _receive(self.port)
                        os.write(sys.stdout.fileno(), data)
                    else:
                        data = os.read(sys.stdin.fileno(), 4096)
                        if ESCAPE in data:
                            self.escaped = True
                            return
                        self.port.sendall(data)
                    if not data:
                        return


def judge(run, guest, killed):
    """The exit status of the run, after telling what went wrong."""
    console, dmesg = run.log("console.log"), guest.dmesg
    words = guest.status.decode(errors="replace").splitlines()
    last = words[-1] if words else ""
    outcome = f"the command's own exit status was {last.split()[1]}" if last.startswith("exit ") else "the command did not end"
    faulty = console if kernel_log.splats(console) else dmesg
    if kernel_log.splats(faulty):
        print(kernel_log.excerpt(faulty), file=sys.stderr)
        say(f"FAILED: the guest's kernel reported a fault (above); {outcome}. Logs: {run.path}")
        return EXIT_GUEST
    if killed == "interrupted":
        say("interrupted")
        return 130
    if killed == "timeout":
        print(kernel_log.tail(console), file=sys.stderr)
        where = "while the command was running" if "ready" in words else "before the command could start"
        say(f"FAILED: not finished after {run.options.timeout} s (--timeout), {where}; last lines of its console above. Logs: {run.path}")
        return EXIT_TIMEOUT
    if last.startswith("exit "):
        return int(last.split()[1])
    if last.startswith("failed "):
        print(kernel_log.tail(dmesg), file=sys.stderr)
        say(f"FAILED: guest set-up: {last.removeprefix('failed ')}; last kernel messages above. Logs: {run.path}")
        return EXIT_GUEST
    print(kernel_log.tail(run.log("qemu.log")) + "\n" + kernel_log.tail(console), file=sys.stderr)
    what = "stopped while the command was running" if "ready" in words else "stopped before the command could start"
    say(f"FAILED: the guest {what} (QEMU's exit status {guest.process.returncode}); QEMU's and its last messages above. Logs: {run.path}")
    return EXIT_GUEST


def main():
    options = parse_arguments()

    def interrupt(number, _):
        raise KeyboardInterrupt(number)

    signal.signal(signal.SIGTERM, interrupt)
    run = guest = None
    try:
        run = Run(options)
        run.prepare()
        guest = Guest(run)
        return judge(run, guest, guest.wait(options.timeout))
    except (SetupError, topologies.TopologyError, images.ImageError) as error:
        say(f"error: {error}")
        return EXIT_SETUP
    except OSError as error:
        if run is None or guest is not None:
            raise
        say(f"error: cannot prepare the run: {error}; free disk space under {options.cache}: {shutil.disk_usage(options.cache).free >> 20} MiB")
        return EXIT_SETUP
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        if guest is not None and guest.process.poll() is None:
            guest.kill()
        if run is not None:
            run.close()


if __name__ == "__main__":
    sys.exit(main())
