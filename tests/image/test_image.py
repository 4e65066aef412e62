"""The image, without a container engine: the Dockerfile, and its binary on a root that has what the base has."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import zlib

import dockerfile_parse
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/helm"))
import live  # noqa: E402

USER = 65532
# What of shared objects gcr.io/distroless/cc-debian12 has: its packages libc6, libgcc-s1 and libstdc++6.
BASE_LIBRARIES = {
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6",
    "libpthread.so.0", "libresolv.so.2", "librt.so.1", "libstdc++.so.6",
}
BASE_GLIBC = (2, 36)


def dockerfile():
    """Its stages, each a list of instructions."""
    parser = dockerfile_parse.DockerfileParser(path=str(ROOT / "Dockerfile"), cache_content=True)
    stages = []
    for line in parser.structure:
        if line["instruction"] == "FROM":
            stages.append([])
        if stages and line["instruction"] != "COMMENT":
            stages[-1].append((line["instruction"], line["value"]))
    return stages


BUILD, LAST = dockerfile()


def every(stage, instruction):
    return [value for name, value in stage if name == instruction]


def the(stage, instruction):
    found = every(stage, instruction)
    assert len(found) == 1, f"{len(found)} of {instruction}"
    return found[0]


TOOL, COMMAND = every(BUILD, "RUN")
STAGE, MADE, PLACE = re.fullmatch(r"--from=(\S+) (\S+) (\S+)", the(LAST, "COPY")).groups()
ENTRY, DEFAULTS = json.loads(the(LAST, "ENTRYPOINT")), json.loads(the(LAST, "CMD"))


def ignored():
    """The lines of .dockerignore: nothing but what it names anew."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    first, *others = [line for line in lines if line and not line.startswith("#")]
    assert first == "*"
    assert all(line.startswith("!") for line in others)
    return [line[1:] for line in others]


@pytest.fixture(scope="session")
def context(tmp_path_factory):
    """What `COPY . .` would copy."""
    folder = tmp_path_factory.mktemp("context")
    for name in ignored():
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
    return folder


@pytest.fixture(scope="session")
def revision():
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="session")
def binary(context, revision):
    if "IMAGE_BUILD" not in os.environ:
        return live.BINARY
    tools = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "suki-relay-tests/image"
    subprocess.run(shlex.split(TOOL), env=os.environ | {"CARGO_INSTALL_ROOT": str(tools)}, check=True)
    made = {"SUKI_RELAY_REVISION": revision, "SOURCE_DATE_EPOCH": "0", "CARGO_TARGET_DIR": str(ROOT / "target")}
    made["PATH"] = f"{tools / 'bin'}:{os.environ['PATH']}"
    subprocess.run(shlex.split(COMMAND), cwd=context, env=os.environ | made, check=True)
    return ROOT / MADE.removeprefix(the(BUILD, "WORKDIR") + "/")


def test_the_last_stage_copies_what_the_first_one_makes():
    assert the(BUILD, "FROM").endswith(f" AS {STAGE}")
    assert the(BUILD, "COPY") == ". ."
    assert shlex.split(COMMAND)[:3] == ["cargo", "auditable", "build"]
    assert {"--release", "--locked"} <= set(shlex.split(COMMAND))
    assert MADE == the(BUILD, "WORKDIR") + "/target/release/suki-relay"
    assert the(BUILD, "ENV").startswith("SUKI_RELAY_REVISION=$REVISION ")


def test_the_compiler_is_the_oldest_that_cargo_toml_allows():
    wanted = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["rust-version"]
    assert the(BUILD, "FROM").startswith(f"rust:{wanted}-")


def test_it_runs_as_nobody_on_a_base_without_a_shell():
    assert re.fullmatch(r"\S+/distroless/cc-debian12:nonroot", the(LAST, "FROM"))
    assert the(LAST, "USER") == f"{USER}:{USER}"
    assert ENTRY == [PLACE]
    assert not [value for name, value in LAST if name in ("RUN", "SHELL", "ADD")]


def test_its_labels_are_those_of_cargo_toml():
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', the(LAST, "LABEL")))
    assert labels.keys() == {"title", "description", "licenses", "version", "revision"}
    assert (labels["title"], labels["version"]) == (package["name"], package["version"])
    assert (labels["licenses"], labels["revision"]) == (package["license"], "$REVISION")


def test_the_context_is_whole_and_no_more(context):
    """What the build reads: the manifests, what they name, and what the sources include."""
    seen = subprocess.run(
        ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version=1"],
        cwd=context, capture_output=True, text=True,
    )
    assert seen.returncode == 0, seen.stderr
    (package,) = json.loads(seen.stdout)["packages"]
    assert {"suki-relay", "suki_relay"} <= {target["name"] for target in package["targets"]}
    for source in context.glob("src/**/*.rs"):
        for included in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source.read_text()):
            assert (source.parent / included).resolve().is_relative_to(context)
            assert (source.parent / included).exists(), f"{source}: {included}"
    assert not {".git", "target", "tests", "helm"} & {path.name for path in context.iterdir()}


def readelf(flag, binary):
    done = subprocess.run(["readelf", flag, "--wide", str(binary)], capture_output=True, text=True, check=True)
    return done.stdout


def needed(binary):
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", readelf("--dynamic", binary)))


