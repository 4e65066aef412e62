"""Makes tests/supply/advisories anew of a clone of RustSec's database: `tests/python tests/supply/advisories.py CLONE`."""

import json
import pathlib
import shutil
import subprocess
import sys
import tomllib

LOCKS = ["Cargo.lock", "fuzz/Cargo.lock", "proto/examples/rust/Cargo.lock"]
FACTS = ["id", "package", "date", "informational", "withdrawn", "url", "aliases"]


def locked():
    packages = [p for lock in LOCKS for p in tomllib.loads(pathlib.Path(lock).read_text())["package"]]
    return sorted({p["name"] for p in packages if "source" in p})


def facts(text):
    """No word of the advisory's own. JSON's strings and lists are TOML's too, and cargo-deny reads no list of many lines."""
    found = tomllib.loads(text.split("```toml\n", 1)[1].split("\n```", 1)[0])
    advisory, versions = found["advisory"], found.get("versions", {})
    lines = ["```toml", "[advisory]"]
    lines += [f"{key} = {json.dumps(advisory[key])}" for key in FACTS if advisory.get(key)]
    lines += ["", "[versions]"]
    lines += [f"{key} = {json.dumps(versions.get(key, []))}" for key in ["patched", "unaffected"]]
    lines += ["```", "", f"# {advisory['package']}: see the advisory", ""]
    lines += [f"https://rustsec.org/advisories/{advisory['id']}.html", ""]
    return "\n".join(lines)


def main(clone, copy):
    shutil.rmtree(copy / "crates", ignore_errors=True)
    names = locked()
    for name in names:
        for advisory in sorted((clone / "crates" / name).glob("RUSTSEC-*.md")):
            made = copy / "crates" / name / advisory.name
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_text(facts(advisory.read_text()))
    (copy / "asked").write_text("".join(f"{name}\n" for name in names))
    date = subprocess.check_output(["git", "-C", clone, "log", "-1", "--format=%cs"], text=True).strip()
    newest = max(file.stem for file in clone.glob("crates/*/RUSTSEC-*.md"))
    (copy / "date").write_text(f"{date}, up to {newest}\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path("tests/supply/advisories"))
