# SPDX-License-Identifier: MIT
"""Plugs devices in for a guest that asks. The guest can take one out by itself, by its slot's power, but has nobody to put it back.

A request is a line "plug NAME" on the guest's port; the answer is a line "ok", or "error" and why.
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
    """Serves a guest until it ends. memories: those that it may ask for."""

    def __init__(self, guest, monitor, memories):
        super().__init__(daemon=True)
        self.guest, self.monitor = guest, monitor
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
        if len(words) != 2 or words[0] != "plug":
            return "error the request is not 'plug NAME'"
        name = words[1]
        if name not in self.memories:
            return f"error there is no '{name}' that can be plugged in, but: {', '.join(sorted(self.memories))}"
        if not self._wait_for_removal(name):
            return f"error '{name}' is plugged in"
        memory = self.memories[name]
        # QEMU never takes a backend from a device for a second time: it dies of an assertion. A new one on the same file is as good.
        for command in (f"object_del {memory.backend_name}", f"object_add {memory.backend}", f"device_add {memory.device}"):
            # The human monitor, because it takes the same words as the command line.
            complaint = self._execute("human-monitor-command", {"command-line": command})["return"].strip()
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
