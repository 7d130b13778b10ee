# SPDX-License-Identifier: MIT
"""A topology file (tests/topologies/NAME.json): checked, and turned into QEMU arguments."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

ROUTES = ("p2p_bus", "p2p_host_bridge", "stolen", "none")
# Root ports come first on bus 0, in file order, so that kernel arguments may name them; what is not part of a PCIe tree comes after them.
FIRST_ROOT_PORT_SLOT = 0x01
FIRST_OTHER_SLOT = 0x10
# 0x1e is left to an IOMMU that is a PCI function, 0x1f is QEMU's own.
LAST_OTHER_SLOT = 0x1D
# Number of the second host bridge's root bus; the third's is twice that.
OTHER_ROOT_BUS = 0x40


class TopologyError(Exception):
    pass


@dataclass
class Drive:
    """One block device of the guest: a namespace of an NVMe drive, or a virtio disk."""

    serial: str
    nsid: int | None
    image: str

    @property
    def file_name(self):
        return f"disk-{self.serial}.img" if self.nsid is None else f"disk-{self.serial}-n{self.nsid}.img"


@dataclass
class Vram:
    """Memory behind a BAR: a file of its own, or, if stolen, a range of the guest's RAM that its kernel leaves alone."""

    name: str
    size: str
    stolen: bool

    @property
    def file_name(self):
        return f"vram-{self.name}"


@dataclass
class Topology:
    name: str
    description: str
    cpu: str
    iommu: list  # -device values
    kernel_args: list
    drives: list = field(default_factory=list)
    vrams: list = field(default_factory=list)
    verdicts: list = field(default_factory=list)
    devices: list = field(default_factory=list)  # -device values, parents first
    # Where the guest finds each named device: shell patterns for folders in its sysfs. Bus numbers are the guest's choice.
    places: dict = field(default_factory=dict)
    # The ports above each of them, by id: the nearest first, the root port last.
    ports: dict = field(default_factory=dict)
    root_ports: int = 0
    others: int = 0

    def next_other_slot(self):
        slot = FIRST_OTHER_SLOT + self.others
        self.others += 1
        if slot > LAST_OTHER_SLOT:
            raise TopologyError(f"{self.name}: too many devices on the root bus")
        return f"0x{slot:x}"

    def device(self, name):
        """-device value of the device with this id."""
        return next(device for device in self.devices if f"id={name}" in device.split(","))

    def add_file_drive(self, serial):
        """One more NVMe drive with one namespace, on a root port of its own. Returns the Drive; its image is the caller's business."""
        nsid = 1 + max((drive.nsid or 0 for drive in self.drives), default=0)
        node = {"type": "nvme", "serial": serial, "namespaces": [{"nsid": nsid, "image": "file"}]}
        _Builder(self).add({"type": "root-port", "children": [node]}, "pcie.0", "--disk")
        return self.drives[-1]


def names(folder):
    return sorted(path.stem for path in Path(folder).glob("*.json"))


def load(folder, name):
    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        raise TopologyError(f"no topology '{name}'; there are: {', '.join(names(folder))}")
    try:
        data = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise TopologyError(f"{path}: {error}") from error
    _check_keys(data, {"description", "cpu", "tree", "verdicts"}, {"iommu", "kernel_args"}, name)
    topology = Topology(name, data["description"], data["cpu"], data.get("iommu", []), data.get("kernel_args", []))
    builder = _Builder(topology)
    for index, node in enumerate(data["tree"]):
        builder.add(node, "pcie.0", f"{name}: tree[{index}]")
    topology.verdicts = _check_verdicts(topology, data["verdicts"])
    return topology


def _check_keys(node, required, optional, where):
    missing, unknown = required - node.keys(), node.keys() - required - optional
    if missing:
        raise TopologyError(f"{where}: missing: {', '.join(sorted(missing))}")
    if unknown:
        raise TopologyError(f"{where}: unknown: {', '.join(sorted(unknown))}")