def test_it_needs_no_library_that_the_base_lacks(binary):
    assert "libc.so.6" in needed(binary)
    assert needed(binary) <= BASE_LIBRARIES
    versions = re.findall(r"\bGLIBC_(\d+)\.(\d+)", readelf("--version-info", binary))
    assert versions
    assert max(tuple(map(int, version)) for version in versions) <= BASE_GLIBC


def listed(binary, folder):
    """The crates that a binary says it is made of."""
    section = folder / "dep-v0"
    subprocess.run(["objcopy", "--dump-section", f".dep-v0={section}", str(binary), "/dev/null"], check=True)
    packages = json.loads(zlib.decompress(section.read_bytes()))["packages"]
    return {(it["name"], it["version"]) for it in packages if it.get("kind", "runtime") == "runtime"}


@pytest.mark.skipif("IMAGE_BUILD" not in os.environ, reason="only what the Dockerfile's command makes has a list")
def test_it_carries_the_list_of_its_crates(binary, tmp_path):
    tree = ["cargo", "tree", "--locked", "--offline", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"]
    seen = subprocess.run(tree, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    crates = {tuple(line.replace(" v", " ").split()[:2]) for line in seen.splitlines() if line}
    assert len(crates) > 100
    # It may list more: those that only a test's choice of features would bring.
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    assert crates <= listed(binary, tmp_path) <= {(it["name"], it["version"]) for it in locked}


CONFIG = """
listen: {{ address: 127.0.0.1:{https}, tls: {{ self_signed: [localhost] }} }}
admin: {{ address: 127.0.0.1:{admin}, operator: null }}
drain: {{ delay: 100ms, deadline: 10s }}
sources:
  - {{ name: suki, path: /webhooks/notification, secrets: [{{ name: current, file: ../secrets/current }}] }}
targets:
  - {{ name: app, http: {{ url: "http://localhost:{sink}/" }} }}
routes:
  - {{ name: everything, to: [app] }}
"""


def root_of_the_image(folder, binary):
    """The binary, the libraries that it needs, what a container engine adds; and nothing else."""
    for name in ["proc", "etc/suki-relay/config", "etc/suki-relay/secrets", "var/lib/suki-relay"]:
        (folder / name).mkdir(parents=True)
    files = {PLACE: str(binary)}
    for line in subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout.splitlines():
        if path := re.search(r"(/\S+) \(0x", line):
            files[path[1]] = os.path.realpath(path[1])
    for inside, outside in files.items():
        place = folder / inside.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(outside, place)
        place.chmod(0o755)
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n")
    return folder


CONTAINED = """
set -e
mount --bind "$1" "$1"
mount --bind "$2" "$1/var/lib/suki-relay"
mount --rbind /proc "$1/proc"
mount -o remount,bind,ro "$1"
root=$1; shift 2
exec env -i /usr/bin/setpriv --no-new-privs /usr/sbin/chroot --userspec=65532:65532 --groups=65532 "$root" "$@"
"""


@contextlib.contextmanager
def contained(root, spool):
    """The entry point with the default arguments, in a mount namespace of its own."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", CONTAINED, "sh", root, spool]
    log = (root.parent / "log").open("w")
    with live.started(*command, *ENTRY, *DEFAULTS, stdout=log, stderr=log) as process:
        yield process


def status(process):
    lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {name: value.split() for name, value in (line.split(":", 1) for line in lines)}


def test_it_relays_as_a_container_would_run_it(binary, tmp_path, revision):
    tmp_path.parent.chmod(0o755)
    root, spool = root_of_the_image(tmp_path / "root", binary), tmp_path / "spool"
    spool.mkdir()
    os.chown(spool, USER, USER)
    https, admin, sink = live.free_ports(3)
    (root / "etc/suki-relay/config/config.yaml").write_text(CONFIG.format(https=https, admin=admin, sink=sink))
    (root / "etc/suki-relay/secrets/current").write_text(live.SECRET)
    shutil.copy(root / "etc/suki-relay/secrets/current", tmp_path / "secret")
    with live.started(live.BINARY, "sink", "--http", f"127.0.0.1:{sink}"), contained(root, spool) as process:
        def ready():
            assert process.poll() is None, (tmp_path / "log").read_text()
            return live.get(f"http://127.0.0.1:{admin}/readyz")[0] == 200
        live.eventually("it is ready", ready)

        now = status(process)
        assert set(now["Uid"]) == set(now["Gid"]) == {str(USER)}
        assert now["NoNewPrivs"] == ["1"]
        assert int(now["CapEff"][0], 16) == int(now["CapPrm"][0], 16) == 0
        assert pathlib.Path(f"/proc/{process.pid}/environ").read_bytes() == b""
        assert os.path.realpath(f"/proc/{process.pid}/root") == str(root)
        mounts = pathlib.Path(f"/proc/{process.pid}/mountinfo").read_text()
        assert re.search(rf" {re.escape(str(root))} ro,| / ro,", mounts), mounts

        relay = live.Relay(tmp_path, https, admin)
        sent = relay.send("--example", "form-filling-success")
        assert sent.returncode == 0, sent.stdout + sent.stderr
        delivered = 'suki_relay_deliveries_total{result="delivered",target="app"} 1'
        live.eventually("it is delivered", lambda: delivered in relay.metrics())
        if "IMAGE_BUILD" in os.environ:
            assert f'revision="{revision}"' in relay.metrics()

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, (tmp_path / "log").read_text()
    assert (spool / "spool.db").stat().st_uid == USER
