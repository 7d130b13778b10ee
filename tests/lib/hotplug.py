# SPDX-License-Identifier: MIT
"""Does what a guest cannot do to its own hardware, when it asks: plugs devices in, and makes ports find errors. It can take a device out by itself, by its
slot's power, but has nobody to put it back.

A request is a line on the guest's port; the answer is a line "ok", or "error" and why.

  plug NAME                           puts back a memory that is out
  aer nearest|root NAME ERROR         the port right above the device, or the root port of its tree, finds a PCI Express error, by QEMU's name of it ("DLP")
"""

import json
import threading
import time
from dataclasses import dataclass

# The guest may ask while its own removal of the device is still under way.
REMOVAL_S = 10


@dataclass
class Memory:
    """A device that is backed by memory: its id, and the values of -device and of its backend's -object."""

    name: str
    device: str
    backend: str
    backend_name: str


class HotPlug(threading.Thread):
    """Serves a guest until it ends. memories: those that it may ask for; ports: of each device, the ids of the ports above it, the nearest first."""

    def __init__(self, guest, monitor, memories, ports):
        super().__init__(daemon=True)
        self.guest, self.monitor, self.ports = guest, monitor, ports
        self.memories = {memory.name: memory for memory in memories}
        self.unread = b""  # of the monitor
        self.present = set(self.memories)
        self.start()

    def run(self):
        try:
            self._execute("qmp_capabilities")
            with self.guest.makefile() as requests:
                for request in requests:
                    self.guest.sendall(f"{self._serve(request.split())}\n".encode())
        except (ConnectionError, EOFError):
            pass  # QEMU has ended

    def _serve(self, words):
        match words:
            case ["plug", name]:
                return self._plug(name)
            case ["aer", "nearest" | "root" as where, name, error]:
                return self._raise_error(where, name, error)
        return "error the request is none of 'plug NAME', 'aer nearest|root NAME ERROR'"

    def _raise_error(self, where, name, error):
        ports = self.ports.get(name)
        if not ports:
            return f"error no port is above '{name}', but above: {', '.join(sorted(name for name, above in self.ports.items() if above))}"
        answer = self._execute_human(f"pcie_aer_inject_error {ports[0 if where == 'nearest' else -1]} {error}")
        return "ok" if answer.startswith("OK ") else f"error {answer}"

    def _plug(self, name):
        if name not in self.memories:
            return f"error there is no '{name}' that can be plugged in, but: {', '.join(sorted(self.memories))}"
        if not self._wait_for_removal(name):
            return f"error '{name}' is plugged in"
        memory = self.memories[name]
        # QEMU never takes a backend from a device for a second time: it dies of an assertion. A new one on the same file is as good.
        for command in (f"object_del {memory.backend_name}", f"object_add {memory.backend}", f"device_add {memory.device}"):
            complaint = self._execute_human(command)
            if complaint:
                return f"error {command.split()[0]}: {complaint}"
        self.present.add(name)
        return "ok"

    def _wait_for_removal(self, name):
        end = time.monotonic() + REMOVAL_S
        while name in self.present and (left := end - time.monotonic()) > 0:
            try:
                self._receive(left)
            except TimeoutError:
                pass
        return name not in self.present

    def _execute_human(self, command):
        """By the human monitor: it takes the same words as the command line, and knows of errors."""
        return self._execute("human-monitor-command", {"command-line": command})["return"].strip()

    def _execute(self, command, arguments=None):
        self.monitor.sendall(json.dumps({"execute": command, "arguments": arguments or {}}).encode())
        while not (message := self._receive()).keys() & {"return", "error"}:
            pass
        return message

    def _receive(self, timeout=None):
        """The monitor's next message. Takes note of devices that are gone."""
        self.monitor.settimeout(timeout)
        while b"\n" not in self.unread:
            chunk = self.monitor.recv(1 << 16)
            if not chunk:
                raise EOFError
            self.unread += chunk
        line, self.unread = self.unread.split(b"\n", 1)
        message = json.loads(line)
        if message.get("event") == "DEVICE_DELETED":
            self.present.discard(message["data"].get("device"))
        return message
