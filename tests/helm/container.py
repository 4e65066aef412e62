"""Becomes a container: takes its spec from a file, makes its root, drops what it must not have, and executes.

Started by kubelet.py in the network of a pod, in mounts of its own and as the first process of its PID namespace. In
place of an image's layers it takes what the image's last stage has: the relay, and the C library of this machine.
"""

import ctypes
import json
import os
import pathlib
import sys

libc = ctypes.CDLL(None, use_errno=True)
RDONLY, REMOUNT, BIND, REC = 1, 32, 4096, 16384
SET_NO_NEW_PRIVS, CAPBSET_DROP = 38, 24


def check(result, what):
    if result != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source, at, kind=None, flags=0, options=None):
    encode = lambda text: None if text is None else str(text).encode()
    check(libc.mount(encode(source), encode(at), encode(kind), flags, encode(options)), f"mounting {at}")


def bind(source, at, read_only):
    at.mkdir(parents=True, exist_ok=True) if pathlib.Path(source).is_dir() else touch(at)
    mount(source, at, flags=BIND | REC)
    if read_only:
        mount(None, at, flags=BIND | REMOUNT | RDONLY)


def touch(at):
    at.parent.mkdir(parents=True, exist_ok=True)
    at.touch()


def make_root(root, spec):
    mount("tmpfs", root, "tmpfs", options="mode=0755")
    for folder in ("/usr/lib", "/usr/lib64"):
        if pathlib.Path(folder).is_dir():
            bind(folder, root / folder[1:], True)
            (root / pathlib.Path(folder).name).symlink_to(folder[1:])
    bind(spec["binary"], root / "usr/local/bin/suki-relay", True)
    bind(spec["hosts"], root / "etc/hosts", True)
    (root / "etc/nsswitch.conf").write_text("hosts: files\n")
    (root / "proc").mkdir()
    mount("proc", root / "proc", "proc")
    for device in ("null", "urandom"):
        bind(f"/dev/{device}", root / "dev" / device, False)
    for entry in spec["mounts"]:
        bind(entry["source"], root / entry["path"][1:], entry["read_only"])
    if spec["read_only"]:
        mount(None, root, flags=REMOUNT | RDONLY, options="mode=0755")


def drop(spec):
    if spec["no_capabilities"]:
        last = int(pathlib.Path("/proc/sys/kernel/cap_last_cap").read_text())
        for capability in range(last + 1):
            check(libc.prctl(CAPBSET_DROP, capability, 0, 0, 0), "dropping capabilities")
    os.setgroups(spec["groups"])
    os.setresgid(*[spec["group"]] * 3)
    os.setresuid(*[spec["user"]] * 3)
    if spec["no_new_privileges"]:
        check(libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")


def main():
    spec = json.loads(pathlib.Path(sys.argv[1]).read_text())
    root = pathlib.Path(spec["root"])
    make_root(root, spec)
    os.chroot(root)
    os.chdir("/")
    drop(spec)
    os.execve(spec["command"][0], spec["command"], spec["environment"])


main()
