"""The bill of materials, CycloneDX 1.5, of what Cargo.lock names: `tests/supply/sbom.py > sbom.cdx.json`.

With `--check`, also judges it: by the format's own schema, and against Cargo.lock, read without cargo.
"""

import json
import subprocess
import sys
import tomllib

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def locked():
    with open("Cargo.lock", "rb") as file:
        return tomllib.load(file)["package"]


def metadata():
    command = ["cargo", "metadata", "--locked", "--offline", "--format-version", "1"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def component(package, checksum):
    name, version = package["name"], package["version"]
    purl = f"pkg:cargo/{name}@{version}"
    shown = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if package["license"]:
        # Cargo's older form of OR.
        shown["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if checksum:
        shown["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return shown


def bill():
    found = metadata()
    sums = {(p["name"], p["version"]): p.get("checksum") for p in locked()}
    of = {}
    for package in found["packages"]:
        of[package["id"]] = component(package, sums[package["name"], package["version"]])
    root = of[found["resolve"]["root"]]
    root["type"] = "application"
    dependencies = [
        {"ref": of[node["id"]]["bom-ref"], "dependsOn": sorted(of[d]["bom-ref"] for d in node["dependencies"])}
        for node in found["resolve"]["nodes"]
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": root},
        "components": sorted((c for c in of.values() if c is not root), key=lambda c: c["bom-ref"]),
        "dependencies": sorted(dependencies, key=lambda d: d["ref"]),
    }


def check(made):
    error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(json.dumps(made))
    if error:
        sys.exit(f"the bill is no CycloneDX 1.5: {error}")
    listed = made["components"] + [made["metadata"]["component"]]
    told = sorted((c["name"], c["version"], c.get("hashes", [{}])[0].get("content")) for c in listed)
    wanted = sorted((p["name"], p["version"], p.get("checksum")) for p in locked())
    if told != wanted or len(told) < 100:
        sys.exit(f"the bill is not what Cargo.lock has: {set(told) ^ set(wanted)}")
    unlicensed = [c["name"] for c in listed if "licenses" not in c]
    print(f"{len(told)} packages; without a licence expression: {unlicensed or 'none'}", file=sys.stderr)


made = bill()
if sys.argv[1:] == ["--check"]:
    check(made)
else:
    json.dump(made, sys.stdout, indent=1)