def _check_verdicts(topology, verdicts):
    """Every pair of a drive and a memory has exactly one expected route, else a wrong one could go unnoticed."""
    given = {}
    for verdict in verdicts:
        _check_keys(verdict, {"requester", "memory", "route"}, {"loses_bytes"}, f"{topology.name}: verdicts")
        if verdict["route"] not in ROUTES:
            raise TopologyError(f"{topology.name}: route '{verdict['route']}' is none of {', '.join(ROUTES)}")
        given[(verdict["requester"], verdict["memory"])] = verdict["route"]
    pairs = {(drive.serial, vram.name) for drive in topology.drives for vram in topology.vrams}
    if pairs != given.keys():
        raise TopologyError(f"{topology.name}: verdicts do not match the pairs of drives and memories: {sorted(pairs ^ given.keys())}")
    return verdicts


class _Builder:
    """Walks the nested tree and collects -device values. Bus names are the ids of the devices that make them."""

    def __init__(self, topology):
        self.topology = topology
        self.buses = {"pcie.0": "/sys/devices/pci0000:00"}  # by name: the place of what makes it
        self.root_buses = ["pcie.0"]
        self.other_root_ports = {}  # by root bus: how many
        self.multipath = {}  # by serial: how many controllers
        self.ports = {"pcie.0": []}  # by name of a bus: those that lead to it

    def add(self, node, bus, where):
        kinds = {
            "host-bridge": self._host_bridge,
            "root-port": self._root_port,
            "switch": self._switch,
            "nvme": self._nvme,
            "nvme-path": self._nvme_path,
            "vram": self._vram,
            "virtio-blk": self._virtio_blk,
            "device": self._device,
        }
        kind = kinds.get(node.get("type"))
        if kind is None:
            raise TopologyError(f"{where}: type '{node.get('type')}' is none of {', '.join(kinds)}")
        kind(node, bus, f"{where} ({node['type']})")

    def _emit(self, *values):
        self.topology.devices.append(",".join(values))

    def _children(self, node, bus, where):
        for index, child in enumerate(node["children"]):
            self.add(child, bus, f"{where}.children[{index}]")

    def _port_number(self):
        # Chassis and slot have to be unique over all ports.
        return 1 + sum(device.startswith(("pcie-root-port", "xio3130-downstream")) for device in self.topology.devices)

    def _host_bridge(self, node, bus, where):
        """One more, of the same PCI domain, with a root bus of its own."""
        _check_keys(node, {"type", "children"}, set(), where)
        if bus != "pcie.0":
            raise TopologyError(f"{where}: host bridges stand side by side")
        number = OTHER_ROOT_BUS * len(self.root_buses)
        name = f"pxb{len(self.root_buses)}"
        self.root_buses.append(name)
        self.other_root_ports[name] = 0
        self.buses[name] = f"/sys/devices/pci0000:{number:02x}"
        self.ports[name] = []
        self._emit("pxb-pcie", f"id={name}", "bus=pcie.0", f"addr={self.topology.next_other_slot()}", f"bus_nr={number}")
        self._children(node, name, where)

    def _root_port(self, node, bus, where):
        _check_keys(node, {"type", "children"}, set(), where)
        if bus not in self.root_buses:
            raise TopologyError(f"{where}: a root port is on a root bus only")
        name, number = f"rp{self.topology.root_ports}", self._port_number()
        slot = FIRST_ROOT_PORT_SLOT + self.topology.root_ports if bus == "pcie.0" else self.other_root_ports[bus]
        if slot >= FIRST_OTHER_SLOT:
            raise TopologyError(f"{where}: too many root ports")
        if bus != "pcie.0":
            self.other_root_ports[bus] += 1
        self.topology.root_ports += 1
        self._make_bus(name, bus, f"{slot:02x}.0")
        self._emit("pcie-root-port", f"id={name}", f"bus={bus}", f"addr=0x{slot:x}", f"chassis={number}", f"slot={number}")
        self._children(node, name, where)

    def _switch(self, node, bus, where):
        _check_keys(node, {"type", "children"}, set(), where)
        upstream = f"up{self._port_number()}"
        self._make_bus(upstream, bus, "00.0")
        self._emit("x3130-upstream", f"id={upstream}", f"bus={bus}")
        for index, child in enumerate(node["children"]):
            number = self._port_number()
            port = f"dp{number}"
            self._make_bus(port, upstream, f"{index:02x}.0")
            self._emit("xio3130-downstream", f"id={port}", f"bus={upstream}", f"addr=0x{index:x}", f"chassis={number}", f"slot={number}")
            self.add(child, port, f"{where}.children[{index}]")

    def _place(self, bus, address):
        return f"{self.buses[bus]}/0000:*:{address}"

    def _make_bus(self, name, parent, address):
        self.buses[name] = self._place(parent, address)
        self.ports[name] = [name, *self.ports[parent]]

    def _address(self, node, bus, name=None):
        """Bus and address of a device; name: as it is to be found in Topology.places."""
        function = node.get("function")
        if bus == "pcie.0":
            slot = self.topology.next_other_slot()
            arguments, address = [f"addr={slot}"], f"{int(slot, 16):02x}.0"
        elif function is None:
            arguments, address = [], "00.0"
        else:
            arguments, address = [f"addr=0.{function}"] + (["multifunction=on"] if function == 0 else []), f"00.{function}"
        if name is not None:
            self.topology.places[name] = self._place(bus, address)
            self.topology.ports[name] = self.ports[bus]
        return [f"bus={bus}", *arguments]

    def _nvme(self, node, bus, where):
        _check_keys(node, {"type", "serial", "namespaces"}, {"function", "multipath"}, where)
        serial, multipath = self._unique_serial(node["serial"], where), node.get("multipath", False)
        subsystem = []
        if multipath:
            self._emit("nvme-subsys", f"id={serial}-subsys")
            subsystem = [f"subsys={serial}-subsys"]
            self.multipath[serial] = 1
        self._emit("nvme", f"id={serial}", f"serial={serial}", *subsystem, *self._address(node, bus, serial))
        for namespace in node["namespaces"]:
            _check_keys(namespace, {"nsid", "image"}, set(), where)
            nsid = namespace["nsid"]
            # QEMU's trace events carry the namespace but not the drive: distinct over all drives, it tells both.
            if any(drive.nsid == nsid for drive in self.topology.drives):
                raise TopologyError(f"{where}: nsid {nsid} is used twice in the topology")
            drive = Drive(serial, nsid, namespace["image"])
            self.topology.drives.append(drive)
            shared = "on" if multipath else "off"
            self._emit("nvme-ns", f"drive={drive.file_name}", f"bus={serial}", f"nsid={nsid}", f"shared={shared}")

    def _nvme_path(self, node, bus, where):
        """One more controller for the namespaces of a drive that stands before it in the file."""
        _check_keys(node, {"type", "of"}, {"function"}, where)
        serial = node["of"]
        if serial not in self.multipath:
            raise TopologyError(f"{where}: no multipath drive '{serial}' stands before it")
        self.multipath[serial] += 1
        name = f"{serial}-{self.multipath[serial]}"
        self._emit("nvme", f"id={name}", f"serial={serial}", f"subsys={serial}-subsys", *self._address(node, bus, name))

    def _virtio_blk(self, node, bus, where):
        _check_keys(node, {"type", "serial", "image"}, {"function"}, where)
        drive = Drive(self._unique_serial(node["serial"], where), None, node["image"])
        self.topology.drives.append(drive)
        self._emit("virtio-blk-pci", f"drive={drive.file_name}", f"serial={drive.serial}", *self._address(node, bus, drive.serial))

    def _vram(self, node, bus, where):
        _check_keys(node, {"type", "name", "size"}, {"function", "stolen"}, where)
        if node["name"] in self.topology.places:
            raise TopologyError(f"{where}: name '{node['name']}' is used twice")
        vram = Vram(node["name"], node["size"], node.get("stolen", False))
        self.topology.vrams.append(vram)
        self._emit("ivshmem-plain", f"id={vram.name}", f"memdev=mem-{vram.name}", *self._address(node, bus, vram.name))

    def _device(self, node, bus, where):
        _check_keys(node, {"type", "qemu"}, {"function"}, where)
        self._emit(node["qemu"], *self._address(node, bus))

    def _unique_serial(self, serial, where):
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,19}", serial):
            raise TopologyError(f"{where}: serial '{serial}' is not 1 to 20 letters, digits, '-' and '_', a letter first")
        if serial in self.topology.places:
            raise TopologyError(f"{where}: serial '{serial}' is used twice")
        return serial
